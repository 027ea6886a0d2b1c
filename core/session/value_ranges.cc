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
// Entries: RangeOfCounts and ValueRanges::Narrow. Tested by
// tests/core/session/value_ranges_test.cc and same_bytes_test.cc.
#include "core/session/value_ranges.h"

#include <algorithm>
#include <array>
#include <cmath>

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

// Returns the spec's rounding, if it does not depend on noise, else nothing to stand for it.
std::optional<Resolved> WithoutNoise(const Resolved& resolved) {
  if (resolved.spec.rounding != Rounding::kStochastic) return std::nullopt;
  std::optional<Resolved> half_even = resolved;
  half_even->spec.rounding = Rounding::kHalfEven;
  return half_even;
}

// What is counted of values.
template <typename T>
struct Points {
  std::vector<T> values;
  std::vector<double> counts;
};

// Those of a tensor's one group, tried out as its first elements.
template <typename T>
Range SearchCounts(const Plan& plan, const Range& bounds, const Histogram& histogram) {
  const std::optional<Resolved> half_even = WithoutNoise(plan.resolved);
  const Resolved& resolved = half_even ? *half_even : plan.resolved;
  const PackedLayout& layout = resolved.layout;
  Points<T> points;
  for (uint32_t bits = 0; bits < Histogram::kNumBuckets; ++bits) {
    if (histogram.counts()[bits] == 0) continue;
    points.values.push_back(static_cast<T>(ValueOfBucket(static_cast<uint16_t>(bits), bounds)));
    points.counts.push_back(static_cast<double>(histogram.counts()[bits]));
  }
  const int64_t num_elems = resolved.tensor.shape.num_elems();
  const int64_t chunk = num_elems <= kTileElems ? num_elems : AtomFloor(layout, kTileElems);
  const size_t rest = points.values.size() % static_cast<size_t>(chunk);
  if (rest > 0) points.values.resize(points.values.size() + static_cast<size_t>(chunk) - rest);
  ParamBuffer own;
  own.Reset(layout, {0, 1});
  std::array<std::vector<std::byte>, kMaxPlanes> bytes;
  ParamPlanes constants;
  for (size_t plane = 1; plane < layout.planes.size(); ++plane) {
    if (layout.planes[plane].role != PlaneRole::kConstant) continue;
    bytes[plane].resize(static_cast<size_t>(layout.planes[plane].size_bytes));
    constants.planes[plane] = bytes[plane];
  }
  if (plan.scheme->resolve_constants != nullptr) {
    plan.scheme->resolve_constants(resolved, {}, constants);
  }
  const ParamPlanes params = own.PlanesFrom(layout, constants, 0);
  TileCoder<T> coder(*plan.scheme, resolved, nullptr);
  std::vector<std::byte> codes(static_cast<size_t>(layout.CodeOffset(chunk)));
  ClipSearch search(bounds);
  while (!search.done()) {
    const Range range = search.range();
    plan.scheme->resolve(resolved, {&range, 1}, params);
    double sum = 0;
    for (size_t done = 0; done < points.counts.size(); done += static_cast<size_t>(chunk)) {
      Counts clipped;
      T decoded[kTileElems];
      coder.Encode(&points.values[done], 0, chunk, params, codes, clipped, nullptr);
      coder.Decode(codes, 0, chunk, params, decoded);
      const size_t end = std::min(points.counts.size(), done + static_cast<size_t>(chunk));
      for (size_t i = done; i < end; ++i) {
        const double error = static_cast<T>(points.values[i] - decoded[i - done]);
        sum += points.counts[i] * (error * error);
      }
    }
    search.Take(sum);
  }
  return search.range();
}

// Returns the most elements of a group that does not recur.
int64_t MaxGroupElems(const GroupMap& groups, int64_t num_elems) {
  return std::min(num_elems, SaturatingMul(groups.run_elems, groups.band_rows));
}

}  // namespace

Range RangeOfCounts(const Plan& plan, const ChosenCalibrator& calibrator, const GroupStats& stats,
                    const Histogram& counts) {
  const Range bounds = calibrator.RangeOf(stats);
  if (counts.num_finite() == 0) return bounds;
  RangeWish wish = WishOf(plan, calibrator);
  wish.bounds = bounds;
  if (!calibrator.tries()) return calibrator.calibrator->range_of_counts(counts, wish);
  if (plan.resolved.tensor.shape.num_elems() == 0 || !(bounds.min < bounds.max)) return bounds;
  ScopedFloatEnv float_env;
  return WorksAsF32(plan.resolved.tensor.dtype) ? SearchCounts<float>(plan, bounds, counts)
                                                : SearchCounts<double>(plan, bounds, counts);
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
  int64_t bytes = SaturatingMul(MaxGroupElems(layout.groups, num_elems), sizeof(T));
  bytes = SaturatingAdd(bytes, SaturatingMul(groups, sizeof(ClipSearch) + sizeof(double)));
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
void ValueRanges<T>::Select(int64_t from, int64_t to, TileReader<T>& reader,
                            std::span<Range> ranges) {
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
      Range& range = ranges[group++];
      if (!(range.min < range.max)) continue;  // no values, or all the same
      values_.clear();
      for (int64_t i = 0; i < end_row - row; ++i) {
        const int64_t begin = at + i * groups.row_elems;
        Gather(begin, begin + run_elems, reader);
      }
      wish_.bounds = range;
      const auto count = std::ssize(values_);
      if constexpr (sizeof(T) == sizeof(float)) {
        range = calibrator_.calibrator->range_of_values({values_.data(), nullptr, count}, wish_);
      } else {
        range = calibrator_.calibrator->range_of_values({nullptr, values_.data(), count}, wish_);
      }
    }
    at += (end_row - row - 1) * groups.row_elems;
  }
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
  const auto is_open = [](const ClipSearch& search) { return !search.done(); };
  while (std::any_of(searches_.begin(), searches_.end(), is_open)) {
    for (size_t i = 0; i < ranges.size(); ++i) ranges[i] = searches_[i].range();
    scheme_.resolve(resolved_, ranges, params);
    errors_.assign(ranges.size(), 0);
    int64_t begin = place.tile_begin, stripe_end = place.stripe_end;
    while (begin < to) {
      if (begin == stripe_end) {
        stripe_end = to - begin <= kStripeElems ? to : AtomFloor(layout_, begin + kStripeElems);
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
void ValueRanges<T>::Try(const T* values, int64_t begin, int64_t end, const ParamView& params,
                         int64_t first_group) {
  T decoded[kTileElems];
  Counts clipped;
  const std::span<std::byte> codes = std::span(codes_).first(
      static_cast<size_t>(layout_.CodeOffset(end) - layout_.CodeOffset(begin)));
  coder_.Encode(values, begin, end, params, codes, clipped, nullptr);
  coder_.Decode(codes, begin, end, params, decoded);
  const GroupMap& groups = layout_.groups;
  const bool in_rows = groups.band_rows == 1 && groups.row_elems % groups.run_elems == 0;
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
