// Entry: FloatScheme. Tested by tests/core/scheme/reference_test.cc and golden_test.cc; the kernels
// by tests/core/simd/float_codes_test.cc.
#include "core/scheme/float_codes.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "core/base/checked_math.h"
#include "core/base/copy_bytes.h"
#include "core/base/minifloat.h"
#include "core/base/philox.h"
#include "core/base/status_macros.h"
#include "core/scheme/params.h"
#include "core/simd/convert.h"
#include "core/simd/float_codes.h"

namespace quantd {
namespace {

constexpr size_t kScalePlane = 1;

const MiniFormat& FormatOf(DType dtype) {
  if (dtype == DType::kF16) return kHalfFormat;
  return dtype == DType::kBf16 ? kBfloatFormat : kE4m3Format;
}

DType CodeType(const Resolved& resolved) { return resolved.layout.planes[0].dtype; }
bool HasScales(const Resolved& resolved) { return resolved.layout.planes.size() > kScalePlane; }
bool Saturates(const Resolved& resolved) {
  return *resolved.spec.nonfinite != NonFinite::kPropagate;
}

template <DType kDType>
absl::StatusOr<PackedLayout> PlanFloat(const SchemeInfo&, const QuantSpec& spec,
                                       const TensorDesc& tensor) {
  PackedLayout layout;
  layout.row_elems = tensor.shape.num_elems();
  layout.atom_bytes = SizeOf(kDType);
  QUANTD_ASSIGN_OR_RETURN(int64_t size_bytes, CheckedMul(layout.row_elems, layout.atom_bytes));
  layout.planes.push_back({"codes", PlaneRole::kCodes, kDType, tensor.shape, size_bytes});
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
float ScaleOf(const Resolved& resolved, double reach) {
  const MiniFormat& format = FormatOf(CodeType(resolved));
  const double largest = WidenFloat<double>(format, format.max_code);
  using Limits = std::numeric_limits<float>;
  const float scale = static_cast<float>(std::min<double>(reach / largest, Limits::max()));
  if (scale == 0) {
    if (resolved.spec.dialect == "compressed_tensors") return Limits::epsilon();
    return reach == 0 ? 1 : Limits::denorm_min();
  }
  const bool holds = std::isfinite(scale * static_cast<float>(largest));
  if (holds || !WorksAsF32(resolved.tensor.dtype)) return scale;
  const float most = static_cast<float>(Limits::max() / largest);
  return most * largest > Limits::max() ? std::nextafter(most, 0.0f) : most;
}

void ResolveScales(const Resolved& resolved, std::span<const Range> ranges, ParamPlanes out) {
  if (!HasScales(resolved)) return;
  for (size_t i = 0; i < ranges.size(); ++i) {
    const Range& range = ranges[i];  // empty without finite values
    const double reach =
        range.min <= range.max ? std::max(std::fabs(range.min), std::fabs(range.max)) : 0;
    const float scale = ScaleOf(resolved, reach);
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

void EncodeFloat(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                 Counts* counts, Meter* meter) {
  const TileView& values = segment.values;
  FloatCoding coding = {.dtype = CodeType(resolved),
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
  counts->clipped += values.Visit([&]<typename T>(const T* from) {
    return EncodeFloats(coding, from, values.num_elems, out.data(), LanesOf<T>(meter));
  });
}

void DecodeFloat(const Resolved& resolved, std::span<const std::byte> codes,
                 const ParamView& params, int64_t first_elem, TileSpan out) {
  FloatCoding coding = {.dtype = CodeType(resolved)};
  const SegmentScales scales(resolved, params, first_elem, out.num_elems, coding);
  out.Visit([&](auto* to) { DecodeFloats(coding, codes.data(), out.num_elems, to); });
}

// --- The scalar definitions ---

// What element `elem` is divided by.
float ScaleRef(const Resolved& resolved, const ParamView& params, int64_t elem) {
  if (resolved.layout.planes.size() == 1) return 1;
  const int64_t group = resolved.layout.groups.RunAt(elem).group - params.first_group;
  float scale;
  std::memcpy(&scale, params.planes[1].data() + group * int64_t{sizeof(scale)}, sizeof(scale));
  return scale;
}

template <typename T>
void EncodeRef(const Resolved& resolved, const Segment& segment, const T* values,
               std::span<std::byte> out, Counts* counts) {
  const DType dtype = resolved.layout.planes[0].dtype;
  const MiniFormat& format = FormatOf(dtype);
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
    const T v = resolved.layout.planes.size() == 1
                    ? x
                    : x / static_cast<T>(ScaleRef(resolved, segment.params, elem));
    if (std::isfinite(x) && std::fabs(v) >= largest + half_step) ++counts->clipped;
    const uint32_t code = NarrowFloat(format, v, *resolved.spec.rounding, saturate, noise);
    std::memcpy(out.data() + i * SizeOf(dtype), &code, static_cast<size_t>(SizeOf(dtype)));
  }
}

void EncodeFloatRef(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                    Counts* counts) {
  segment.values.Visit(
      [&](const auto* values) { EncodeRef(resolved, segment, values, out, counts); });
}

void DecodeFloatRef(const Resolved& resolved, std::span<const std::byte> codes,
                    const ParamView& params, int64_t first_elem, TileSpan out) {
  const DType dtype = resolved.layout.planes[0].dtype;
  const MiniFormat& format = FormatOf(dtype);
  const bool scaled = resolved.layout.planes.size() > 1;
  for (int64_t i = 0; i < out.num_elems; ++i) {
    uint32_t code = 0;
    std::memcpy(&code, codes.data() + i * SizeOf(dtype), static_cast<size_t>(SizeOf(dtype)));
    const float scale = ScaleRef(resolved, params, first_elem + i);
    out.Visit([&]<typename T>(T* to) {
      const T value = WidenFloat<T>(format, code);
      const T y = scaled ? value * T{scale} : value;
      CopyBytes(to + i, &y, sizeof(y));
    });
  }
}

}  // namespace

Scheme FloatScheme(DType dtype, SchemeInfo info) {
  info.bits = static_cast<int>(8 * SizeOf(dtype));
  info.bits_per_code = info.bits;
  info.roundings = {Rounding::kHalfEven, Rounding::kHalfAway, Rounding::kHalfUp,
                    Rounding::kHalfDown, Rounding::kTruncate, Rounding::kFloor,
                    Rounding::kCeil,     Rounding::kStochastic};
  info.nonfinites = {NonFinite::kReject, NonFinite::kSaturate, NonFinite::kPropagate};
  const bool may_scale = !info.granularities.empty();
  return {.info = std::move(info),
          .plan = dtype == DType::kF16    ? PlanFloat<DType::kF16>
                  : dtype == DType::kBf16 ? PlanFloat<DType::kBf16>
                                          : PlanFloat<DType::kF8E4M3>,
          .resolve_constants = nullptr,
          .resolve = may_scale ? ResolveScales : nullptr,
          .encode = EncodeFloat,
          .decode = DecodeFloat,
          .encode_ref = EncodeFloatRef,
          .decode_ref = DecodeFloatRef};
}

}  // namespace quantd
