#ifndef QUANTD_CORE_STATS_SKETCH_H_
#define QUANTD_CORE_STATS_SKETCH_H_

#include <array>
#include <bit>
#include <cstdint>

namespace quantd {

// Counts of the finite f32 values of one group among many, in 4,160 bytes: by sign, exponent and 4
// bits of mantissa, in the 32 octaves below the largest magnitude; values below them count as 0. So
// a bucket's midpoint is within 2^-5 of each of its values, and 0 within 2^-31 of the largest
// magnitude (of subnormal values, within 2^-130).
//
// Counts are whole numbers, and which bucket a value is in follows from it and the largest
// magnitude of all: merging is exact, in any order and however values are shared out.
// Thread-compatible.
class alignas(64) Sketch {
 public:
  static constexpr int kMantissaBits = 4;
  static constexpr uint32_t kWindow = 32 << kMantissaBits;  // buckets of either sign
  static constexpr uint32_t kNumBuckets = 2 * kWindow + 1;
  static constexpr int64_t kMaxCount = 0xFFFFFFFF;  // of values

  // Takes one more value, which is left out if it is not finite. There are less than kMaxCount.
  void Add(float value) {
    const auto bits = std::bit_cast<uint32_t>(value);
    const uint32_t bucket = (bits & 0x7FFFFFFF) >> kShift;
    if (bucket >= kFirstInfinite) return;
    if (bucket > top_) Raise(bucket);
    if (IsSmall(bucket)) {
      ++small_;
    } else {
      ++counts_[PlaceOf(bits >> 31 != 0, bucket)];
    }
  }
  // Takes the values of `other` in; together they are at most kMaxCount.
  void Merge(const Sketch& other);

  // Returns how many values there are.
  int64_t Count() const;
  // The bucket of the largest magnitude, by the upper bits of f32 without the sign; 0: all count
  // as 0.
  uint32_t top() const { return top_; }
  // How many values count as 0.
  int64_t num_small() const { return small_; }
  // How many values are in bucket `bucket`, one of the kWindow up to the top.
  int64_t CountOf(bool negative, uint32_t bucket) const {
    return counts_[PlaceOf(negative, bucket)];
  }

  bool operator==(const Sketch&) const = default;

 private:
  static constexpr int kShift = 23 - kMantissaBits;
  static constexpr uint32_t kFirstInfinite = 0x7F800000 >> kShift;

  static uint32_t PlaceOf(bool negative, uint32_t bucket) {
    return (negative ? kWindow : 0) + bucket % kWindow;
  }
  bool IsSmall(uint32_t bucket) const { return bucket == 0 || bucket + kWindow <= top_; }
  // Moves the top up.
  void Raise(uint32_t top);

  std::array<uint32_t, 2 * kWindow> counts_ = {};  // round and round: a bucket modulo kWindow
  uint32_t small_ = 0;
  uint32_t top_ = 0;
};
static_assert(sizeof(Sketch) == 4160);

}  // namespace quantd

#endif  // QUANTD_CORE_STATS_SKETCH_H_
