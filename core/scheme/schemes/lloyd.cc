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
#include "core/scheme/lloyd_levels.h"
#include "core/scheme/scheme.h"
#include "core/simd/bits.h"

namespace quantd {
namespace {

constexpr size_t kCodebookPlane = 1;

constexpr char kDefinition[] =
    R"(16 levels for the whole tensor, learned from a histogram of its finite values. The buckets of the
histogram are the upper 16 bits of the value as f32 (f64: rounded to it, beyond it its largest). A
bucket with values is a point with their number as its weight. It lies at 0 where the edge of the
bucket nearer to zero is 0; else at that edge where the original is bf16, int8 or uint8, and in the
middle between both edges where it is not; the edge behind the last bucket is 2^128. Points are taken
in ascending order, first those of the buckets with the sign bit, then those without; all in f64, W
being the sum of all weights:

    first     level j = the first point with which the weights so far are at least (2 * j + 1) / 32 * W
    a round   a point belongs to cell k, k being how many of the 15 middles (level + next) / 2 lie below it
              next level k = sum of x * weight of cell k / its weight, sums in the order of points
              the first cell without points takes the point with the largest weight * error^2
              (computed (error * error) * weight, the first of equal ones), unless that is 0;
              other cells without points keep their level; then levels are sorted

Rounds end when all levels stay, or after 64. The levels, rounded to f32, are the codebook.

    code = how many of the 15 middles (level + next) / 2 of the codebook, in f64, lie below x
    x' = codebook[code]

Clipped: beyond an outermost level by half of the way to the next one that differs, or more. A tensor
without finite values has levels of 0.

| plane | dtype | shape |
| --- | --- | --- |
| codes | uint8 | [ceil(n / 2)]: nibbles low first, over the flat tensor, 0 beside an odd last one |
| codebook | f32 | [16] |
)";

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
  const std::array<double, 16> levels = LloydLevels(*tensor.histogram, resolved.tensor.dtype);
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
    const double x = values.Visit([&](const auto* from) { return double{LoadAt(from, i)}; });
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
    out.Visit([&]<typename T>(T* to) { to[i] = static_cast<T>(level); });
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
    info.source = "nobody else's; the method of Lloyd 1982, Max 1960";
    info.definition = kDefinition;
    info.bits_per_code = info.bits = 4;
    info.granularities = {{.kind = GranularityKind::kTensor}};
    info.levels = {16};
    info.nonfinites = {NonFinite::kReject, NonFinite::kSaturate};
    return scheme;
  }();
  return kScheme;
}

}  // namespace quantd
