// ternary: 0 or one magnitude with a sign, in 2 bits: Ternary Weight Networks, whose dot products
// are sums and differences times a scale.
//
//   x    0.9 -0.1 0.2 -0.7    mean of |x| 0.475, threshold t = 0.7 * 0.475 = 0.3325
//   x'   0.8  0   0   -0.8    scale s = 0.8, the mean of 0.9 and 0.7, which are above t
//   code  1   0   0    -1     -> 0xC1, the first in the lowest bits
//
// The threshold is not the middle between 0 and s, which would be nearest, but near it for values
// of a normal distribution (0.56 and 0.59 deviations); it takes one pass to find and no search.
// With ggml's tq2_0, also 2 bits, s is the largest magnitude of a block: for values that are
// ternary already.
//
// Both means come from the histogram of the tensor, which merges exactly however it was scanned;
// its points are within 2^-8 of the values.
//
// Source: Li, Zhang, Liu, "Ternary Weight Networks", 2016, equation 6 (0.7 E|W|) and 4 (the scale).
// Entry: ternary_scheme. Tested by tests/core/scheme/reference_test.cc, segments_test.cc and
// ternary_test.cc.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/base/copy_bytes.h"
#include "core/base/status_macros.h"
#include "core/scheme/histogram_points.h"
#include "core/scheme/scheme.h"
#include "core/simd/bits.h"
#include "core/simd/signs.h"

namespace quantd {
namespace {

constexpr size_t kScalePlane = 1;
constexpr size_t kThresholdPlane = 2;
constexpr int kBits = 2;
constexpr double kShare = 0.7;  // of the mean

constexpr char kDefinition[] =
    R"(Codes of 2 bits, two's complement, with a threshold t and a scale s for the tensor. Points and
their weights are those of `lloyd`; sums over them are in f64, in their order, each |x| * weight first.

    t = f32(0.7 * (sum of |x| * weight / sum of weights))
    s = f32(the same of the points with |x| > t), 0 where there are none
    code = 1 where x > t, -1 where x < -t, else 0        in T
    x' = code * s                                        in U

t is at most 0.7 of the mean, so that some value is above it, where not all are 0. Code -2 is not
written, and is 0. Clipped: x that is not 0, and |x| of at least 1.5 * s, in T. Without finite values
t and s are 0.

| plane | dtype | shape |
| --- | --- | --- |
| codes | uint8 | [ceil(n / 4)]: a stream of bits over the flat tensor |
| scale | f32 | []: s |
| threshold | f32 | []: t, which decoding does not read |
)";

absl::StatusOr<PackedLayout> PlanTernary(const SchemeInfo&, const QuantSpec&,
                                         const TensorDesc& tensor) {
  PackedLayout layout;
  layout.row_elems = tensor.shape.num_elems();
  layout.atom_elems = 8 / kBits;
  layout.cut_atoms = true;
  layout.groups.row_elems = layout.groups.run_elems = std::max<int64_t>(layout.row_elems, 1);
  layout.tensor_evidence = kHistogram;
  QUANTD_ASSIGN_OR_RETURN(Shape code_shape, Shape::Make({layout.row_bytes()}));
  layout.planes = {{"codes", PlaneRole::kCodes, DType::kUint8, code_shape, layout.row_bytes()},
                   {"scale", PlaneRole::kConstant, DType::kF32, Shape(), sizeof(float)},
                   {"threshold", PlaneRole::kConstant, DType::kF32, Shape(), sizeof(float)}};
  return layout;
}

void FindMeans(const Resolved& resolved, const TensorEvidence& tensor, ParamPlanes out) {
  const HistogramPoints points(*tensor.histogram, resolved.tensor.dtype);
  // Returns the mean of the magnitudes above `bound`.
  const auto mean_above = [&points](double bound) {
    double sum = 0;
    int64_t total = 0;
    points.ForEach([&](double x, int64_t count) {
      if (std::fabs(x) <= bound) return;
      sum += std::fabs(x) * static_cast<double>(count);
      total += count;
    });
    return sum / static_cast<double>(std::max<int64_t>(total, 1));
  };
  const auto threshold = static_cast<float>(kShare * mean_above(-1));
  const auto scale = static_cast<float>(mean_above(threshold));
  std::memcpy(out.planes[kThresholdPlane].data(), &threshold, sizeof(threshold));
  std::memcpy(out.planes[kScalePlane].data(), &scale, sizeof(scale));
}

float FloatOf(const ParamView& params, size_t plane) {
  return LoadAt(reinterpret_cast<const float*>(params.planes[plane].data()), 0);
}

void EncodeTernary(const Resolved&, const Segment& segment, std::span<std::byte> out,
                   Counts* counts, Meter* meter) {
  const int64_t num_elems = segment.values.num_elems;
  const ThirdCoding coding = {.threshold = FloatOf(segment.params, kThresholdPlane),
                              .scale = FloatOf(segment.params, kScalePlane)};
  uint8_t codes[kTileElems];
  segment.values.Visit([&]<typename T>(const T* values) {
    counts->clipped += EncodeThirds(coding, values, num_elems, codes);
    if (meter == nullptr) return;
    T decoded[kTileElems];
    DecodeThirds(coding, codes, num_elems, decoded);
    MeasureSegment(values, decoded, num_elems, meter->lanes<T>());
  });
  PackBits(codes, num_elems, kBits, reinterpret_cast<uint8_t*>(out.data()));
}

void DecodeTernary(const Resolved&, std::span<const std::byte> packed, const ParamView& params,
                   int64_t, TileSpan out) {
  uint8_t codes[kTileElems];
  UnpackBits(reinterpret_cast<const uint8_t*>(packed.data()), out.num_elems, kBits, codes);
  const ThirdCoding coding = {.scale = FloatOf(params, kScalePlane)};
  out.Visit([&](auto* values) { DecodeThirds(coding, codes, out.num_elems, values); });
}

// --- The scalar definitions ---

float EntryRef(const ParamView& params, size_t plane) {
  float value;
  std::memcpy(&value, params.planes[plane].data(), sizeof(value));
  return value;
}

void EncodeTernaryRef(const Resolved&, const Segment& segment, std::span<std::byte> out,
                      Counts* counts) {
  const float scale = EntryRef(segment.params, 1), threshold = EntryRef(segment.params, 2);
  std::fill(out.begin(), out.end(), std::byte{0});
  for (int64_t i = 0; i < segment.values.num_elems; ++i) {
    segment.values.Visit([&]<typename T>(const T* from) {
      const T x = LoadAt(from, i);
      const int code = x > T{threshold} ? 1 : x < -T{threshold} ? 3 : 0;
      out[static_cast<size_t>(i / 4)] |= static_cast<std::byte>(code << i % 4 * 2);
      counts->clipped += x != 0 && std::fabs(x) >= T{1.5} * T{scale};
    });
  }
}

void DecodeTernaryRef(const Resolved&, std::span<const std::byte> packed, const ParamView& params,
                      int64_t, TileSpan out) {
  const float scale = EntryRef(params, 1);
  for (int64_t i = 0; i < out.num_elems; ++i) {
    const int code = std::to_integer<int>(packed[static_cast<size_t>(i / 4)]) >> i % 4 * 2 & 3;
    out.Visit([&]<typename T>(T* to) {
      const T value = code == 1 ? T{scale} : code == 3 ? -T{scale} : T{0};
      CopyBytes(to + i, &value, sizeof(value));
    });
  }
}

}  // namespace

const Scheme& ternary_scheme() {
  static const Scheme kScheme = [] {
    Scheme scheme = {.info = {},
                     .plan = PlanTernary,
                     .resolve_constants = FindMeans,
                     .resolve = nullptr,
                     .encode = EncodeTernary,
                     .decode = DecodeTernary,
                     .encode_ref = EncodeTernaryRef,
                     .decode_ref = DecodeTernaryRef};
    SchemeInfo& info = scheme.info;
    info.name = "ternary";
    info.summary = "0, or a magnitude with a sign: the mean of those above 0.7 of the mean";
    info.source = "nobody else's; the rule of Ternary Weight Networks, 2016";
    info.definition = kDefinition;
    info.bits_per_code = info.bits = kBits;
    info.granularities = {{.kind = GranularityKind::kTensor}};
    info.nonfinites = {NonFinite::kReject, NonFinite::kSaturate};
    return scheme;
  }();
  return kScheme;
}

}  // namespace quantd
