// What buckets a group needs, its largest magnitude tells: a window of 32 octaves goes with it. When
// the top rises, the lowest buckets leave the window, at the places that the new ones take, and
// count as 0:
//
//   largest 1   buckets 0x5F1 (2^-32 * 17/16) .. 0x7F0        then 2   0x601 .. 0x800
//
// A value ends up as 0 if and only if it is 512 buckets or more below the largest of all, whenever
// it comes: what has left the window of some values is outside that of more. 3.3 beside 10^6, as a
// percentile is to find it, is still counted within 2^-5; beside 10^11 it is 0.
//
// A histogram (histogram.h) has 65,536 buckets, 512 KiB, which thousands of columns cannot have.
//
// Entry: Sketch. Tested by tests/core/stats/sketch_test.cc.
#include "core/stats/sketch.h"

#include <algorithm>

namespace quantd {

void Sketch::Raise(uint32_t top) {
  const uint32_t steps = top_ == 0 ? 0 : std::min(top - top_, kWindow);  // 0: there are no counts
  for (uint32_t bucket = top - steps + 1; bucket <= top; ++bucket) {
    for (const bool negative : {false, true}) {
      uint32_t& left = counts_[PlaceOf(negative, bucket)];
      small_ += left;
      left = 0;
    }
  }
  top_ = top;
}

void Sketch::Merge(const Sketch& other) {
  if (other.top_ > top_) Raise(other.top_);
  small_ += other.small_;
  const uint32_t floor = other.top_ > kWindow ? other.top_ - kWindow : 0;
  for (uint32_t bucket = floor + 1; bucket <= other.top_; ++bucket) {
    for (const bool negative : {false, true}) {
      const uint32_t place = PlaceOf(negative, bucket);
      (IsSmall(bucket) ? small_ : counts_[place]) += other.counts_[place];
    }
  }
}

int64_t Sketch::Count() const {
  int64_t count = small_;
  for (const uint32_t n : counts_) count += n;
  return count;
}

}  // namespace quantd
