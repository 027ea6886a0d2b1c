// Groups come one after the other; the values of one are gathered, those that are not finite left
// out, and handed to the calibrator, which may sort them:
//
//   group=N, rows    a run each                  block=RxC    R runs, a row of elements apart
//
// Where ranges are tried out, all groups at hand are tried at once, tile by tile, with the
// parameters, codes and decoded values that the scheme has for them; squares are summed by run:
//
//   trial -> ranges -> resolve -> | encode, decode, errors | of each tile -> ClipSearch::Take
//
// A group takes 3 to 12 trials, and of many some take the most: within a tile those that are done
// go out, and the others move together, so that a trial is one call.
//
// Entries: RangeOfCounts, ValueRanges::Narrow and ValueRanges::Resolve. Tested by
// tests/core/session/value_ranges_test.cc, group_values_test.cc and same_bytes_test.cc.
#include "core/session/value_ranges.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "core/base/checked_math.h"
#include "core/base/float_env.h"
#include "core/simd/squared_errors.h"

namespace quantd {
namespace {

RangeWish WishOf(const Plan& plan, const ChosenCalibrator& calibrator) {
  const Resolved& resolved = plan.resolved;
  // Schemes without modes have absmax scales, but for those of unsigned codes, which go from min.
  const bool symmetric = resolved.spec.mode.has_value()
                             ? *resolved.spec.mode != Mode::kAsymmetric
                             : resolved.info->is_signed;
  return {.argument = calibrator.argument, .symmetric = symmetric, .bounds = {}};
}

// Where rounding is by noise, returns what ranges are tried out with instead, half_even; else
// nothing.
std::optional<Resolved> WithoutNoise(const Resolved& resolved) {
  if (resolved.spec.rounding != Rounding::kStochastic) return std::nullopt;
  std::optional<Resolved> half_even = resolved;
  half_even->spec.rounding = Rounding::kHalfEven;
  return half_even;
}

// Returns how many elements of the group's tensor are tried at once, for `num_points`.
int64_t ChunkOf(const Resolved& resolved, int64_t num_points) {
  const PackedLayout& layout = resolved.layout;
  const int64_t num_elems = resolved.tensor.shape.num_elems();
  const int64_t most = num_elems <= kTileElems ? num_elems : AtomFloor(layout, kTileElems);
  return std::min(most, RoundUp(num_points, layout.atom_elems));
}

// Tries out ranges of one group, on what its values are counted as, which are taken for its first
// elements.
template <typename T>
class CountedPoints {
 public:
  CountedPoints(const Scheme& scheme, const Resolved& resolved, const Range& bounds,
                std::span<const CountedValue> counts);
  // Returns the sum of squared errors with a range.
  double ErrorWith(const Range& range);

 private:
  const Scheme& scheme_;
  const Resolved& resolved_;
  TileCoder<T> coder_;
  const int64_t chunk_;  // points that are tried at once
  std::vector<T> values_;
  std::vector<double> counts_;
  std::array<std::vector<std::byte>, kMaxPlanes> constants_;
  ParamBuffer own_;
  ParamPlanes params_;
  std::vector<std::byte> codes_;
};

template <typename T>
CountedPoints<T>::CountedPoints(const Scheme& scheme, const Resolved& resolved,
                                const Range& bounds, std::span<const CountedValue> counts)
    : scheme_(scheme),
      resolved_(resolved),
      coder_(scheme, resolved, nullptr),
      chunk_(ChunkOf(resolved, std::ssize(counts))),
      codes_(static_cast<size_t>(resolved.layout.CodeOffset(chunk_))) {
  constexpr double kLargest = std::numeric_limits<T>::max();
  values_.reserve(counts.size());
  counts_.reserve(counts.size());
  for (const CountedValue& counted : counts) {
    const double value = std::clamp(counted.value, bounds.min, bounds.max);
    values_.push_back(static_cast<T>(std::clamp(value, -kLargest, kLargest)));
    counts_.push_back(static_cast<double>(counted.count));
  }
  const PackedLayout& layout = resolved.layout;
  ParamPlanes constants;
  for (size_t plane = 1; plane < layout.planes.size(); ++plane) {
    if (layout.planes[plane].role != PlaneRole::kConstant) continue;
    constants_[plane].resize(static_cast<size_t>(layout.planes[plane].size_bytes));
    constants.planes[plane] = constants_[plane];
  }
  if (scheme.resolve_constants != nullptr) scheme.resolve_constants(resolved, {}, constants);
  own_.Reset(layout, {0, 1});
  params_ = own_.PlanesFrom(layout, constants, 0);
}

template <typename T>
double CountedPoints<T>::ErrorWith(const Range& range) {
  scheme_.resolve(resolved_, {&range, 1}, params_);
  double sum = 0;
  const auto chunk = static_cast<size_t>(chunk_);
  for (size_t done = 0; done < values_.size(); done += chunk) {
    T points[kTileElems], decoded[kTileElems];
    const size_t count = std::min(chunk, values_.size() - done);
    std::fill(std::copy_n(&values_[done], count, points), points + chunk, T{0});
    Counts clipped;
    coder_.Encode(points, 0, chunk_, params_, codes_, clipped, nullptr);
    coder_.Decode(codes_, 0, chunk_, params_, decoded);
    for (size_t i = 0; i < count; ++i) {
      const double error = static_cast<T>(points[i] - decoded[i]);
      sum += counts_[done + i] * (error * error);
    }
  }
  return sum;
}

template <typename T>
Range SearchCounts(const Plan& plan, const Range& bounds, std::span<const CountedValue> counts) {
  const Resolved& resolved = plan.counted ? *plan.counted : plan.resolved;
  const std::optional<Resolved> half_even = WithoutNoise(resolved);
  CountedPoints<T> points(*plan.scheme, half_even ? *half_even : resolved, bounds, counts);
  ClipSearch search(bounds);
  while (!search.done()) search.Take(points.ErrorWith(search.range()));
  return search.range();
}

// As the span of a calibrator or a scheme.
TileSpan SpanOfAll(std::vector<float>& values) {
  return {values.data(), nullptr, std::ssize(values)};
}
TileSpan SpanOfAll(std::vector<double>& values) {
  return {nullptr, values.data(), std::ssize(values)};
}

Range RangeOfValues(const Plan& plan, const ChosenCalibrator& calibrator, const Range& bounds,
                    std::span<const CountedValue> counts) {
  const bool finite = std::isfinite(bounds.min) && std::isfinite(bounds.max);
  if (counts.empty() || !finite || !(bounds.min < bounds.max)) return bounds;
  RangeWish wish = WishOf(plan, calibrator);
  wish.bounds = bounds;
  if (!calibrator.tries()) return calibrator.calibrator->range_of_counts(counts, wish);
  if (plan.resolved.tensor.shape.num_elems() == 0) return bounds;
  ScopedFloatEnv float_env;
  return WorksAsF32(plan.resolved.tensor.dtype) ? SearchCounts<float>(plan, bounds, counts)
                                                : SearchCounts<double>(plan, bounds, counts);
}

// True if each run of `run_elems` elements has a group of its own, in order, row after row.
bool AreRuns(const GroupMap& groups) {
  return groups.band_rows == 1 && groups.row_elems % groups.run_elems == 0;
}

// True if such runs can be encoded each by itself.
bool AreWholeAtoms(const PackedLayout& layout) {
  return AreRuns(layout.groups) && layout.groups.run_elems % layout.atom_elems == 0 &&
         layout.trailer_bytes == 0;
}

// Returns the most elements of a group that does not recur.
int64_t MaxGroupElems(const GroupMap& groups, int64_t num_elems) {
  return std::min(num_elems, SaturatingMul(groups.run_elems, groups.band_rows));
}

}  // namespace

Range RangeOfCounts(const Plan& plan, const ChosenCalibrator& calibrator, const GroupStats& stats,
                    const Histogram& counts) {
  return RangeOfValues(plan, calibrator, calibrator.RangeOf(stats), ValuesOf(counts));
}

Range RangeOfCounts(const Plan& plan, const ChosenCalibrator& calibrator, const GroupStats& stats,
                    const Sketch& counts) {
  const Range bounds = calibrator.RangeOf(stats);
  std::vector<CountedValue> values = ValuesOf(counts);
  // What counts as 0 for being far below 3e18 may be 5, beside which there is nothing less.
  for (CountedValue& counted : values) {
    counted.value = std::max(bounds.min, std::min(bounds.max, counted.value));
  }
  return RangeOfValues(plan, calibrator, bounds, values);
}

template <typename T>
ValueRanges<T>::ValueRanges(const Plan& plan, const ChosenCalibrator& calibrator)
    : scheme_(*plan.scheme),
      layout_(plan.resolved.layout),
      calibrator_(calibrator),
      half_even_(calibrator.tries() ? WithoutNoise(plan.resolved) : std::nullopt),
      resolved_(half_even_ ? *half_even_ : plan.resolved),
      wish_(WishOf(plan, calibrator)),
      coder_(scheme_, resolved_, nullptr) {}

template <typename T>
int64_t ValueRanges<T>::ResidentBytes(const PackedLayout& layout, int64_t num_elems) {
  const int64_t groups = MaxGroups(layout.groups, num_elems);
  const int64_t values =
      std::max(MaxGroupElems(layout.groups, num_elems), std::min(num_elems, kTileElems));
  int64_t bytes = SaturatingMul(values, sizeof(T));
  bytes = SaturatingAdd(
      bytes, SaturatingMul(groups, sizeof(ClipSearch) + sizeof(double) + sizeof(size_t)));
  return SaturatingAdd(bytes, MaxCodeBytes(layout, std::min(num_elems, kTileElems)));
}

template <typename T>
void ValueRanges<T>::Narrow(int64_t from, int64_t to, const PlaceInStripe& place,
                            TileReader<T>& reader, const ParamPlanes& constants, ParamBuffer& own,
                            std::span<Range> ranges) {
  if (calibrator_.tries()) {
    Search(from, to, place, reader, constants, own, ranges);
  } else {
    Select(from, to, reader, ranges);
  }
}

template <typename T>
template <typename Fn>
void ValueRanges<T>::ForEachGroup(int64_t from, int64_t to, TileReader<T>& reader, Fn fn) {
  const GroupMap& groups = layout_.groups;
  size_t group = 0;
  for (int64_t at = from; at < to;) {
    // Rows that share their groups, from the first run that is not done.
    const int64_t row = at / groups.row_elems, batch_row = row % groups.batch_rows;
    const int64_t end_row =
        row - batch_row + std::min(RoundUp(batch_row + 1, groups.band_rows), groups.batch_rows);
    const int64_t row_end = std::min((row + 1) * groups.row_elems, to);
    for (; at < row_end; at = std::min(at + groups.run_elems, row_end)) {
      const int64_t run_elems = std::min(groups.run_elems, row_end - at);
      fn(group++, [&] {
        values_.clear();
        for (int64_t i = 0; i < end_row - row; ++i) {
          const int64_t begin = at + i * groups.row_elems;
          Gather(begin, begin + run_elems, reader);
        }
      });
    }
    at += (end_row - row - 1) * groups.row_elems;
  }
}

template <typename T>
void ValueRanges<T>::Select(int64_t from, int64_t to, TileReader<T>& reader,
                            std::span<Range> ranges) {
  ForEachGroup(from, to, reader, [&](size_t group, auto gather) {
    Range& range = ranges[group];
    if (!(range.min < range.max)) return;  // no values, or all the same
    gather();
    wish_.bounds = range;
    range = calibrator_.calibrator->range_of_values(SpanOfAll(values_), wish_);
  });
}

template <typename T>
void ValueRanges<T>::Resolve(int64_t from, int64_t to, TileReader<T>& reader,
                             const ParamPlanes& constants, ParamBuffer& own) {
  if (from == to) return;
  const int64_t first_group = GroupsOf(layout_, from, to).first;
  ForEachGroup(from, to, reader, [&](size_t group, auto gather) {
    gather();
    scheme_.resolve_values(
        resolved_, SpanOfAll(values_),
        own.PlanesFrom(layout_, constants, first_group + static_cast<int64_t>(group)));
  });
}

template <typename T>
void ValueRanges<T>::Gather(int64_t begin, int64_t end, TileReader<T>& reader) {
  size_t gathered = values_.size();
  values_.resize(gathered + static_cast<size_t>(end - begin));
  for (; begin < end; begin += kTileElems) {
    const int64_t count = std::min(kTileElems, end - begin);
    const T* values = reader.Read(begin, std::min(begin + kTileElems, end));
    for (int64_t i = 0; i < count; ++i) {
      const T value = LoadAt(values, i);
      values_[gathered] = value;
      gathered += std::isfinite(value) ? 1 : 0;
    }
  }
  values_.resize(gathered);
}

template <typename T>
void ValueRanges<T>::Search(int64_t from, int64_t to, const PlaceInStripe& place,
                            TileReader<T>& reader, const ParamPlanes& constants, ParamBuffer& own,
                            std::span<Range> ranges) {
  const int64_t first_group = GroupsOf(layout_, from, to).first;
  const ParamPlanes params = own.PlanesFrom(layout_, constants, first_group);
  searches_.clear();
  for (const Range& bounds : ranges) searches_.emplace_back(bounds);
  codes_.resize(static_cast<size_t>(MaxCodeBytes(layout_, std::min(to - from, kTileElems))));
  const int64_t tile_end = TileEnd(layout_, place.tile_begin, place.stripe_end);
  if (place.tile_begin < place.stripe_end && to <= tile_end && AreWholeAtoms(layout_)) {
    const T* tile = reader.Read(place.tile_begin, tile_end);
    SearchRuns(tile + (from - place.tile_begin), from, to, params, first_group, ranges);
    return;
  }
  const auto is_open = [](const ClipSearch& search) { return !search.done(); };
  while (std::any_of(searches_.begin(), searches_.end(), is_open)) {
    for (size_t i = 0; i < ranges.size(); ++i) ranges[i] = searches_[i].range();
    scheme_.resolve(resolved_, ranges, params);
    errors_.assign(ranges.size(), 0);
    int64_t begin = place.tile_begin, stripe_end = place.stripe_end;
    while (begin < to) {
      if (begin == stripe_end) {
        stripe_end = to - begin <= kStripeElems ? to : StripeFloor(layout_, begin + kStripeElems);
      }
      const int64_t end = TileEnd(layout_, begin, stripe_end);
      const T* tile = reader.Read(begin, end);
      const int64_t part = std::max(from, begin);
      Try(tile + (part - begin), part, std::min(end, to), params, first_group);
      begin = end;
    }
    for (size_t i = 0; i < ranges.size(); ++i) searches_[i].Take(errors_[i]);
  }
  for (size_t i = 0; i < ranges.size(); ++i) ranges[i] = searches_[i].range();
}

template <typename T>
void ValueRanges<T>::SearchRuns(const T* values, int64_t from, int64_t to,
                                const ParamPlanes& params, int64_t first_group,
                                std::span<Range> ranges) {
  const int64_t run_elems = layout_.groups.run_elems;
  const auto run_at = [run_elems](size_t i) { return static_cast<int64_t>(i) * run_elems; };
  values_.resize(static_cast<size_t>(to - from));
  open_.resize(ranges.size());
  std::iota(open_.begin(), open_.end(), size_t{0});
  while (true) {
    const auto is_done = [this](size_t group) { return searches_[group].done(); };
    const bool moves = std::any_of(open_.begin(), open_.end(), is_done);
    size_t open = 0;
    for (size_t i = 0; i < open_.size(); ++i) {
      if (is_done(open_[i])) continue;
      if (moves) {
        std::memmove(&values_[static_cast<size_t>(run_at(open))], values + run_at(i),
                     static_cast<size_t>(run_elems) * sizeof(T));
      }
      open_[open] = open_[i];
      ranges[open] = searches_[open_[open]].range();
      ++open;
    }
    if (moves) values = values_.data();
    open_.resize(open);
    if (open == 0) break;
    scheme_.resolve(resolved_, ranges.first(open), params);
    errors_.assign(open, 0);
    Try(values, from, from + run_at(open), params, first_group);
    for (size_t i = 0; i < open; ++i) searches_[open_[i]].Take(errors_[i]);
  }
  for (size_t i = 0; i < ranges.size(); ++i) ranges[i] = searches_[i].range();
}

template <typename T>
void ValueRanges<T>::Try(const T* values, int64_t begin, int64_t end, const ParamView& params,
                         int64_t first_group) {
  T decoded[kTileElems];
  Counts clipped;
  const std::span<std::byte> codes = std::span(codes_).first(
      static_cast<size_t>(layout_.CodeOffset(end) - layout_.CodeOffset(begin)));
  coder_.Encode(values, begin, end, params, codes, clipped, nullptr);
  coder_.Decode(codes, begin, end, params, decoded);
  const GroupMap& groups = layout_.groups;
  const bool in_rows = AreRuns(groups);
  for (int64_t at = begin; at < end;) {
    const GroupMap::Run run = groups.RunAt(at);
    int64_t run_elems = std::min(run.end_elem, end) - at, num_runs = 1;
    if (in_rows && run_elems == groups.run_elems) num_runs = (end - at) / run_elems;
    double sums[kTileElems];
    SumSquaredErrors(values + (at - begin), decoded + (at - begin), run_elems, num_runs, sums);
    for (int64_t i = 0; i < num_runs; ++i) {
      errors_[static_cast<size_t>(run.group + i - first_group)] += sums[i];
    }
    at += num_runs * run_elems;
  }
}

template class ValueRanges<float>;
template class ValueRanges<double>;

}  // namespace quantd
