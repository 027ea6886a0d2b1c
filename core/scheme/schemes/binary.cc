// binary: a sign and, for each group, one magnitude: the weights of XNOR-Net, a bit each, whose dot
// products are counts of bits times the scale.
//
//   x   0.3 -0.1  0  -0.4      s = mean of |x| = 0.2      (range=absmean, the default)
//   x'  0.2 -0.2 0.2 -0.2      bits  1 0 1 0 -> 0x05      the first in the lowest bit
//
// That mean is the s with the least squared error of s * sign(x): with s the mean of a normal
// distribution's magnitudes the signal is 4.4 dB above the error, where ternary has 7 dB in twice
// the bits. Other ranges are taken too: then s is the larger one of |min| and |max|.
//
// Source: Rastegari et al., "XNOR-Net", 2016, section 3.1: the sign is +1 where x >= 0. Entry:
// binary_scheme. Tested by tests/core/scheme/reference_test.cc, segments_test.cc and
// edge_values_test.cc.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "core/base/checked_math.h"
#include "core/base/copy_bytes.h"
#include "core/base/status_macros.h"
#include "core/scheme/elem_scales.h"
#include "core/scheme/scheme.h"
#include "core/simd/bits.h"
#include "core/simd/signs.h"

namespace quantd {
namespace {

constexpr size_t kScalePlane = 1;

constexpr char kDefinition[] =
    R"(A sign for each value, and a scale s for each group. `range=absmean` is the default here.

    s = f32(the larger one of |min| and |max|), at most f32's largest
    code = 1 where x >= 0 (-0 too), else 0
    x' = s where the code is 1, else -s                  in U

A group of zeros alone has s = 0. Clipped: x that is not 0, and |x| of at least s + s, in T.

| plane | dtype | shape |
| --- | --- | --- |
| codes | uint8 | [ceil(n / 8)]: a stream of bits over the flat tensor |
| scale | f32 | of the groups |
)";

absl::Status CompleteBinary(const SchemeInfo&, const TensorDesc&, QuantSpec& spec) {
  if (spec.range.empty() && !spec.given_range) spec.range = "absmean";
  return absl::OkStatus();
}

absl::StatusOr<PackedLayout> PlanBinary(const SchemeInfo&, const QuantSpec& spec,
                                        const TensorDesc& tensor) {
  QUANTD_ASSIGN_OR_RETURN(Grouping grouping,
                          MakeGrouping(*spec.granularity, *spec.tail, tensor.shape));
  PackedLayout layout;
  layout.groups = grouping.map;
  layout.row_elems = tensor.shape.num_elems();
  layout.atom_elems = 8;
  layout.cut_atoms = true;
  layout.band_evidence = kRange;
  QUANTD_ASSIGN_OR_RETURN(Shape code_shape, Shape::Make({layout.row_bytes()}));
  QUANTD_ASSIGN_OR_RETURN(const int64_t scale_bytes,
                          CheckedMul(grouping.map.num_groups, sizeof(float)));
  layout.planes = {{"codes", PlaneRole::kCodes, DType::kUint8, code_shape, layout.row_bytes()},
                   {"scale", PlaneRole::kPerGroup, DType::kF32, std::move(grouping.plane_shape),
                    scale_bytes}};
  return layout;
}

void ResolveBinary(const Resolved&, std::span<const Range> ranges, ParamPlanes out) {
  for (size_t i = 0; i < ranges.size(); ++i) {
    const Range& range = ranges[i];  // empty without finite values
    const double reach =
        range.min <= range.max ? std::max(std::fabs(range.min), std::fabs(range.max)) : 0;
    const auto scale =
        static_cast<float>(std::min<double>(reach, std::numeric_limits<float>::max()));
    std::memcpy(out.planes[kScalePlane].data() + i * sizeof(scale), &scale, sizeof(scale));
  }
}

void EncodeBinary(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                  Counts* counts, Meter* meter) {
  const int64_t num_elems = segment.values.num_elems;
  const ElemScales scales(resolved, kScalePlane, segment.params, segment.first_elem, num_elems);
  const SignCoding coding = {.zero = true, .scales = scales.data()};
  uint8_t codes[kTileElems];
  segment.values.Visit([&]<typename T>(const T* values) {
    counts->clipped += EncodeSigns(coding, values, num_elems, codes);
    if (meter == nullptr) return;
    T decoded[kTileElems];
    DecodeSigns(coding, codes, num_elems, decoded);
    ForEachRun(resolved.layout.groups, segment.first_elem, num_elems,
               [&](int64_t begin, int64_t count) {
                 MeasureSegment(values + begin, decoded + begin, count, meter->lanes<T>());
               });
  });
  PackBits(codes, num_elems, 1, reinterpret_cast<uint8_t*>(out.data()));
}

void DecodeBinary(const Resolved& resolved, std::span<const std::byte> packed,
                  const ParamView& params, int64_t first_elem, TileSpan out) {
  const ElemScales scales(resolved, kScalePlane, params, first_elem, out.num_elems);
  uint8_t codes[kTileElems];
  UnpackBits(reinterpret_cast<const uint8_t*>(packed.data()), out.num_elems, 1, codes);
  out.Visit([&](auto* values) {
    DecodeSigns({.zero = true, .scales = scales.data()}, codes, out.num_elems, values);
  });
}

// --- The scalar definitions ---

float ScaleRef(const Resolved& resolved, const ParamView& params, int64_t elem) {
  const int64_t entry = resolved.layout.groups.RunAt(elem).group - params.first_group;
  float scale;
  std::memcpy(&scale, &params.planes[1][static_cast<size_t>(entry) * 4], 4);
  return scale;
}

void EncodeBinaryRef(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                     Counts* counts) {
  std::fill(out.begin(), out.end(), std::byte{0});
  for (int64_t i = 0; i < segment.values.num_elems; ++i) {
    const float scale = ScaleRef(resolved, segment.params, segment.first_elem + i);
    segment.values.Visit([&]<typename T>(const T* from) {
      const T x = LoadAt(from, i), twice = T{scale} + T{scale};
      if (x >= 0) out[static_cast<size_t>(i / 8)] |= static_cast<std::byte>(1 << i % 8);
      counts->clipped += x != 0 && std::fabs(x) >= twice;
    });
  }
}

void DecodeBinaryRef(const Resolved& resolved, std::span<const std::byte> packed,
                     const ParamView& params, int64_t first_elem, TileSpan out) {
  for (int64_t i = 0; i < out.num_elems; ++i) {
    const float scale = ScaleRef(resolved, params, first_elem + i);
    const auto byte = std::to_integer<int>(packed[static_cast<size_t>(i / 8)]);
    out.Visit([&]<typename T>(T* to) {
      const T value = (byte >> i % 8 & 1) != 0 ? T{scale} : -T{scale};
      CopyBytes(to + i, &value, sizeof(value));
    });
  }
}

}  // namespace

const Scheme& binary_scheme() {
  static const Scheme kScheme = [] {
    Scheme scheme = {.info = {},
                     .complete = CompleteBinary,
                     .plan = PlanBinary,
                     .resolve_constants = nullptr,
                     .resolve = ResolveBinary,
                     .encode = EncodeBinary,
                     .decode = DecodeBinary,
                     .encode_ref = EncodeBinaryRef,
                     .decode_ref = DecodeBinaryRef};
    SchemeInfo& info = scheme.info;
    info.name = "binary";
    info.summary = "signs, and the mean of magnitudes for each group";
    info.source = "nobody else's; the rule of XNOR-Net, 2016";
    info.definition = kDefinition;
    info.bits_per_code = info.bits = 1;
    info.is_signed = false;
    info.granularities = {{.kind = GranularityKind::kTensor},
                          {.kind = GranularityKind::kAxis},
                          {.kind = GranularityKind::kGroup}};
    info.nonfinites = {NonFinite::kReject, NonFinite::kSaturate};
    info.tails = {Tail::kReject, Tail::kShort};
    info.takes_range = true;
    return scheme;
  }();
  return kScheme;
}

}  // namespace quantd
