// lloyd: a codebook of 16 levels that is learned from the tensor, with 4-bit codes: for values that
// no fixed codebook fits. No scale: levels are values. The levels minimise the squared error
// (Lloyd, "Least squares quantization in PCM", 1982; Max 1960):
//
//   each value belongs to its nearest level;  each level is the mean of its values;  again
//
//   histogram   ..:||:.....      middles  |  |  |     what lies between two middles is a cell,
//   levels        ^  ^  ^                             its level the mean of the points in it
//
// Points are the buckets of the histogram of bf16: its exact counts are the same however values
// were scanned, and a round takes 65,280 steps at most: 2 ms for usual tensors, 40 for all
// magnitudes. A bucket lies at its midpoint, or, where values are bf16 or smaller integers, at the
// one value that it can hold; that of zero lies at 0. All is in double, points in ascending order.
// The first levels are the points at the (j + 1/2) / 16 quantiles. In each round the lowest cell
// without points, if any, takes the point with the largest count * error^2 (the first of equal
// ones, if that is not 0), so that spikes do not hold several levels: for 90 % of zeros, 14 of 16
// quantiles are 0. It ends when levels stay, or after 64 rounds.
//
//   levels rounded to f32,  code = how many of the 15 middles (in double) are below x,  x' = level
//
// A value on a middle takes the lower code. Codes lie two to a byte over the flat tensor, the first
// of a pair in the low nibble, 0 beside an odd last one.
//
// Source: no one's bytes but ours. The entry is lloyd_scheme. Tested by
// tests/core/scheme/lloyd_test.cc and segments_test.cc.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/base/checked_math.h"
#include "core/base/status_macros.h"
#include "core/scheme/codebook.h"
#include "core/scheme/scheme.h"
#include "core/simd/bits.h"
#include "core/stats/histogram.h"

namespace quantd {
namespace {

constexpr size_t kCodebookPlane = 1;
constexpr int kMaxRounds = 64;

using Levels = std::array<double, 16>;

// True where each bucket can hold one value alone, its edge near zero.
bool IsOneValueABucket(DType dtype) {
  switch (dtype) {
    case DType::kBf16:
    case DType::kInt8:
    case DType::kUint8:
    case DType::kF8E4M3:
    case DType::kF8E5M2:
      return true;
    default:
      return false;
  }
}

// The points of a histogram.
class Points {
 public:
  Points(const Histogram& histogram, DType dtype)
      : histogram_(histogram), one_value_(IsOneValueABucket(dtype)) {
    for (const uint32_t sign : {0u, kSign}) {  // most buckets are far from all values
      Span& span = sign == 0 ? positive_ : negative_;
      span = {sign, sign | kInfinity};
      while (span.begin < span.end && histogram.counts()[span.begin] == 0) ++span.begin;
      while (span.begin < span.end && histogram.counts()[span.end - 1] == 0) --span.end;
    }
  }

  int64_t total() const { return histogram_.num_finite(); }

  // Calls fn(x, count) for the points with a count, in ascending order.
  template <typename Fn>
  void ForEach(Fn fn) const {
    for (uint32_t bits = negative_.end; bits-- > negative_.begin;) Visit(bits, fn);
    for (uint32_t bits = positive_.begin; bits < positive_.end; ++bits) Visit(bits, fn);
  }

 private:
  static constexpr uint32_t kSign = 0x8000, kInfinity = 0x7F80;  // in the upper 16 bits

  // Buckets, by the upper bits.
  struct Span {
    uint32_t begin, end;
  };

  template <typename Fn>
  void Visit(uint32_t bits, Fn fn) const {
    const int64_t count = histogram_.counts()[bits];
    if (count == 0) return;
    const Histogram::Bucket bucket = Histogram::BucketOf(static_cast<uint16_t>(bits));
    const double near = std::fabs(bucket.lower) < std::fabs(bucket.upper) ? bucket.lower
                                                                          : bucket.upper;
    fn(near == 0 ? 0.0 : one_value_ ? near : bucket.midpoint(), count);
  }

  const Histogram& histogram_;
  const bool one_value_;
  Span positive_, negative_;
};

Levels QuantileLevels(const Points& points) {
  Levels levels = {};
  size_t next = 0;
  int64_t passed = 0;
  points.ForEach([&](double x, int64_t count) {
    passed += count;
    while (next < levels.size() && static_cast<double>(passed) >=
                                       static_cast<double>(2 * next + 1) / 32 *
                                           static_cast<double>(points.total())) {
      levels[next++] = x;
    }
  });
  return levels;
}

// Returns the levels after one round.
Levels NextLevels(const Points& points, const Levels& levels) {
  Levels sums = {};
  std::array<int64_t, 16> counts = {};
  double worst = 0, worst_x = 0;
  size_t cell = 0;
  points.ForEach([&](double x, int64_t count) {
    while (cell < 15 && x > (levels[cell] + levels[cell + 1]) / 2) ++cell;
    const double weight = static_cast<double>(count);
    sums[cell] += x * weight;
    counts[cell] += count;
    const double error = x - levels[cell];
    if (error * error * weight > worst) {
      worst = error * error * weight;
      worst_x = x;
    }
  });
  Levels next = levels;
  bool filled = false;
  for (size_t k = 0; k < next.size(); ++k) {
    if (counts[k] > 0) {
      next[k] = sums[k] / static_cast<double>(counts[k]);
    } else if (!filled && worst > 0) {
      next[k] = worst_x;
      filled = true;
    }
  }
  std::sort(next.begin(), next.end());
  return next;
}

absl::StatusOr<PackedLayout> PlanLloyd(const SchemeInfo&, const QuantSpec&,
                                       const TensorDesc& tensor) {
  const int64_t num_elems = tensor.shape.num_elems();
  PackedLayout layout;
  layout.row_elems = num_elems;
  layout.atom_elems = 2;
  layout.groups.row_elems = layout.groups.run_elems = std::max<int64_t>(num_elems, 1);
  layout.tensor_evidence = kHistogram;
  QUANTD_ASSIGN_OR_RETURN(Shape code_shape, Shape::Make({CeilDiv(num_elems, 2)}));
  QUANTD_ASSIGN_OR_RETURN(Shape codebook_shape, Shape::Make({16}));
  layout.planes = {
      {"codes", PlaneRole::kCodes, DType::kUint8, code_shape, code_shape.num_elems()},
      {"codebook", PlaneRole::kConstant, DType::kF32, codebook_shape, 16 * sizeof(float)}};
  return layout;
}

void LearnLevels(const Resolved& resolved, const TensorEvidence& tensor, ParamPlanes out) {
  const Points points(*tensor.histogram, resolved.tensor.dtype);
  Levels levels = QuantileLevels(points);
  for (int round = 0; round < kMaxRounds; ++round) {
    const Levels next = NextLevels(points, levels);
    if (next == levels) break;
    levels = next;
  }
  std::array<float, 16> rounded;
  std::copy(levels.begin(), levels.end(), rounded.begin());
  std::memcpy(out.planes[kCodebookPlane].data(), rounded.data(), sizeof(rounded));
}

// Returns the largest T that is not above `x`, or infinity; NaN is none.
template <typename T>
T RoundDown(double x) {
  constexpr double kLargest = std::numeric_limits<T>::max();
  if (x < -kLargest) return -std::numeric_limits<T>::infinity();
  const T rounded = static_cast<T>(std::min(x, kLargest));
  return rounded > x ? std::nextafter(rounded, -std::numeric_limits<T>::infinity()) : rounded;
}

// Compared with values of type T, the bounds are as good as in double.
template <typename T>
Codebook<T> BookOf(const ParamView& params) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  Codebook<T> book;
  std::memcpy(book.levels.data(), params.planes[kCodebookPlane].data(), sizeof(book.levels));
  const auto level = [&](size_t k) { return double{book.levels[k]}; };
  for (size_t k = 0; k < 15; ++k) book.middles[k] = RoundDown<T>((level(k) + level(k + 1)) / 2);
  // The step of an outermost level is the way to the next that differs.
  double low = -kInfinity, high = kInfinity;
  for (size_t k = 15; k > 0; --k) {
    if (level(k) > level(0)) low = level(0) - (level(k) - level(0)) / 2;
    if (level(15 - k) < level(15)) high = level(15) + (level(15) - level(15 - k)) / 2;
  }
  book.low_clip = RoundDown<T>(low);
  book.high_clip = -RoundDown<T>(-high);
  return book;
}

void EncodeLloyd(const Resolved&, const Segment& segment, std::span<std::byte> out, Counts* counts,
                 Meter* meter) {
  const TileView& values = segment.values;
  uint8_t codes[kTileElems];
  counts->clipped += values.Visit([&]<typename T>(const T* from) {
    const CodebookRun<T> run = {values.num_elems, 1, 1};
    return CodebookTable().Of<T>().encode(BookOf<T>(segment.params), {&run, 1}, from, codes,
                                          LanesOf<T>(meter));
  });
  PackNibbles(codes, values.num_elems, /*first_high=*/false,
              reinterpret_cast<uint8_t*>(out.data()));
}

void DecodeLloyd(const Resolved&, std::span<const std::byte> packed, const ParamView& params,
                 int64_t, TileSpan out) {
  uint8_t codes[kTileElems];
  UnpackNibbles(reinterpret_cast<const uint8_t*>(packed.data()), out.num_elems,
                /*first_high=*/false, codes);
  std::array<float, 16> levels;
  std::memcpy(levels.data(), params.planes[kCodebookPlane].data(), sizeof(levels));
  out.Visit([&]<typename T>(T* to) {
    const CodebookRun<T> run = {out.num_elems, 1, 1};
    CodebookTable().Of<T>().decode(levels, {&run, 1}, codes, to);
  });
}

// --- The scalar definitions ---

double LevelRef(const ParamView& params, int code) {
  float level;
  std::memcpy(&level, &params.planes[kCodebookPlane][static_cast<size_t>(code) * 4], 4);
  return level;
}

int EncodeOne(double x, const ParamView& params, Counts* counts) {
  const double lowest = LevelRef(params, 0), highest = LevelRef(params, 15);
  int above = 1, below = 14;  // the neighbours of the outermost levels
  while (above < 15 && LevelRef(params, above) == lowest) ++above;
  while (below > 0 && LevelRef(params, below) == highest) --below;
  if (lowest < highest) {
    counts->clipped += x <= lowest - (LevelRef(params, above) - lowest) / 2 ||
                       x >= highest + (highest - LevelRef(params, below)) / 2;
  }
  int code = 0;
  while (code < 15 && x > (LevelRef(params, code) + LevelRef(params, code + 1)) / 2) ++code;
  return code;
}

void EncodeLloydRef(const Resolved&, const Segment& segment, std::span<std::byte> out,
                    Counts* counts) {
  const TileView& values = segment.values;
  for (int64_t i = 0; i < values.num_elems; ++i) {
    const double x =
        values.f32 != nullptr ? double{LoadAt(values.f32, i)} : LoadAt(values.f64, i);
    const int code = EncodeOne(x, segment.params, counts);
    std::byte& byte = out[static_cast<size_t>(i / 2)];
    byte = i % 2 == 0 ? static_cast<std::byte>(code) : byte | static_cast<std::byte>(code << 4);
  }
}

void DecodeLloydRef(const Resolved&, std::span<const std::byte> packed, const ParamView& params,
                    int64_t, TileSpan out) {
  for (int64_t i = 0; i < out.num_elems; ++i) {
    const int byte = std::to_integer<int>(packed[static_cast<size_t>(i / 2)]);
    const double level = LevelRef(params, i % 2 == 0 ? byte & 0x0F : byte >> 4);
    if (out.f32 != nullptr) {
      out.f32[i] = static_cast<float>(level);
    } else {
      out.f64[i] = level;
    }
  }
}

}  // namespace

const Scheme& lloyd_scheme() {
  static const Scheme kScheme = [] {
    Scheme scheme = {.info = {},
                     .plan = PlanLloyd,
                     .resolve_constants = LearnLevels,
                     .resolve = nullptr,
                     .encode = EncodeLloyd,
                     .decode = DecodeLloyd,
                     .encode_ref = EncodeLloydRef,
                     .decode_ref = DecodeLloydRef};
    SchemeInfo& info = scheme.info;
    info.name = "lloyd";
    info.summary = "4-bit codes of 16 levels that are learned from the tensor";
    info.source = "Lloyd 1982, Max 1960";
    info.bits_per_code = info.bits = 4;
    info.granularities = {{.kind = GranularityKind::kTensor}};
    info.levels = {16};
    info.nonfinites = {NonFinite::kReject, NonFinite::kSaturate};
    return scheme;
  }();
  return kScheme;
}

}  // namespace quantd
