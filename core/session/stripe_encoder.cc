// Encoding one stripe. Its values are gone over tile by tile, so that all that happens to a tile
// finds it in the L1 cache:
//
//   |  tile  |  tile  |  tile  | ...      values, in place where a piece has all of a tile
//   |group|group|group|group|  ...
//
//   1 ranges of the groups up to the tile's end, and parameters from them, unless they are known;
//     or parameters from the values of the groups
//   2 codes and, in the same pass, sums for the figures (Scheme::encode)
//   3 CRC32C and digest of the codes, every kHashTiles
//
// Outliers are found first, and all steps but the figures see 0 in their place: these come from
// what decoding gives of the whole, in a pass of its own.
//
// Encoding hopes for the best: values that are not finite show in the sums, or in a check when there
// are none, and such a tile is encoded once more with them replaced. Where the largest error of all
// lies is looked for at the end, in the one tile that has it.
//
// The entries are ResolveAndEncode and Encode. Tested by tests/core/session/same_bytes_test.cc,
// quantize_session_test.cc and figures_test.cc.
#include "core/session/stripe_encoder.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/crc32c.h"
#include "core/session/evidence.h"
#include "core/session/stripe_decoder.h"
#include "core/session/tile_coder.h"
#include "core/session/value_ranges.h"
#include "core/simd/meter.h"
#include "core/simd/scan.h"

namespace quantd {
namespace {

// Tiles whose codes are hashed at once, while they are in the L1 cache.
constexpr int64_t kHashTiles = 4;

// Copies finite values; NaN becomes 0, infinities become `reach`. Returns how many these are.
template <typename T>
int64_t Sanitize(const T* values, int64_t num_elems, T reach, T* out) {
  int64_t infinities = 0;
  for (int64_t i = 0; i < num_elems; ++i) {
    const T value = LoadAt(values, i);
    infinities += std::isinf(value);
    out[i] = std::isnan(value) ? T{0} : std::clamp(value, -reach, reach);
  }
  return infinities;
}

// Returns the largest magnitude of the finite values.
template <typename T>
T ReachOf(const T* values, int64_t num_elems) {
  T reach = 0;
  for (int64_t i = 0; i < num_elems; ++i) {
    const T magnitude = std::fabs(LoadAt(values, i));
    if (std::isfinite(magnitude)) reach = std::max(reach, magnitude);
  }
  return reach;
}

}  // namespace

void StripeResult::Reset() {
  figures = {};
  clipped = inexact = non_finite = 0;
  first_non_finite.clear();
  crc32c = 0;
}

StripeEncoder::StripeEncoder(const Plan& plan, const ChosenCalibrator& calibrator,
                             std::span<const Range> ranges, const Importance* importance,
                             bool figures, bool crc)
    : plan_(plan),
      calibrator_(calibrator),
      wants_(EvidenceWantsOf(plan)),
      ranges_(ranges),
      importance_(importance),
      figures_(figures),
      crc_(crc) {}

Range StripeEncoder::RangeOf(int64_t group, const GroupStats* stats) const {
  if (plan_.resolved.spec.given_range.has_value()) return *plan_.resolved.spec.given_range;
  if (!ranges_.empty()) return ranges_[static_cast<size_t>(group)];
  return stats == nullptr ? Range{} : calibrator_.RangeOf(*stats);
}

template <typename Fn>
void StripeEncoder::ReadBand(const Stripe& band, const ByteRange& values, Fn fn) const {
  const DType dtype = plan_.resolved.tensor.dtype;
  const std::vector<int64_t> outliers =
      FindOutliers(plan_.resolved.layout, dtype, band.begin, band.end, values);
  if (WorksAsF32(dtype)) {
    TileReader<float> reader(dtype, values, band.begin, outliers);
    fn(reader);
  } else {
    TileReader<double> reader(dtype, values, band.begin, outliers);
    fn(reader);
  }
}

std::vector<Range> StripeEncoder::RangesOf(std::span<const GroupStats> stats,
                                           const Histogram* counts,
                                           std::span<const Sketch> sketches, const Stripe& band,
                                           const ByteRange& values, const ParamPlanes& constants,
                                           ParamBuffer& own) const {
  std::vector<Range> ranges;
  ranges.reserve(stats.size());
  for (const GroupStats& group : stats) {
    ranges.push_back(RangeOf(own.groups().first + std::ssize(ranges), &group));
  }
  if (plan_.known_params || plan_.resolved.layout.from_values() || ranges.empty()) return ranges;
  switch (plan_.value_source) {
    case ValueSource::kNone:
      break;
    case ValueSource::kCounts:
      ranges[0] = RangeOfCounts(plan_, calibrator_, stats[0], *counts);
      break;
    case ValueSource::kSketches:
      for (size_t i = 0; i < ranges.size(); ++i) {
        ranges[i] = RangeOfCounts(plan_, calibrator_, stats[i], sketches[i]);
      }
      break;
    case ValueSource::kBands:
      ReadBand(band, values, [&]<typename T>(TileReader<T>& reader) {
        ValueRanges<T>(plan_, calibrator_)
            .Narrow(band.begin, band.end, {.tile_begin = band.begin, .stripe_end = band.begin},
                    reader, constants, own, ranges);
      });
      break;
  }
  return ranges;
}

void StripeEncoder::ResolveValues(const Stripe& band, const ByteRange& values,
                                  const ParamPlanes& constants, ParamBuffer& own) const {
  ReadBand(band, values, [&]<typename T>(TileReader<T>& reader) {
    ValueRanges<T>(plan_, calibrator_).Resolve(band.begin, band.end, reader, constants, own);
  });
}

void StripeEncoder::Resolve(const ParamPlanes& constants, std::span<const Range> found,
                            ParamBuffer& own) const {
  if (plan_.scheme->resolve == nullptr) return;
  // Whole entries at once.
  const PackedLayout& layout = plan_.resolved.layout;
  const int64_t step = std::max<int64_t>(layout.GroupsPerEntry(), 64);
  std::vector<Range> ranges(static_cast<size_t>(std::min(step, own.groups().count)));
  for (int64_t done = 0; done < own.groups().count; done += step) {
    const int64_t count = std::min(step, own.groups().count - done);
    for (int64_t i = 0; i < count; ++i) {
      ranges[static_cast<size_t>(i)] = found.empty()
                                           ? RangeOf(own.groups().first + done + i, nullptr)
                                           : found[static_cast<size_t>(done + i)];
    }
    plan_.scheme->resolve(plan_.resolved, {ranges.data(), static_cast<size_t>(count)},
                          own.PlanesFrom(layout, constants, own.groups().first + done));
  }
}

// One stripe on its way.
template <typename T>
class StripeEncoder::Run {
 public:
  Run(const StripeEncoder& encoder, const Stripe& stripe, const ByteRange& values,
      std::span<std::byte> codes, StripeResult& result)
      : encoder_(encoder),
        plan_(encoder.plan_),
        layout_(plan_.resolved.layout),
        stripe_(stripe),
        outliers_(FindOutliers(layout_, plan_.resolved.tensor.dtype, stripe.begin, stripe.end,
                               values)),
        reader_(plan_.resolved.tensor.dtype, values, stripe.begin, outliers_),
        coder_(*plan_.scheme, plan_.resolved, encoder.importance_),
        value_ranges_(plan_, encoder.calibrator_),
        codes_(codes),
        first_byte_(layout_.CodeOffset(stripe.begin)),
        result_(result) {
    result.Reset();
    result.digest.Begin(first_byte_, std::ssize(codes));
    if (layout_.outliers > 0) {
      PackOutliers(layout_, plan_.resolved.tensor.dtype, stripe.begin, stripe.end, values,
                   outliers_, result.outliers);
    }
  }

  // `own` is null where `params` are known.
  void Encode(ParamView params, const ParamPlanes* constants, ParamBuffer* own) {
    const bool finds = own != nullptr && !plan_.known_params;
    int64_t resolved_end = stripe_.begin, hashed = 0;
    int64_t tiles = 0;
    for (int64_t begin = stripe_.begin; begin < stripe_.end;) {
      const int64_t end = TileEnd(layout_, begin, stripe_.end);
      if (finds && resolved_end < end) {
        const int64_t bands_end = std::min(
            BandEnd(layout_, plan_.resolved.tensor.shape.num_elems(), end), stripe_.end);
        FindParams(resolved_end, bands_end, begin, end, *constants, *own);
        resolved_end = bands_end;
      }
      EncodeTile(begin, end, params);
      begin = end;
      if (++tiles % kHashTiles == 0 || end == stripe_.end) {
        const int64_t coded = layout_.CodeOffset(end) - first_byte_;
        Hash(codes_.subspan(static_cast<size_t>(hashed), static_cast<size_t>(coded - hashed)));
        hashed = coded;
      }
    }
    FindMaxError(params);
  }

 private:
  // Finds the ranges of the bands of elements [from, to), the first tile of which is [begin, end),
  // and makes their parameters.
  void FindParams(int64_t from, int64_t to, int64_t begin, int64_t end,
                  const ParamPlanes& constants, ParamBuffer& own) {
    if (layout_.from_values()) {
      value_ranges_.Resolve(from, to, reader_, constants, own);
      return;
    }
    const GroupMap& groups = layout_.groups;
    const GroupSpan span = GroupsOf(layout_, from, to);
    const int64_t tile_begin = begin;
    const EvidenceWants& wants = encoder_.wants_;
    ranges_.resize(static_cast<size_t>(span.count));
    if (!wants.sums() && to == end && groups.band_rows == 1 &&
        (to - from) == span.count * groups.run_elems && encoder_.calibrator_.from_extremes()) {
      // Whole runs of one length, which the tile at hand has all of.
      RunRange<T> found[kTileElems];
      ScanRuns(reader_.Read(begin, end) + (from - begin), groups.run_elems, span.count, found);
      for (int64_t i = 0; i < span.count; ++i) {
        ranges_[static_cast<size_t>(i)] = {static_cast<double>(found[i].min),
                                           static_cast<double>(found[i].max)};
      }
    } else {
      stats_.assign(static_cast<size_t>(span.count), GroupStats{});
      for (int64_t at = from; at < to;) {
        const int64_t part_end = std::min(end, to);
        ScanTile(reader_.Read(begin, end) + (at - begin), at, part_end - at, groups, wants,
                 span.first, std::span(stats_));
        at = begin = part_end;
        end = TileEnd(layout_, begin, stripe_.end);
      }
      for (size_t i = 0; i < ranges_.size(); ++i) {
        ranges_[i] = encoder_.calibrator_.RangeOf(stats_[i]);
      }
    }
    if (encoder_.calibrator_.needs_values()) {
      value_ranges_.Narrow(from, to, {tile_begin, stripe_.end}, reader_, constants, own, ranges_);
    }
    plan_.scheme->resolve(plan_.resolved, ranges_, own.PlanesFrom(layout_, constants, span.first));
  }

  std::span<std::byte> CodesOf(int64_t begin, int64_t end) const {
    const int64_t offset = layout_.CodeOffset(begin);
    return codes_.subspan(static_cast<size_t>(offset - first_byte_),
                          static_cast<size_t>(layout_.CodeOffset(end) - offset));
  }

  void EncodeValues(const T* values, int64_t begin, int64_t end, const ParamView& params,
                    Counts& counts, Meter* meter) {
    coder_.Encode(values, begin, end, params, CodesOf(begin, end), counts, meter);
  }

  template <typename Y>
  void Decode(int64_t begin, int64_t end, const ParamView& params, Y* y) {
    coder_.Decode(CodesOf(begin, end), begin, end, params, y);
  }
  // Puts the outliers of the tile at hand, from `begin` on, where decoding puts them.
  void RestoreOutliers(int64_t begin, T* y) const {
    for (const int64_t elem : reader_.tile_outliers()) {
      y[elem - begin] = LoadAt(reader_.whole_tile(), elem - begin);
    }
  }

  void EncodeTile(int64_t begin, int64_t end, const ParamView& params) {
    const int64_t num_elems = end - begin;
    const T* values = reader_.Read(begin, end);
    result_.inexact += reader_.inexact();
    Counts counts;
    Meter* const meter = encoder_.figures_ && layout_.outliers == 0 ? &meter_ : nullptr;
    if (meter != nullptr) meter->lanes<T>().Reset();
    EncodeValues(values, begin, end, params, counts, meter);
    std::optional<TileFigures> figures;
    if (meter != nullptr) figures = FiguresOf(meter->lanes<T>(), values, num_elems);
    if (!figures.has_value() && (encoder_.figures_ || !AllFinite(values, num_elems))) {
      figures = EncodeCarefully(values, begin, end, params, counts);
    }
    result_.clipped += counts.clipped;
    if (encoder_.figures_) AddFigures(*figures, begin, end);
  }

  // Encodes a tile again where it has values that are not finite, which it replaces, and measures
  // what decoding gives.
  TileFigures EncodeCarefully(const T* values, int64_t begin, int64_t end, const ParamView& params,
                              Counts& counts) {
    const int64_t num_elems = end - begin;
    int64_t strays = 0;
    for (int64_t i = 0; i < num_elems; ++i) {
      if (std::isfinite(LoadAt(values, i))) continue;
      ++strays;
      if (std::ssize(result_.first_non_finite) < kMaxNonFiniteListed) {
        result_.first_non_finite.push_back(begin + i);
      }
    }
    result_.non_finite += strays;
    T scratch[kTileElems];
    if (strays > 0 && *plan_.resolved.spec.nonfinite != NonFinite::kPropagate) {
      counts = {};
      SanitizeTile(values, begin, end, scratch, counts);
      EncodeValues(scratch, begin, end, params, counts, nullptr);
    }
    Decode(begin, end, params, scratch);
    if constexpr (sizeof(T) == sizeof(float)) {
      // Beyond f32, as for a large scale= that was given: as decoded.
      if (!AllFinite(scratch, num_elems)) {
        double wide[kTileElems];
        Decode(begin, end, params, wide);
        SaturateFloats(wide, num_elems, scratch);
      }
    }
    if (layout_.outliers == 0) return MeasureCarefully(values, scratch, num_elems);
    RestoreOutliers(begin, scratch);
    return MeasureTile(reader_.whole_tile(), scratch, num_elems);
  }

  // Makes infinities what takes the outermost code: the largest values, or where a scale is found
  // from what an atom has, the largest there, so that they cost its finite values nothing; they
  // count as clipped either way. An atom without such values is given over to them.
  void SanitizeTile(const T* values, int64_t begin, int64_t end, T* out, Counts& counts) const {
    constexpr T kLargest = std::numeric_limits<T>::max();
    if (!layout_.atom_scales) {
      Sanitize(values, end - begin, kLargest, out);
      return;
    }
    ForEachRow(layout_, begin, end, [&](int64_t part, int64_t part_end) {
      for (int64_t at = part; at < part_end; at += layout_.atom_elems) {
        const int64_t count = std::min(layout_.atom_elems, part_end - at), i = at - begin;
        const T reach = ReachOf(values + i, count);
        const int64_t infinities =
            Sanitize(values + i, count, reach > 0 ? reach : kLargest, out + i);
        if (reach > 0) counts.clipped += infinities;
      }
    });
  }

  void AddFigures(const TileFigures& tile, int64_t begin, int64_t end) {
    if (tile.count == 0) return;
    if (tile.max_error > result_.figures.max_error) {
      max_error_begin_ = begin;
      max_error_end_ = end;
      max_error_idx_ = tile.max_error_idx;
    }
    result_.figures.Merge(ToFigures(tile));
  }

  // Says which element has the largest error, unless another stripe has a larger one.
  void FindMaxError(const ParamView& params) {
    Figures& figures = result_.figures;
    if (!(figures.max_error > 0)) return;
    double known = encoder_.max_error_.load(std::memory_order_relaxed);
    if (figures.max_error < known) return;
    while (known < figures.max_error &&
           !encoder_.max_error_.compare_exchange_weak(known, figures.max_error,
                                                      std::memory_order_relaxed)) {
    }
    if (max_error_idx_ < 0) {
      T y[kTileElems];
      Decode(max_error_begin_, max_error_end_, params, y);
      reader_.Read(max_error_begin_, max_error_end_);
      RestoreOutliers(max_error_begin_, y);
      max_error_idx_ = IndexOfError(reader_.whole_tile(), y, figures.max_error);
    }
    figures.max_error_elem = max_error_begin_ + max_error_idx_;
  }

  void Hash(std::span<const std::byte> codes) {
    if (encoder_.crc_) result_.crc32c = Crc32c(codes, result_.crc32c);
    result_.digest.Update(codes);
  }

  const StripeEncoder& encoder_;
  const Plan& plan_;
  const PackedLayout& layout_;
  const Stripe& stripe_;
  const std::vector<int64_t> outliers_;
  TileReader<T> reader_;
  TileCoder<T> coder_;
  ValueRanges<T> value_ranges_;
  const std::span<std::byte> codes_;
  const int64_t first_byte_;
  StripeResult& result_;
  Meter meter_;
  std::vector<GroupStats> stats_;
  std::vector<Range> ranges_;
  int64_t max_error_begin_ = 0, max_error_end_ = 0, max_error_idx_ = -1;
};

void StripeEncoder::Encode(const Stripe& stripe, const ByteRange& values, const ParamView& params,
                           std::span<std::byte> codes, StripeResult& result) const {
  if (WorksAsF32(plan_.resolved.tensor.dtype)) {
    Run<float>(*this, stripe, values, codes, result).Encode(params, nullptr, nullptr);
  } else {
    Run<double>(*this, stripe, values, codes, result).Encode(params, nullptr, nullptr);
  }
}

void StripeEncoder::ResolveAndEncode(const Stripe& stripe, const ByteRange& values,
                                     const ParamPlanes& constants, std::span<std::byte> codes,
                                     ParamBuffer& own, StripeResult& result) const {
  const PackedLayout& layout = plan_.resolved.layout;
  own.Reset(layout, GroupsOf(layout, stripe.begin, stripe.end));
  if (plan_.known_params) Resolve(constants, {}, own);
  const ParamView params = own.PlanesFrom(layout, constants, own.groups().first);
  if (WorksAsF32(plan_.resolved.tensor.dtype)) {
    Run<float>(*this, stripe, values, codes, result).Encode(params, &constants, &own);
  } else {
    Run<double>(*this, stripe, values, codes, result).Encode(params, &constants, &own);
  }
}

std::string CoordinatesText(const Shape& shape, int64_t elem) {
  std::vector<int64_t> coordinates(static_cast<size_t>(shape.rank()));
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    coordinates[static_cast<size_t>(axis)] = elem % shape.dim(axis);
    elem /= shape.dim(axis);
  }
  return absl::StrCat("[", absl::StrJoin(coordinates, ", "), "]");
}

}  // namespace quantd
