#ifndef QUANTD_TESTS_SUPPORT_PARAMS_H_
#define QUANTD_TESTS_SUPPORT_PARAMS_H_

#include <array>
#include <cstddef>
#include <span>
#include <vector>

#include "core/session/planner.h"

namespace quantd::testing {

// Writes the parameters of all groups of a tensor whose layout is from_values, from their values,
// by the scheme's own function.
void ResolveFromValues(const Plan& plan, std::span<const double> values, const ParamPlanes& out);

// The parameters of all groups of a tensor, found by the scheme's own functions from evidence that
// plain loops gather: what sessions should find.
class FoundParams {
 public:
  // From the ranges of the groups, and of the tensor.
  FoundParams(const Plan& plan, std::span<const Range> groups, const Range& tensor,
              const Histogram* histogram = nullptr);
  // From the finite ones of all values, which are those of the tensor; minmax or absmean.
  FoundParams(const Plan& plan, std::span<const double> values);

  // Valid as long as this is.
  ParamView view() const { return planes_; }
  std::span<const std::byte> plane(size_t plane) const { return memory_[plane]; }

 private:
  void Resolve(const Plan& plan, std::span<const Range> groups, const Range& tensor,
               const Histogram* histogram, std::span<const double> values = {});

  std::array<std::vector<std::byte>, kMaxPlanes> memory_;
  std::vector<std::byte> working_;
  ParamPlanes planes_;
};

}  // namespace quantd::testing

#endif  // QUANTD_TESTS_SUPPORT_PARAMS_H_
