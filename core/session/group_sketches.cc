// Threads share the sketches, of which thousands would be too many for each to have its own: counts
// are the same in any order. A stripe goes from block to block of groups, all batches of one while
// its sketches are in the cache, under the block's lock; stripes begin with different blocks.
//
//   columns   |block 0|block 1|block 2|  a row        middle axes   |run|run|run|run|  a batch
//             |   |   |   |   |   |   |               of two batches|run|run|run|run|
//             0 down, then 1, then 2
//
// Entry: GroupSketches::Add. Tested by tests/core/session/column_ranges_test.cc.
#include "core/session/group_sketches.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/base/checked_math.h"

namespace quantd {

void NarrowToF32(const float* values, int64_t num_elems, float* out) {
  std::memcpy(out, values, static_cast<size_t>(num_elems) * sizeof(float));
}

void NarrowToF32(const double* values, int64_t num_elems, float* out) {
  using Limits = std::numeric_limits<float>;
  for (int64_t i = 0; i < num_elems; ++i) {
    const double value = LoadAt(values, i);
    out[i] = static_cast<float>(value);
    if (std::isfinite(value)) out[i] = std::clamp(out[i], Limits::lowest(), Limits::max());
  }
}

GroupSketches::GroupSketches(const GroupMap& groups)
    : groups_(groups), sketches_(static_cast<size_t>(groups.num_groups)) {}

template <typename T>
void GroupSketches::Add(const Stripe& stripe, TileReader<T>& reader) {
  const int64_t batch_elems = groups_.batch_rows * groups_.row_elems;
  const int64_t run_elems = batch_elems / groups_.num_groups;
  const int64_t block_elems = kBlockGroups * run_elems;
  const int64_t num_blocks = CeilDiv(groups_.num_groups, kBlockGroups);
  const int64_t first_batch = stripe.begin / batch_elems * batch_elems;
  for (int64_t i = 0; i < num_blocks; ++i) {
    const int64_t block = (stripe.index + i) % num_blocks;
    Mutex& lock = locks_[static_cast<size_t>(block) % kLocks];
    const int64_t block_begin = block * block_elems;
    const int64_t block_end = std::min(block_begin + block_elems, batch_elems);
    for (int64_t batch = first_batch; batch < stripe.end; batch += batch_elems) {
      const int64_t part_end = std::min(batch + block_end, stripe.end);
      for (int64_t begin = std::max(batch + block_begin, stripe.begin); begin < part_end;) {
        const int64_t end = std::min(begin + kTileElems, part_end);
        float values[kTileElems];
        NarrowToF32(reader.Read(begin, end), end - begin, values);
        MutexLock held(&lock);
        const float* value = values;
        int64_t group = (begin - batch) / run_elems;
        for (int64_t at = begin; at < end; ++group) {
          const int64_t run_end = std::min(batch + (group + 1) * run_elems, end);
          Sketch& sketch = sketches_[static_cast<size_t>(group)];
          for (; at < run_end; ++at) sketch.Add(*value++);
        }
        begin = end;
      }
    }
  }
}

template void GroupSketches::Add<float>(const Stripe&, TileReader<float>&);
template void GroupSketches::Add<double>(const Stripe&, TileReader<double>&);

int64_t GroupSketches::ResidentBytes(int64_t num_groups) {
  return SaturatingAdd(SaturatingMul(num_groups, sizeof(Sketch)), sizeof(GroupSketches));
}

}  // namespace quantd
