#ifndef QUANTD_CORE_SCHEME_PARAMS_H_
#define QUANTD_CORE_SCHEME_PARAMS_H_

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>

#include "absl/status/statusor.h"
#include "core/scheme/scheme.h"

// The parameters of a segment, as kernels want them: one for each run of kMinRunElems and more that
// shares them, or for each element where runs are shorter (columns, group=3), and all run by run
// where the tensor has one group. A run that recurs in every row counts each time.
//
//   [3, 40] with group=16, elements 10 to 70:  runs of 6 16 8 | 16 14   parameters 0 1 2 | 3 4
//   [3, 3] with axis=-1, elements 1 to 6:      an element each         parameters 1 2 | 0 1 2

namespace quantd {

// The most runs of a tile: rows of a run of 16 and one of 1.
inline constexpr int64_t kMaxRuns = 2 * kTileElems / (kMinRunElems + 1) + 2;

// Where the parameters of the elements of a segment lie.
class ParamMap {
 public:
  // Of elements [first_elem, + num_elems), at most kTileElems.
  ParamMap(const GroupMap& groups, int64_t first_elem, int64_t num_elems)
      : groups_(groups), first_elem_(first_elem), num_elems_(num_elems) {}

  // True where there is a parameter for each element, not for each run.
  bool per_elem() const { return groups_.num_groups > 1 && groups_.run_elems < kMinRunElems; }
  // Writes one past the last element of each run, counted from first_elem; returns how many.
  int64_t RunEnds(int32_t* ends) const;

  // Calls read(group, count, out) to have the parameters of groups next to each other written,
  // until those of all runs, or elements, are in `out`.
  template <typename T, typename Read>
  void ReadAll(T* out, Read read) const;
  // Returns the first group if the parameters are those of groups next to each other, once each.
  std::optional<int64_t> GroupsInPlace() const;

 private:
  // A part of a row. All runs but the first and the last are whole.
  struct RowPart {
    int64_t group;       // of the first element
    int64_t num_groups;  // one after the other
    int64_t begin;       // of the segment's elements
    int64_t num_elems;
    int64_t first_run_elems;  // what is left of the first run
  };
  // Calls fn(part) for the parts of rows that the elements lie in.
  template <typename Fn>
  void ForEachRowPart(Fn fn) const;

  const GroupMap& groups_;
  const int64_t first_elem_, num_elems_;
};

// Returns `scale` rounded once to `type` and clamped to its range, of f16 with subnormals, of others
// without; 1 for 0.
double RoundScale(double scale, ScaleType type);

// Returns the scale of `type`, not kNested8, nearest to one that is given, the upper one of two.
// kInvalidArgument: it is outside of RoundScale's range.
absl::StatusOr<double> NearestScale(double scale, ScaleType type);

// Returns the type of a plane of scales; of kDyadic16 that of the multipliers.
DType ScaleDType(ScaleType type);

// A scale multiplier * 2^-shift, the multiplier of 2^14 to 2^15 - 1, the shift of -113 to 127: a
// step count of 17 bits times the multiplier fits 32 bits.
struct Dyadic16 {
  int16_t multiplier;
  int8_t shift;
};
// Returns the parts of a scale that RoundScale gave for kDyadic16.
Dyadic16 Dyadic16Of(double scale);

// Writes `scale`, which RoundScale gave, as entry `i` of a plane.
void StoreScale(DType dtype, double scale, std::byte* plane, size_t i);

// Returns the scales of `plane`, f32, f16 or bf16, of the runs, or elements, of a segment: at any
// alignment, in place where they lie so, else in `scratch`.
[[nodiscard]] const float* ReadScales(const PlaneDesc& plane, std::span<const std::byte> bytes,
                                      int64_t first_group, const ParamMap& map, float* scratch);

// The same of kDyadic16's planes, int16 and int8; a product that f32 does not hold is infinite.
[[nodiscard]] const float* ReadDyadicScales(std::span<const std::byte> multipliers,
                                            std::span<const std::byte> shifts, int64_t first_group,
                                            const ParamMap& map, float* scratch);

// Reads the zero points of `plane`, int8, uint8, int16 or uint16.
void ReadZeroPoints(const PlaneDesc& plane, std::span<const std::byte> bytes, int64_t first_group,
                    const ParamMap& map, int32_t* zero_points);

// ---- Implementation ----

template <typename Fn>
void ParamMap::ForEachRowPart(Fn fn) const {
  if (groups_.num_groups <= 1) {
    if (num_elems_ > 0) fn(RowPart{0, 1, 0, num_elems_, num_elems_});
    return;
  }
  int64_t row = first_elem_ / groups_.row_elems;
  int64_t column = first_elem_ - row * groups_.row_elems;
  for (int64_t begin = 0; begin < num_elems_; ++row, column = 0) {
    const int64_t count = std::min(groups_.row_elems - column, num_elems_ - begin);
    const int64_t run = column / groups_.run_elems;
    const int64_t first_run_elems = std::min((run + 1) * groups_.run_elems - column, count);
    const int64_t num_groups = 1 + CeilDiv(count - first_run_elems, groups_.run_elems);
    fn(RowPart{groups_.RowGroup(row) + run, num_groups, begin, count, first_run_elems});
    begin += count;
  }
}

template <typename T, typename Read>
void ParamMap::ReadAll(T* out, Read read) const {
  const bool spread = per_elem() && groups_.run_elems > 1;
  ForEachRowPart([&](const RowPart& part) {
    if (!spread) {
      read(part.group, part.num_groups, out);
      out += part.num_groups;
      return;
    }
    T params[kTileElems];
    read(part.group, part.num_groups, params);
    int64_t end = part.begin + part.first_run_elems;
    for (int64_t i = part.begin, run = 0; i < part.begin + part.num_elems; ++run) {
      for (; i < end; ++i) out[i] = params[run];
      end = std::min(end + groups_.run_elems, part.begin + part.num_elems);
    }
  });
}

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_PARAMS_H_
