// Entry: AffineScheme. Tested by tests/core/scheme/affine_test.cc and reference_test.cc.
#include "core/scheme/affine.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/philox.h"
#include "core/base/status_macros.h"
#include "core/simd/affine.h"
#include "core/simd/bits.h"
#include "core/simd/convert.h"

namespace quantd {
namespace {

static_assert(kMaxRuns <= kMaxAffineRuns);

constexpr size_t kScalePlane = 1;
constexpr size_t kZeroPlane = 2;  // where there is one

using CodeRange = AffineCodeRange;

bool HasZeroPlane(const SchemeInfo& info, const QuantSpec& spec) {
  if (spec.scale.has_value()) return spec.zero_point.value_or(0) != 0;
  return !info.is_signed || spec.mode == Mode::kAsymmetric;
}

// The type of zero points, and of codes but where two share a byte.
DType CodeType(const SchemeInfo& info) {
  if (info.bits == 16) return DType::kInt16;
  return info.is_signed ? DType::kInt8 : DType::kUint8;
}

absl::StatusOr<PackedLayout> PlanAffine(const SchemeInfo& info, const QuantSpec& spec,
                                        const TensorDesc& tensor) {
  QUANTD_ASSIGN_OR_RETURN(Grouping grouping,
                          MakeGrouping(*spec.granularity, *spec.tail, tensor.shape));
  PackedLayout layout;
  layout.groups = grouping.map;
  layout.row_elems = tensor.shape.num_elems();
  layout.atom_elems = info.bits == 4 ? 2 : 1;
  layout.atom_bytes = info.bits == 16 ? 2 : 1;
  if (!spec.scale.has_value()) layout.band_evidence = kRange;
  Shape code_shape = tensor.shape;
  if (info.bits == 4) {  // packed over the flat tensor
    QUANTD_ASSIGN_OR_RETURN(code_shape, Shape::Make({CeilDiv(tensor.shape.num_elems(), 2)}));
  }
  QUANTD_ASSIGN_OR_RETURN(
      int64_t code_bytes,
      CheckedMul(CeilDiv(layout.row_elems, layout.atom_elems), layout.atom_bytes));
  layout.planes.push_back({"codes", PlaneRole::kCodes,
                           info.bits == 4 ? DType::kUint8 : CodeType(info), std::move(code_shape),
                           code_bytes});
  const auto add_param = [&](const char* name, DType dtype) -> absl::Status {
    QUANTD_ASSIGN_OR_RETURN(int64_t size_bytes, CheckedMul(grouping.map.num_groups, SizeOf(dtype)));
    layout.planes.push_back({name, PlaneRole::kPerGroup, dtype, grouping.plane_shape, size_bytes});
    return absl::OkStatus();
  };
  QUANTD_RETURN_IF_ERROR(add_param("scale", ScaleDType(*spec.scale_type)));
  if (HasZeroPlane(info, spec)) QUANTD_RETURN_IF_ERROR(add_param("zero_point", CodeType(info)));
  return layout;
}

// The parameters of a segment.
class SegmentParams {
 public:
  SegmentParams(const Resolved& resolved, const ParamView& params, int64_t first_elem,
                int64_t num_elems) {
    const std::vector<PlaneDesc>& planes = resolved.layout.planes;
    const ParamMap map(resolved.layout.groups, first_elem, num_elems);
    if (!map.per_elem()) {
      view_.num_runs = map.RunEnds(ends_);
      view_.ends = ends_;
    }
    view_.scales = ReadScales(planes[kScalePlane], params.planes[kScalePlane], params.first_group,
                              map, scales_);
    if (planes.size() > kZeroPlane) {
      ReadZeroPoints(planes[kZeroPlane], params.planes[kZeroPlane], params.first_group, map,
                     zero_points_);
      view_.zero_points = zero_points_;
    } else if (!resolved.spec.scale.has_value()) {
      view_.zero_point = RangeOfAffineCodes(*resolved.info, resolved.spec).centre;
    }
  }

  const AffineParams& view() const { return view_; }

 private:
  AffineParams view_;
  float scales_[kTileElems];
  int32_t zero_points_[kTileElems];
  int32_t ends_[kMaxRuns];
};

template <typename T>
int64_t EncodeAs(const Resolved& resolved, const Segment& segment, const T* values,
                 std::span<std::byte> out, MeterLanes<T>* lanes) {
  const int64_t num_elems = segment.values.num_elems;
  const CodeRange codes = RangeOfAffineCodes(*resolved.info, resolved.spec);
  AffineRule rule;
  rule.rounding = *resolved.spec.rounding;
  rule.zero_first = resolved.spec.dialect == kCompressedTensors;
  rule.min_code = codes.min;
  rule.max_code = codes.max;
  uint32_t noise[kTileElems];
  if (rule.rounding == Rounding::kStochastic) {
    FillNoise(*resolved.spec.seed, resolved.name_hash, segment.first_elem,
              {noise, static_cast<size_t>(num_elems)});
    rule.noise = noise;
  }
  const SegmentParams params(resolved, segment.params, segment.first_elem, num_elems);
  uint8_t* bytes = reinterpret_cast<uint8_t*>(out.data());
  if (resolved.info->bits == 16) {
    return EncodeAffine(rule, params.view(), values, num_elems,
                        reinterpret_cast<uint16_t*>(out.data()), lanes);
  }
  if (resolved.info->bits == 8) {
    return EncodeAffine(rule, params.view(), values, num_elems, bytes, lanes);
  }
  uint8_t unpacked[kTileElems];
  const int64_t clipped =
      EncodeAffine(rule, params.view(), values, num_elems, unpacked, lanes);
  PackNibbles(unpacked, num_elems, /*first_high=*/false, bytes);
  return clipped;
}

void EncodeAffineScheme(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                        Counts* counts, Meter* meter) {
  counts->clipped += segment.values.Visit([&]<typename T>(const T* values) {
    return EncodeAs(resolved, segment, values, out, LanesOf<T>(meter));
  });
}

void DecodeAffineScheme(const Resolved& resolved, std::span<const std::byte> codes,
                        const ParamView& params, int64_t first_elem, TileSpan out) {
  const SchemeInfo& info = *resolved.info;
  const SegmentParams segment(resolved, params, first_elem, out.num_elems);
  const AffineCode type = info.bits == 16   ? AffineCode::kInt16
                          : info.is_signed ? AffineCode::kInt8
                                           : AffineCode::kUint8;
  const void* from = codes.data();
  uint8_t unpacked[kTileElems];
  if (info.bits == 4) {
    const uint8_t* packed = reinterpret_cast<const uint8_t*>(codes.data());
    if (info.is_signed) {
      UnpackSignedNibbles(packed, out.num_elems, /*first_high=*/false,
                          reinterpret_cast<int8_t*>(unpacked));
    } else {
      UnpackNibbles(packed, out.num_elems, /*first_high=*/false, unpacked);
    }
    from = unpacked;
  }
  out.Visit([&](auto* to) { DecodeAffine(type, from, out.num_elems, segment.view(), to); });
}

// A scale that is given becomes what is stored. Of what works as f32 it is refused where f32 would
// not hold what the outermost codes stand for.
absl::Status CompleteScale(const SchemeInfo& info, const TensorDesc& tensor, QuantSpec& spec) {
  QUANTD_ASSIGN_OR_RETURN(
      const double stored,
      NearestScale(*spec.scale, spec.scale_type.value_or(info.scale_types.front())));
  spec.scale = stored;
  const CodeRange codes = RangeOfAffineCodes(info, spec);
  const int64_t zero_point = std::clamp<int64_t>(spec.zero_point.value_or(0), codes.min, codes.max);
  const auto steps = static_cast<float>(std::max(codes.max - zero_point, zero_point - codes.min));
  if (!WorksAsF32(tensor.dtype) || std::isfinite(static_cast<float>(stored) * steps)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("scale=", FormatDouble(stored), " times the ", steps, " steps of ", info.name,
                   " is more than f32 holds; use at most ",
                   FormatDouble(std::nextafter(std::numeric_limits<float>::max() / steps, 0.0f))));
}

// compressed-tensors has no codes from -(2^(b-1)-1).
absl::Status CompleteAffine(const SchemeInfo& info, const TensorDesc& tensor, QuantSpec& spec) {
  if (spec.scale) QUANTD_RETURN_IF_ERROR(CompleteScale(info, tensor, spec));
  if (spec.dialect != kCompressedTensors || spec.mode != Mode::kSymmetric) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("dialect ", kCompressedTensors, " of scheme ", info.name,
                   " does not have mode=symmetric; it has full, asymmetric"));
}

}  // namespace

AffineCodeRange RangeOfAffineCodes(const SchemeInfo& info, const QuantSpec& spec) {
  const int32_t centre = info.is_signed ? 0 : 1 << (info.bits - 1);
  const int32_t reach = (1 << (info.bits - 1)) - 1;
  // With the scale given outright there is no mode, and all codes are used.
  const bool symmetric = spec.mode == Mode::kSymmetric;
  return {centre - reach - (symmetric ? 0 : 1), centre + reach, centre};
}

SchemeInfo AffineInfo(absl::string_view name, absl::string_view summary, int bits, bool is_signed) {
  SchemeInfo info;
  info.name = name;
  info.summary = summary;
  info.source = "ONNX QuantizeLinear, opset 21";
  info.bits_per_code = info.bits = bits;
  info.is_signed = is_signed;
  info.granularities = {{.kind = GranularityKind::kTensor},
                        {.kind = GranularityKind::kAxis},
                        {.kind = GranularityKind::kGroup},
                        {.kind = GranularityKind::kBlock}};
  info.modes = is_signed ? std::vector{Mode::kSymmetric, Mode::kFull, Mode::kAsymmetric}
                         : std::vector{Mode::kAsymmetric, Mode::kSymmetric, Mode::kFull};
  info.roundings = {Rounding::kHalfEven, Rounding::kHalfAway,  Rounding::kHalfUp,
                    Rounding::kHalfDown, Rounding::kTruncate,  Rounding::kFloor,
                    Rounding::kCeil,     Rounding::kStochastic};
  info.scale_types = {ScaleType::kF32, ScaleType::kF16, ScaleType::kBf16, ScaleType::kPow2};
  info.dialects = {{.name = "onnx"}};
  if (is_signed && bits <= 8) {
    info.dialects.push_back({.name = kCompressedTensors,
                             .defaults = {.mode = Mode::kFull,
                                          .rounding = Rounding::kHalfEven,
                                          .scale_type = ScaleType::kF32},
                             .fixed = {"round", "scale_type"}});
  }
  info.nonfinites = {NonFinite::kReject, NonFinite::kSaturate};
  info.tails = {Tail::kReject, Tail::kShort};
  info.takes_range = info.takes_scale = true;
  return info;
}

Scheme AffineScheme(SchemeInfo info) {
  return {.info = std::move(info),
          .complete = CompleteAffine,
          .plan = PlanAffine,
          .resolve_constants = nullptr,
          .resolve = ResolveAffine,
          .encode = EncodeAffineScheme,
          .decode = DecodeAffineScheme,
          .encode_ref = EncodeAffineRef,
          .decode_ref = DecodeAffineRef};
}

}  // namespace quantd
