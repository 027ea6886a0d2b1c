// Entry: FixedPointScheme. Tested by tests/core/scheme/reference_test.cc, fixed_point_test.cc and
// golden_test.cc.
#include "core/scheme/fixed_point.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/substitute.h"
#include "core/base/checked_math.h"
#include "core/base/copy_bytes.h"
#include "core/base/philox.h"
#include "core/base/status_macros.h"
#include "core/scheme/params.h"
#include "core/simd/fixed_point.h"

namespace quantd {
namespace {

constexpr size_t kScalePlane = 1;
constexpr double kTwo63 = 0x1p63;

absl::StatusOr<PackedLayout> PlanFixedPoint(const SchemeInfo& info, const QuantSpec& spec,
                                            const TensorDesc& tensor) {
  QUANTD_ASSIGN_OR_RETURN(Grouping grouping,
                          MakeGrouping(*spec.granularity, *spec.tail, tensor.shape));
  PackedLayout layout;
  layout.groups = grouping.map;
  layout.row_elems = tensor.shape.num_elems();
  layout.atom_bytes = info.bits / 8;
  if (!spec.scale.has_value()) layout.band_evidence = kRange;
  QUANTD_ASSIGN_OR_RETURN(int64_t size_bytes, CheckedMul(layout.row_elems, layout.atom_bytes));
  layout.planes.push_back({"codes", PlaneRole::kCodes,
                           info.bits == 64 ? DType::kInt64 : DType::kInt32, tensor.shape,
                           size_bytes});
  QUANTD_ASSIGN_OR_RETURN(size_bytes, CheckedMul(grouping.map.num_groups, sizeof(float)));
  layout.planes.push_back({"scale", PlaneRole::kPerGroup, DType::kF32,
                           std::move(grouping.plane_shape), size_bytes});
  return layout;
}

// A scale that is given becomes what is stored.
absl::Status CompleteFixedPoint(const SchemeInfo& info, const TensorDesc&, QuantSpec& spec) {
  if (!spec.scale) return absl::OkStatus();
  QUANTD_ASSIGN_OR_RETURN(
      spec.scale, NearestScale(*spec.scale, spec.scale_type.value_or(info.scale_types.front())));
  return absl::OkStatus();
}

// Returns the scale of a group of the magnitude `reach`, of which it holds all.
double ScaleOf(const Resolved& resolved, double reach) {
  // The largest f64 that is no more than the last code.
  const double last = resolved.info->bits == 64 ? 0x1.FFFFFFFFFFFFFp62 : 0x7FFFFFFF;
  const ScaleType type = *resolved.spec.scale_type;
  const double scale = RoundScale(reach / last, type);
  const bool may_grow = type == ScaleType::kF32 && scale < std::numeric_limits<float>::max();
  if (!may_grow || reach / scale <= last) return scale;
  return std::nextafter(static_cast<float>(scale), std::numeric_limits<float>::infinity());
}

void ResolveFixedPoint(const Resolved& resolved, std::span<const Range> ranges, ParamPlanes out) {
  for (size_t i = 0; i < ranges.size(); ++i) {
    const Range& range = ranges[i];  // empty without finite values
    const double reach =
        range.min <= range.max ? std::max(std::fabs(range.min), std::fabs(range.max)) : 0;
    const double scale = resolved.spec.scale ? *resolved.spec.scale : ScaleOf(resolved, reach);
    StoreScale(DType::kF32, scale, out.planes[kScalePlane].data(), i);
  }
}

// Scales of a segment, as kernels take them.
class SegmentScales {
 public:
  SegmentScales(const Resolved& resolved, const ParamView& params, int64_t first_elem,
                int64_t num_elems) {
    const PackedLayout& layout = resolved.layout;
    const ParamMap map(layout.groups, first_elem, num_elems);
    view_.scales = ReadScales(layout.planes[kScalePlane], params.planes[kScalePlane],
                              params.first_group, map, scales_);
    if (map.per_elem()) return;
    view_.num_runs = map.RunEnds(ends_);
    view_.ends = ends_;
  }
  SegmentScales(const SegmentScales&) = delete;
  SegmentScales& operator=(const SegmentScales&) = delete;

  const AffineParams& view() const { return view_; }

 private:
  AffineParams view_;
  float scales_[kTileElems];
  int32_t ends_[kMaxRuns];
};

FixedPointRule RuleOf(const Resolved& resolved) {
  using Wide = std::numeric_limits<int64_t>;
  FixedPointRule rule;
  rule.rounding = *resolved.spec.rounding;
  rule.is_wide = resolved.info->bits == 64;
  rule.zero = resolved.spec.zero_point.value_or(0);
  const int64_t low = rule.is_wide ? Wide::min() : std::numeric_limits<int32_t>::min();
  const int64_t high = -(low + 1);
  rule.min_whole = rule.zero > 0 && low < Wide::min() + rule.zero ? Wide::min() : low - rule.zero;
  rule.max_whole = rule.zero < 0 && high > Wide::max() + rule.zero ? Wide::max() : high - rule.zero;
  const double zero = static_cast<double>(rule.zero);
  const double lowest = static_cast<double>(low) - zero;
  const double highest = static_cast<double>(high) - zero;
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  // Where f64 has no halves, the next whole number that it has is the first outside.
  const double below = lowest - 0.5 < lowest ? lowest - 0.5 : std::nextafter(lowest, -kInfinity);
  rule.last_below = std::max(below, std::nextafter(-kTwo63, -kInfinity));
  rule.first_above = std::min(highest + 0.5, kTwo63);
  return rule;
}

void EncodeFixed(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                 Counts* counts, Meter* meter) {
  const int64_t num_elems = segment.values.num_elems;
  FixedPointRule rule = RuleOf(resolved);
  uint32_t noise[kTileElems];
  if (rule.rounding == Rounding::kStochastic) {
    FillNoise(*resolved.spec.seed, resolved.name_hash, segment.first_elem,
              {noise, static_cast<size_t>(num_elems)});
    rule.noise = noise;
  }
  const SegmentScales scales(resolved, segment.params, segment.first_elem, num_elems);
  counts->clipped += segment.values.Visit([&]<typename T>(const T* values) {
    return EncodeFixedPoint(rule, scales.view(), values, num_elems, out.data(), LanesOf<T>(meter));
  });
}

void DecodeFixed(const Resolved& resolved, std::span<const std::byte> codes,
                 const ParamView& params, int64_t first_elem, TileSpan out) {
  const SegmentScales scales(resolved, params, first_elem, out.num_elems);
  out.Visit([&](auto* to) {
    DecodeFixedPoint(resolved.info->bits == 64, resolved.spec.zero_point.value_or(0),
                     scales.view(), codes.data(), out.num_elems, to);
  });
}

// --- The scalar definitions ---

double ScaleRef(const Resolved& resolved, const ParamView& params, int64_t elem) {
  const int64_t group = resolved.layout.groups.RunAt(elem).group - params.first_group;
  return double{LoadAt(reinterpret_cast<const float*>(params.planes[1].data()), group)};
}

// Returns a + b, at the ends of int64 where it leaves them.
int64_t SaturatingSum(int64_t a, int64_t b) {
  int64_t sum;
  if (!__builtin_add_overflow(a, b, &sum)) return sum;
  return b > 0 ? std::numeric_limits<int64_t>::max() : std::numeric_limits<int64_t>::min();
}

void EncodeFixedRef(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                    Counts* counts) {
  const int bits = resolved.info->bits;
  const int64_t zero = resolved.spec.zero_point.value_or(0);
  const int64_t low = -(int64_t{1} << (bits - 2)) * 2, high = -(low + 1);
  const double lowest = static_cast<double>(low) - static_cast<double>(zero);
  const double highest = static_cast<double>(high) - static_cast<double>(zero);
  for (int64_t i = 0; i < segment.values.num_elems; ++i) {
    const int64_t elem = segment.first_elem + i;
    uint32_t noise = 0;
    if (*resolved.spec.rounding == Rounding::kStochastic) {
      FillNoise(*resolved.spec.seed, resolved.name_hash, elem, {&noise, 1});
    }
    const double x =
        segment.values.Visit([i](const auto* from) { return double{LoadAt(from, i)}; });
    const double v = x / ScaleRef(resolved, segment.params, elem);
    const bool has_half = lowest - 0.5 < lowest;
    const bool below = v < -kTwo63 || (has_half ? v <= lowest - 0.5 : v < lowest);
    counts->clipped += below || v >= kTwo63 || v >= highest + 0.5;
    const double rounded = RoundToWhole(v, *resolved.spec.rounding, noise);
    int64_t whole = std::numeric_limits<int64_t>::max();
    if (rounded < kTwo63) whole = static_cast<int64_t>(std::max(rounded, -kTwo63));
    const int64_t code = std::clamp(SaturatingSum(whole, zero), low, high);
    std::memcpy(out.data() + i * (bits / 8), &code, static_cast<size_t>(bits / 8));
  }
}

void DecodeFixedRef(const Resolved& resolved, std::span<const std::byte> codes,
                    const ParamView& params, int64_t first_elem, TileSpan out) {
  const bool is_wide = resolved.info->bits == 64;
  const double zero = static_cast<double>(resolved.spec.zero_point.value_or(0));
  for (int64_t i = 0; i < out.num_elems; ++i) {
    const int64_t code = is_wide ? LoadAt(reinterpret_cast<const int64_t*>(codes.data()), i)
                                 : LoadAt(reinterpret_cast<const int32_t*>(codes.data()), i);
    const double value =
        (static_cast<double>(code) - zero) * ScaleRef(resolved, params, first_elem + i);
    out.Visit([&]<typename T>(T* to) {
      const T y = static_cast<T>(value);
      CopyBytes(to + i, &y, sizeof(y));
    });
  }
}

// $0: bits; $1: the largest f64 up to the last code.
constexpr absl::string_view kDefinition =
    R"(Codes are signed integers of $0 bits, lo = -2^($0 - 1) and hi = 2^($0 - 1) - 1. s is the larger one of
|min| and |max|, divided by $1 in f64, stored as `scale_type` says, but rounded up: pow2 does so
anyhow; where reach / s, reach being that larger one, is more than $1, the s of f32 is the next f32
above. Under `scale=` s is what is stored of it, and no range is looked at. z is `zero=`, or 0, and in
no plane. In f64, whatever T is:

    v = x / s
    w = round(v), as an integer of 64 bits: 2^63 and more is 2^63 - 1, less than -2^63 is -2^63
    code = clamp(w + z, lo, hi), exactly
    x' = (f64(code) - f64(z)) * s, then rounded to U

An all-zero group has s = 1. Clipped: v less than -2^63, or at most l - 0.5 with l = f64(lo) - f64(z),
or, where l - 0.5 is l, less than l; or v at least 2^63 or (f64(hi) - f64(z)) + 0.5.

| plane | dtype | shape |
| --- | --- | --- |
| codes | int$0 | the tensor's |
| scale | f32 | of the groups |
)";

}  // namespace

Scheme FixedPointScheme(absl::string_view name, absl::string_view summary, int bits) {
  Scheme scheme = {.info = {},
                   .complete = CompleteFixedPoint,
                   .plan = PlanFixedPoint,
                   .resolve_constants = nullptr,
                   .resolve = ResolveFixedPoint,
                   .encode = EncodeFixed,
                   .decode = DecodeFixed,
                   .encode_ref = EncodeFixedRef,
                   .decode_ref = DecodeFixedRef};
  SchemeInfo& info = scheme.info;
  info.name = name;
  info.summary = summary;
  info.source = "integers as numpy makes them: rint(x / scale) in f64, clipped";
  info.definition = absl::Substitute(kDefinition, bits, bits == 64 ? "2^63 - 1024" : "2^31 - 1");
  info.bits_per_code = info.bits = bits;
  info.granularities = {{.kind = GranularityKind::kTensor},
                        {.kind = GranularityKind::kAxis},
                        {.kind = GranularityKind::kGroup},
                        {.kind = GranularityKind::kBlock}};
  info.roundings = {Rounding::kHalfEven, Rounding::kHalfAway,  Rounding::kHalfUp,
                    Rounding::kHalfDown, Rounding::kTruncate,  Rounding::kFloor,
                    Rounding::kCeil,     Rounding::kStochastic};
  info.scale_types = {ScaleType::kPow2, ScaleType::kF32};
  info.nonfinites = {NonFinite::kReject, NonFinite::kSaturate};
  info.tails = {Tail::kReject, Tail::kShort};
  info.takes_range = info.takes_scale = true;
  return scheme;
}

}  // namespace quantd
