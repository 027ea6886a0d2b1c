// Entry: FloatScheme. Tested by tests/core/scheme/reference_test.cc and golden_test.cc; the kernels
// by tests/core/simd/float_codes_test.cc.
#include "core/scheme/float_codes.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/substitute.h"
#include "core/base/checked_math.h"
#include "core/base/copy_bytes.h"
#include "core/base/minifloat.h"
#include "core/base/philox.h"
#include "core/base/status_macros.h"
#include "core/scheme/params.h"
#include "core/simd/bits.h"
#include "core/simd/convert.h"
#include "core/simd/float_codes.h"
#include "core/simd/small_floats.h"

namespace quantd {
namespace {

constexpr size_t kScalePlane = 1;

// The type of the plane of codes: uint8 where they share bytes.
DType CodeType(const MiniFormat& format) {
  if (&format == &kHalfFormat) return DType::kF16;
  if (&format == &kBfloatFormat) return DType::kBf16;
  if (&format == &kE4m3Format) return DType::kF8E4M3;
  return &format == &kE5m2Format ? DType::kF8E5M2 : DType::kUint8;
}
// True of the formats that are no type of their own in float_codes.h.
bool IsSmall(const MiniFormat& format) {
  return CodeType(format) == DType::kUint8 || CodeType(format) == DType::kF8E5M2;
}
int BitsOf(const MiniFormat& format) { return 1 + format.sign_shift(); }

bool HasScales(const Resolved& resolved) { return resolved.layout.scheme_planes() > kScalePlane; }
bool Saturates(const Resolved& resolved) {
  return *resolved.spec.nonfinite != NonFinite::kPropagate;
}

absl::StatusOr<PackedLayout> PlanFloat(const MiniFormat& format, const QuantSpec& spec,
                                       const TensorDesc& tensor) {
  PackedLayout layout;
  const int shared = std::gcd(BitsOf(format), 8);  // an atom ends where a code and a byte do
  layout.row_elems = tensor.shape.num_elems();
  layout.atom_elems = 8 / shared;
  layout.atom_bytes = BitsOf(format) / shared;
  layout.cut_atoms = BitsOf(format) < 8;
  QUANTD_RETURN_IF_ERROR(
      CheckedMul(CeilDiv(layout.row_elems, layout.atom_elems), layout.atom_bytes).status());
  int64_t size_bytes = layout.row_bytes();
  Shape code_shape = tensor.shape;
  if (layout.cut_atoms) {
    QUANTD_ASSIGN_OR_RETURN(code_shape, Shape::Make({size_bytes}));
  }
  layout.planes.push_back(
      {"codes", PlaneRole::kCodes, CodeType(format), std::move(code_shape), size_bytes});
  if (!spec.granularity.has_value()) {
    layout.groups.row_elems = layout.groups.run_elems = std::max<int64_t>(layout.row_elems, 1);
    return layout;
  }
  QUANTD_ASSIGN_OR_RETURN(Grouping grouping,
                          MakeGrouping(*spec.granularity, *spec.tail, tensor.shape));
  layout.groups = grouping.map;
  layout.band_evidence = kRange;
  QUANTD_ASSIGN_OR_RETURN(size_bytes, CheckedMul(grouping.map.num_groups, sizeof(float)));
  layout.planes.push_back({"scale", PlaneRole::kPerGroup, DType::kF32,
                           std::move(grouping.plane_shape), size_bytes});
  return layout;
}

// Returns the scale of a group of the magnitude `reach`, not negative. Of what works as f32 it is
// one that f32 holds the largest code's value of.
float ScaleOf(const MiniFormat& format, const Resolved& resolved, double reach) {
  const double largest = WidenFloat<double>(format, format.max_code);
  using Limits = std::numeric_limits<float>;
  float scale = static_cast<float>(std::min<double>(reach / largest, Limits::max()));
  if (resolved.spec.dialect == "compressed_tensors") {  // small scales stay, if they are not 0
    if (scale == 0) return Limits::epsilon();
  } else if (resolved.spec.dialect == "modelopt") {  // so do they there, which has no scale of 0
    if (scale == 0) return 1;
  } else {
    if (reach == 0) return 1;
    scale = std::max(scale, Limits::min());
  }
  const bool holds = std::isfinite(scale * static_cast<float>(largest));
  if (holds || !WorksAsF32(resolved.tensor.dtype)) return scale;
  const float most = static_cast<float>(Limits::max() / largest);
  return most * largest > Limits::max() ? std::nextafter(most, 0.0f) : most;
}

void ResolveScales(const MiniFormat& format, const Resolved& resolved,
                   std::span<const Range> ranges, ParamPlanes out) {
  if (!HasScales(resolved)) return;
  for (size_t i = 0; i < ranges.size(); ++i) {
    const Range& range = ranges[i];  // empty without finite values
    const double reach =
        range.min <= range.max ? std::max(std::fabs(range.min), std::fabs(range.max)) : 0;
    const float scale = ScaleOf(format, resolved, reach);
    std::memcpy(out.planes[kScalePlane].data() + i * sizeof(scale), &scale, sizeof(scale));
  }
}

// Scales of a segment, as kernels take them.
class SegmentScales {
 public:
  SegmentScales(const Resolved& resolved, const ParamView& params, int64_t first_elem,
                int64_t num_elems, FloatCoding& coding) {
    if (!HasScales(resolved)) return;
    const PackedLayout& layout = resolved.layout;
    const ParamMap map(layout.groups, first_elem, num_elems);
    coding.scales = ReadScales(layout.planes[kScalePlane], params.planes[kScalePlane],
                               params.first_group, map, scales_);
    if (!map.per_elem()) coding.ends = {ends_, static_cast<size_t>(map.RunEnds(ends_))};
  }
  SegmentScales(const SegmentScales&) = delete;
  SegmentScales& operator=(const SegmentScales&) = delete;

 private:
  float scales_[kTileElems];  // where they do not lie as they are wanted
  int32_t ends_[kMaxRuns];
};

void EncodeFloat(const MiniFormat& format, const Resolved& resolved, const Segment& segment,
                 std::span<std::byte> out, Counts* counts, Meter* meter) {
  const TileView& values = segment.values;
  FloatCoding coding = {.dtype = CodeType(format),
                        .rounding = *resolved.spec.rounding,
                        .saturate = Saturates(resolved)};
  uint32_t noise[kTileElems];
  if (coding.rounding == Rounding::kStochastic) {
    FillNoise(*resolved.spec.seed, resolved.name_hash, segment.first_elem,
              {noise, static_cast<size_t>(values.num_elems)});
    coding.noise = noise;
  }
  const SegmentScales scales(resolved, segment.params, segment.first_elem, values.num_elems,
                             coding);
  uint8_t unpacked[kTileElems];
  uint8_t* packed = reinterpret_cast<uint8_t*>(out.data());
  uint8_t* bytes = resolved.layout.cut_atoms ? unpacked : packed;
  counts->clipped += values.Visit([&]<typename T>(const T* from) {
    if (!IsSmall(format)) {
      return EncodeFloats(coding, from, values.num_elems, out.data(), LanesOf<T>(meter));
    }
    return EncodeSmallFloats(format, coding, from, values.num_elems, bytes, LanesOf<T>(meter));
  });
  if (resolved.layout.cut_atoms) PackBits(unpacked, values.num_elems, BitsOf(format), packed);
}

void DecodeFloat(const MiniFormat& format, const Resolved& resolved,
                 std::span<const std::byte> codes, const ParamView& params, int64_t first_elem,
                 TileSpan out) {
  FloatCoding coding = {.dtype = CodeType(format)};
  const SegmentScales scales(resolved, params, first_elem, out.num_elems, coding);
  if (!IsSmall(format)) {
    out.Visit([&](auto* to) { DecodeFloats(coding, codes.data(), out.num_elems, to); });
    return;
  }
  uint8_t unpacked[kTileElems];
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(codes.data());
  if (resolved.layout.cut_atoms) {
    UnpackBits(bytes, out.num_elems, BitsOf(format), unpacked);
    bytes = unpacked;
  }
  out.Visit([&](auto* to) { DecodeSmallFloats(format, coding, bytes, out.num_elems, to); });
}

// --- The scalar definitions ---

// What element `elem` is divided by.
float ScaleRef(const Resolved& resolved, const ParamView& params, int64_t elem) {
  if (resolved.layout.scheme_planes() == 1) return 1;
  const int64_t group = resolved.layout.groups.RunAt(elem).group - params.first_group;
  float scale;
  std::memcpy(&scale, params.planes[1].data() + group * int64_t{sizeof(scale)}, sizeof(scale));
  return scale;
}

template <typename T>
void EncodeRef(const MiniFormat& format, const Resolved& resolved, const Segment& segment,
               const T* values, std::span<std::byte> out, Counts* counts) {
  const int bits = 1 + format.exp_bits + format.man_bits;
  std::fill(out.begin(), out.end(), std::byte{0});
  const bool saturate = *resolved.spec.nonfinite != NonFinite::kPropagate;
  const double largest = WidenFloat<double>(format, format.max_code);
  const double half_step = 0.5 * (largest - WidenFloat<double>(format, format.max_code - 1));
  for (int64_t i = 0; i < segment.values.num_elems; ++i) {
    const int64_t elem = segment.first_elem + i;
    uint32_t noise = 0;
    if (*resolved.spec.rounding == Rounding::kStochastic) {
      FillNoise(*resolved.spec.seed, resolved.name_hash, elem, {&noise, 1});
    }
    const T x = LoadAt(values, i);
    const T v = resolved.layout.scheme_planes() == 1
                    ? x
                    : x / static_cast<T>(ScaleRef(resolved, segment.params, elem));
    if (std::isfinite(x) && std::fabs(v) >= largest + half_step) ++counts->clipped;
    const uint32_t code = NarrowFloat(format, v, *resolved.spec.rounding, saturate, noise);
    for (int64_t bit = 0, at = i * bits; bit < bits; ++bit, ++at) {
      out[static_cast<size_t>(at / 8)] |= static_cast<std::byte>((code >> bit & 1) << at % 8);
    }
  }
}

void EncodeFloatRef(const MiniFormat& format, const Resolved& resolved, const Segment& segment,
                    std::span<std::byte> out, Counts* counts) {
  segment.values.Visit(
      [&](const auto* values) { EncodeRef(format, resolved, segment, values, out, counts); });
}

void DecodeFloatRef(const MiniFormat& format, const Resolved& resolved,
                    std::span<const std::byte> codes, const ParamView& params, int64_t first_elem,
                    TileSpan out) {
  const int bits = 1 + format.exp_bits + format.man_bits;
  const bool scaled = resolved.layout.scheme_planes() > 1;
  for (int64_t i = 0; i < out.num_elems; ++i) {
    uint32_t code = 0;
    for (int64_t bit = 0, at = i * bits; bit < bits; ++bit, ++at) {
      code |= (std::to_integer<uint32_t>(codes[static_cast<size_t>(at / 8)]) >> at % 8 & 1) << bit;
    }
    const float scale = ScaleRef(resolved, params, first_elem + i);
    out.Visit([&]<typename T>(T* to) {
      const T value = WidenFloat<T>(format, code);
      const T y = scaled ? value * T{scale} : value;
      CopyBytes(to + i, &y, sizeof(y));
    });
  }
}

constexpr absl::string_view kDefinition =
    R"(code = narrow(x): the value of T, rounded once to the format's significant bits, or where it is less
than the format's least normal number to a multiple of its least subnormal one. Directions are those
of `round`, by the sign of the value: up is toward +infinity, a zero keeps its sign. `stochastic`: of
the d bits that are cut off (of T's significand, 24 or 53 bits with the leading one) rest is their
value; the magnitude grows by a unit where rest > r, r being the upper d bits of the noise (d > 32:
the noise * 2^(d - 32)). d ends at 31 (f64: 60): what lies further below counts, if it is not 0, as
rest = 1 (f64: 2^29).
)";

// A range is of use for scales alone: for one of the tensor where no granularity is given. Blocks
// at the edges are short, as their consumers have them.
absl::Status CompleteScaled(const SchemeInfo&, const TensorDesc&, QuantSpec& spec) {
  const bool any_range =
      spec.given_range.has_value() || (!spec.range.empty() && spec.range != "minmax");
  if (any_range && !spec.granularity) spec.granularity = Granularity{};
  const bool blocks = spec.granularity && spec.granularity->kind == GranularityKind::kBlock;
  if (blocks && !spec.tail) spec.tail = Tail::kShort;
  return absl::OkStatus();
}

}  // namespace

template <const MiniFormat& kFormat>
Scheme FloatScheme(SchemeInfo info) {
  absl::StrAppend(&info.definition, "\n", kDefinition);
  info.bits = BitsOf(kFormat);
  info.bits_per_code = info.bits;
  info.roundings = {Rounding::kHalfEven, Rounding::kHalfAway, Rounding::kHalfUp,
                    Rounding::kHalfDown, Rounding::kTruncate, Rounding::kFloor,
                    Rounding::kCeil,     Rounding::kStochastic};
  info.nonfinites = {NonFinite::kReject, NonFinite::kSaturate};
  if (kFormat.nan_code != 0) info.nonfinites.push_back(NonFinite::kPropagate);
  const bool may_scale = !info.granularities.empty();
  Scheme scheme{};
  scheme.info = std::move(info);
  if (may_scale) {
    scheme.complete = CompleteScaled;
    scheme.resolve = [](const Resolved& resolved, std::span<const Range> ranges, ParamPlanes out) {
      ResolveScales(kFormat, resolved, ranges, out);
    };
  }
  scheme.plan = [](const SchemeInfo&, const QuantSpec& spec, const TensorDesc& tensor) {
    return PlanFloat(kFormat, spec, tensor);
  };
  scheme.encode = [](const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                     Counts* counts, Meter* meter) {
    EncodeFloat(kFormat, resolved, segment, out, counts, meter);
  };
  scheme.decode = [](const Resolved& resolved, std::span<const std::byte> codes,
                     const ParamView& params, int64_t first_elem, TileSpan out) {
    DecodeFloat(kFormat, resolved, codes, params, first_elem, out);
  };
  scheme.encode_ref = [](const Resolved& resolved, const Segment& segment,
                         std::span<std::byte> out, Counts* counts) {
    EncodeFloatRef(kFormat, resolved, segment, out, counts);
  };
  scheme.decode_ref = [](const Resolved& resolved, std::span<const std::byte> codes,
                         const ParamView& params, int64_t first_elem, TileSpan out) {
    DecodeFloatRef(kFormat, resolved, codes, params, first_elem, out);
  };
  return scheme;
}

template Scheme FloatScheme<kHalfFormat>(SchemeInfo);
template Scheme FloatScheme<kBfloatFormat>(SchemeInfo);
template Scheme FloatScheme<kE4m3Format>(SchemeInfo);
template Scheme FloatScheme<kE5m2Format>(SchemeInfo);
template Scheme FloatScheme<kE2m3Format>(SchemeInfo);
template Scheme FloatScheme<kE3m2Format>(SchemeInfo);
template Scheme FloatScheme<kE2m1Format>(SchemeInfo);

SchemeInfo ScaledFloatInfo() {
  SchemeInfo info;
  info.granularities = {{.kind = GranularityKind::kTensor},
                        {.kind = GranularityKind::kAxis},
                        {.kind = GranularityKind::kGroup},
                        {.kind = GranularityKind::kBlock}};
  info.granularity_optional = true;
  info.dialects = {{.name = "ocp"}};
  info.tails = {Tail::kReject, Tail::kShort};
  info.takes_range = true;
  return info;
}

std::string ScaledFloatDefinition(const ScaledFloat& format) {
  constexpr absl::string_view kText =
      R"(Codes are OCP's $0; 0x$1 is the largest ($2), $3 the least subnormal one.

    code = narrow(x),  x' = the value of the code, exactly                  without a granularity
    code = narrow(x / s) in T,  x' = the value of the code * s in U         with one, s of the group

A granularity alone says that there are scales: `range=` without one means `per=tensor`. s is the
larger one of |min| and |max|, divided by $2 in f64, rounded to f32 (at most its largest), at least
2^-126, and 1 for an all-zero group. Where T is f32 and s * $2 infinite in f32, s is f32's largest
/ $2, rounded toward 0.

What rounds to more than $2 becomes $2 with its sign, whatever the rounding$4. Clipped: |x| or
|x / s| of $5 and more. `block=` has `tail=short` unless told otherwise.

| plane | dtype | shape |
| --- | --- | --- |
| codes | $6 |
| scale | f32 | of the groups; not without a granularity |
)";
  return absl::Substitute(kText, format.layout, absl::Hex(format.largest_code), format.largest,
                          format.least, format.beyond, format.clipped, format.plane);
}

}  // namespace quantd
