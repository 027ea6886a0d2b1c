#ifndef QUANTD_CORE_SESSION_PARAM_BUFFER_H_
#define QUANTD_CORE_SESSION_PARAM_BUFFER_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/scheme/scheme.h"
#include "core/session/stripes.h"

namespace quantd {

// Parameters of some groups next to each other, and the memory that they lie in.
class ParamBuffer {
 public:
  // Makes room for the kPerGroup planes and the working parameters of `groups`.
  void Reset(const PackedLayout& layout, GroupSpan groups);
  // The same, for writing those of groups from `first_group` on; constants are `constants`.
  ParamPlanes PlanesFrom(const PackedLayout& layout, const ParamPlanes& constants,
                         int64_t first_group);
  GroupSpan groups() const { return groups_; }
  // Returns the bytes of kPerGroup plane `plane`.
  std::span<const std::byte> plane(size_t plane) const { return planes_[plane]; }

 private:
  GroupSpan groups_;
  std::array<std::vector<std::byte>, kMaxPlanes> planes_;
  std::vector<std::byte> working_;
};

}  // namespace quantd

#endif  // QUANTD_CORE_SESSION_PARAM_BUFFER_H_
