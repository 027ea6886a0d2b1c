#ifndef QUANTD_CORE_SESSION_VALUE_RANGES_H_
#define QUANTD_CORE_SESSION_VALUE_RANGES_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/calibrate/calibrator.h"
#include "core/calibrate/clip_search.h"
#include "core/session/param_buffer.h"
#include "core/session/planner.h"
#include "core/session/tile_coder.h"
#include "core/session/tiles.h"
#include "core/stats/counted_values.h"

// Ranges that take more than extremes and moments: percentiles and their like; and parameters that
// schemes make of values themselves. Where they come from follows from the layout alone:
//
//   one group has all values   from counts of them (Histogram), which merge in any order
//   groups that do not recur   from the values themselves, which a stripe or a held band has
//   groups that recur          from counts of the values of each (Sketch), which merge likewise
//
// Beforehand ranges are bounds, those of minmax.

namespace quantd {

// Returns the range of the tensor's one group, of `stats`, whose values `counts` counts. Takes
// kCountedBytes of memory at most.
Range RangeOfCounts(const Plan& plan, const ChosenCalibrator& calibrator, const GroupStats& stats,
                    const Histogram& counts);
inline constexpr int64_t kCountedBytes = Histogram::kNumBuckets * 4 * int64_t{sizeof(double)};
// The same of a group that recurs. Takes kSketchedBytes.
Range RangeOfCounts(const Plan& plan, const ChosenCalibrator& calibrator, const GroupStats& stats,
                    const Sketch& counts);
inline constexpr int64_t kSketchedBytes = int64_t{256} << 10;

// Where in a stripe, and its tiles, elements begin whose groups' ranges are wanted. From a stripe's
// end on, a band's stripes follow each other.
struct PlaceInStripe {
  int64_t tile_begin = 0, stripe_end = 0;
};

// Finds ranges of groups from their values. Not thread-safe.
template <typename T>
class ValueRanges {
 public:
  // Both outlive this.
  ValueRanges(const Plan& plan, const ChosenCalibrator& calibrator);

  // Narrows `ranges`, which are bounds of the groups of elements [from, to), whole bands, in group
  // order. `reader` has these elements, which begin at `place`; `own`, which has room for the
  // groups and is left with any parameters, beside `constants`, is what ranges are tried out with.
  void Narrow(int64_t from, int64_t to, const PlaceInStripe& place, TileReader<T>& reader,
              const ParamPlanes& constants, ParamBuffer& own, std::span<Range> ranges);

  // Has the scheme make the parameters of the groups of elements [from, to), whole bands, from
  // their values, which `reader` has, into `own`.
  void Resolve(int64_t from, int64_t to, TileReader<T>& reader, const ParamPlanes& constants,
               ParamBuffer& own);

  // Returns the most memory that this takes for bands of `num_elems` together.
  static int64_t ResidentBytes(const PackedLayout& layout, int64_t num_elems);

 private:
  // Calls fn(i, gather) for the groups of elements [from, to), in order, i from 0; gather() puts
  // the values of the group into `values_`.
  template <typename Fn>
  void ForEachGroup(int64_t from, int64_t to, TileReader<T>& reader, Fn fn);
  // Hands the values of each group to the calibrator.
  void Select(int64_t from, int64_t to, TileReader<T>& reader, std::span<Range> ranges);
  // Tries out ranges on all groups at once.
  void Search(int64_t from, int64_t to, const PlaceInStripe& place, TileReader<T>& reader,
              const ParamPlanes& constants, ParamBuffer& own, std::span<Range> ranges);
  // The same of elements [from, to) of one tile, whose groups are runs that can be encoded alone.
  void SearchRuns(const T* values, int64_t from, int64_t to, const ParamPlanes& params,
                  int64_t first_group, std::span<Range> ranges);
  // Adds the squared errors of elements [begin, end) to those of their groups.
  void Try(const T* values, int64_t begin, int64_t end, const ParamView& params,
           int64_t first_group);
  // Appends the finite ones of elements [begin, end) to `values_`.
  void Gather(int64_t begin, int64_t end, TileReader<T>& reader);

  const Scheme& scheme_;
  const PackedLayout& layout_;
  const ChosenCalibrator& calibrator_;
  const std::optional<Resolved> half_even_;  // where noise would round
  const Resolved& resolved_;                 // that or the plan's
  RangeWish wish_;
  std::vector<T> values_;  // of one group, or of a tile
  TileCoder<T> coder_;
  std::vector<ClipSearch> searches_;  // by group, like the following
  std::vector<double> errors_;
  std::vector<size_t> open_;  // those that are not done
  std::vector<std::byte> codes_;  // of a tile
};

}  // namespace quantd

#endif  // QUANTD_CORE_SESSION_VALUE_RANGES_H_
