#ifndef QUANTD_CORE_SESSION_GROUP_SKETCHES_H_
#define QUANTD_CORE_SESSION_GROUP_SKETCHES_H_

#include <array>
#include <cstdint>
#include <vector>

#include "core/base/mutex.h"
#include "core/session/stripes.h"
#include "core/session/tiles.h"
#include "core/stats/sketch.h"

namespace quantd {

// Sketches of groups that recur in every batch: columns, middle axes. Thread-safe.
class GroupSketches {
 public:
  // `groups`, a map whose batches share their groups, outlives this.
  explicit GroupSketches(const GroupMap& groups);

  // Takes the values of a stripe, which `reader` has. Any thread, at the same time.
  template <typename T>
  void Add(const Stripe& stripe, TileReader<T>& reader);

  // When all have been taken: the sketches, in group order.
  std::vector<Sketch> Take() { return std::move(sketches_); }

  static int64_t ResidentBytes(int64_t num_groups);

 private:
  static constexpr int64_t kBlockGroups = 64;
  static constexpr size_t kLocks = 64;

  const GroupMap& groups_;
  std::vector<Sketch> sketches_;
  std::array<Mutex, kLocks> locks_;  // of blocks of kBlockGroups, round and round
};

// Copies values as f32, in whose range finite ones stay.
void NarrowToF32(const float* values, int64_t num_elems, float* out);
void NarrowToF32(const double* values, int64_t num_elems, float* out);

}  // namespace quantd

#endif  // QUANTD_CORE_SESSION_GROUP_SKETCHES_H_
