#include "core/scheme/affine.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/minifloat.h"
#include "core/base/philox.h"
#include "core/base/status_macros.h"
#include "core/simd/affine.h"
#include "core/simd/convert.h"

namespace quantd {
namespace {

constexpr size_t kScalePlane = 1;
constexpr size_t kZeroPlane = 2;  // where there is one

// Shorter runs of equal parameters are spread to one parameter per element.
constexpr int64_t kShortRunElems = 128;

struct CodeRange {
  int32_t min;
  int32_t max;
  int32_t centre;  // the zero point of the symmetric modes
};

CodeRange RangeOfCodes(const SchemeInfo& info, const QuantSpec& spec) {
  const int32_t centre = info.is_signed ? 0 : 1 << (info.bits - 1);
  const int32_t reach = (1 << (info.bits - 1)) - 1;
  // With the scale given outright there is no mode, and all codes are used.
  const bool symmetric = spec.mode == Mode::kSymmetric;
  return {centre - reach - (symmetric ? 0 : 1), centre + reach, centre};
}

bool HasZeroPlane(const SchemeInfo& info, const QuantSpec& spec) {
  if (spec.scale.has_value()) return spec.zero_point.value_or(0) != 0;
  return !info.is_signed || spec.mode == Mode::kAsymmetric;
}

DType CodeType(const SchemeInfo& info) {
  if (info.bits == 16) return DType::kInt16;
  return info.is_signed ? DType::kInt8 : DType::kUint8;
}

DType ScaleDType(ScaleType type) {
  switch (type) {
    case ScaleType::kF16:
      return DType::kF16;
    case ScaleType::kBf16:
      return DType::kBf16;
    case ScaleType::kF32:
    case ScaleType::kPow2:
      return DType::kF32;
    case ScaleType::kNested8:
      return DType::kUint8;
  }
  return DType::kF32;
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
  layout.needs_ranges = !spec.scale.has_value();
  Shape code_shape = tensor.shape;
  if (info.bits == 4) {  // packed over the flat tensor
    QUANTD_ASSIGN_OR_RETURN(code_shape, Shape::Make({CeilDiv(tensor.shape.num_elems(), 2)}));
  }
  QUANTD_ASSIGN_OR_RETURN(
      int64_t code_bytes,
      CheckedMul(CeilDiv(layout.row_elems, layout.atom_elems), layout.atom_bytes));
  layout.planes.push_back(
      {"codes", PlaneRole::kCodes, CodeType(info), std::move(code_shape), code_bytes});
  const auto add_param = [&](const char* name, DType dtype) -> absl::Status {
    QUANTD_ASSIGN_OR_RETURN(int64_t size_bytes, CheckedMul(grouping.map.num_groups, SizeOf(dtype)));
    layout.planes.push_back({name, PlaneRole::kPerGroup, dtype, grouping.plane_shape, size_bytes});
    return absl::OkStatus();
  };
  QUANTD_RETURN_IF_ERROR(add_param("scale", ScaleDType(*spec.scale_type)));
  if (HasZeroPlane(info, spec)) QUANTD_RETURN_IF_ERROR(add_param("zero_point", CodeType(info)));
  return layout;
}

void StoreScale(DType dtype, double scale, std::byte* out) {
  if (dtype == DType::kF32) {
    const float value = static_cast<float>(scale);
    std::memcpy(out, &value, sizeof(value));
    return;
  }
  const MiniFormat& format = dtype == DType::kF16 ? kHalfFormat : kBfloatFormat;
  const uint16_t code =
      static_cast<uint16_t>(NarrowFloat(format, scale, Rounding::kHalfEven, /*saturate=*/true));
  std::memcpy(out, &code, sizeof(code));
}

void StoreCode(DType dtype, int32_t code, std::byte* out) {
  std::memcpy(out, &code, static_cast<size_t>(SizeOf(dtype)));  // little-endian, two's complement
}

// Returns the scale and zero point of a group with the range `range`.
std::pair<double, int32_t> ParamsOf(const Resolved& resolved, Range range) {
  const SchemeInfo& info = *resolved.info;
  const QuantSpec& spec = resolved.spec;
  const CodeRange codes = RangeOfCodes(info, spec);
  if (spec.scale.has_value()) {
    return {RoundScale(*spec.scale, *spec.scale_type),
            static_cast<int32_t>(spec.zero_point.value_or(0))};
  }
  if (!(range.min <= range.max)) range = {0, 0};  // no finite value
  const double steps = (1 << info.bits) - 1;
  if (*spec.mode != Mode::kAsymmetric) {
    const double reach = std::max(std::fabs(range.min), std::fabs(range.max));
    const double divisor = *spec.mode == Mode::kSymmetric ? codes.max - codes.centre : steps / 2;
    return {RoundScale(reach / divisor, *spec.scale_type), codes.centre};
  }
  const double low = std::min(range.min, 0.0), high = std::max(range.max, 0.0);
  const double scale = RoundScale((high - low) / steps, *spec.scale_type);
  // A scale that its type could not hold must not drive the zero point to one end of the codes.
  const double step = high / steps - low / steps;
  const double zero_point = std::nearbyint(codes.min - low / (step > 2 * scale ? step : scale));
  return {scale, static_cast<int32_t>(std::clamp<double>(zero_point, codes.min, codes.max))};
}

void ResolveAffine(const Resolved& resolved, std::span<const Range> ranges, ParamPlanes out) {
  const std::vector<PlaneDesc>& planes = resolved.layout.planes;
  for (size_t i = 0; i < ranges.size(); ++i) {
    const auto [scale, zero_point] = ParamsOf(resolved, ranges[i]);
    const DType scale_type = planes[kScalePlane].dtype;
    StoreScale(scale_type, scale,
               out.planes[kScalePlane].data() + i * static_cast<size_t>(SizeOf(scale_type)));
    if (planes.size() > kZeroPlane) {
      const DType code_type = planes[kZeroPlane].dtype;
      StoreCode(code_type, zero_point,
                out.planes[kZeroPlane].data() + i * static_cast<size_t>(SizeOf(code_type)));
    }
  }
}

// Reads stored parameters.
class ParamReader {
 public:
  ParamReader(const Resolved& resolved, const ParamView& params)
      : planes_(resolved.layout.planes),
        params_(params),
        fixed_zero_point_(
            resolved.spec.scale ? 0 : RangeOfCodes(*resolved.info, resolved.spec).centre) {}

  void Scales(int64_t first_group, int64_t count, float* out) const {
    const DType dtype = planes_[kScalePlane].dtype;
    WidenToF32(dtype, At(kScalePlane, first_group, dtype), count, out);
  }

  void ZeroPoints(int64_t first_group, int64_t count, int32_t* out) const {
    if (planes_.size() <= kZeroPlane) {
      std::fill(out, out + count, fixed_zero_point_);
      return;
    }
    const DType dtype = planes_[kZeroPlane].dtype;
    const std::byte* codes = At(kZeroPlane, first_group, dtype);
    for (int64_t i = 0; i < count; ++i) {
      if (dtype == DType::kInt8) {
        out[i] = reinterpret_cast<const int8_t*>(codes)[i];
      } else if (dtype == DType::kUint8) {
        out[i] = reinterpret_cast<const uint8_t*>(codes)[i];
      } else {
        out[i] = reinterpret_cast<const int16_t*>(codes)[i];
      }
    }
  }

 private:
  const std::byte* At(size_t plane, int64_t group, DType dtype) const {
    return params_.planes[plane].data() + (group - params_.first_group) * SizeOf(dtype);
  }

  const std::vector<PlaneDesc>& planes_;
  const ParamView& params_;
  const int32_t fixed_zero_point_;
};

// One parameter per element, for runs too short to be worked on one by one.
struct SpreadParams {
  float scales[kTileElems];
  int32_t zero_points[kTileElems];

  void Fill(const Resolved& resolved, const ParamReader& reader, int64_t first_elem,
            int64_t num_elems) {
    const GroupMap& groups = resolved.layout.groups;
    if (groups.run_elems == 1) {  // columns: the parameters lie as the elements do
      for (int64_t done = 0; done < num_elems;) {
        const int64_t column = (first_elem + done) % groups.row_elems;
        const int64_t count = std::min(groups.row_elems - column, num_elems - done);
        const int64_t group = groups.RunAt(first_elem + done).group;
        reader.Scales(group, count, scales + done);
        reader.ZeroPoints(group, count, zero_points + done);
        done += count;
      }
      return;
    }
    for (RunWalker run(groups, first_elem, first_elem + num_elems); !run.done(); run.Next()) {
      float scale;
      int32_t zero_point;
      reader.Scales(run.group(), 1, &scale);
      reader.ZeroPoints(run.group(), 1, &zero_point);
      const int64_t begin = run.elem() - first_elem;
      std::fill_n(scales + begin, run.num_elems(), scale);
      std::fill_n(zero_points + begin, run.num_elems(), zero_point);
    }
  }
};

bool UsesSpreadParams(const GroupMap& groups) {
  return groups.run_elems < kShortRunElems && groups.num_groups > 1;
}

// Calls fn(params, begin, count) for stretches of the segment that one kernel call can do.
template <typename Fn>
void ForEachStretch(const Resolved& resolved, const ParamView& view, int64_t first_elem,
                    int64_t num_elems, Fn fn) {
  const ParamReader reader(resolved, view);
  const CodeRange codes = RangeOfCodes(*resolved.info, resolved.spec);
  AffineParams params;
  params.min_code = codes.min;
  params.max_code = codes.max;
  if (UsesSpreadParams(resolved.layout.groups)) {
    SpreadParams spread;
    spread.Fill(resolved, reader, first_elem, num_elems);
    params.scales = spread.scales;
    params.zero_points = spread.zero_points;
    fn(params, int64_t{0}, num_elems);
    return;
  }
  for (RunWalker run(resolved.layout.groups, first_elem, first_elem + num_elems); !run.done();
       run.Next()) {
    reader.Scales(run.group(), 1, &params.scale);
    reader.ZeroPoints(run.group(), 1, &params.zero_point);
    fn(params, run.elem() - first_elem, run.num_elems());
  }
}

template <typename T, typename Code>
int64_t EncodeTile(const Resolved& resolved, const Segment& segment, const T* values, Code* codes) {
  const Rounding rounding = *resolved.spec.rounding;
  uint32_t noise[kTileElems];
  if (rounding == Rounding::kStochastic) {
    FillNoise(*resolved.spec.seed, resolved.name_hash, segment.first_elem,
              {noise, static_cast<size_t>(segment.values.num_elems)});
  }
  int64_t clipped = 0;
  ForEachStretch(resolved, segment.params, segment.first_elem, segment.values.num_elems,
                 [&](const AffineParams& params, int64_t begin, int64_t count) {
                   AffineParams here = params;
                   clipped += EncodeAffine(rounding, values + begin, count, here, noise + begin,
                                           codes + begin);
                 });
  return clipped;
}

template <typename Code>
int64_t EncodeEither(const Resolved& resolved, const Segment& segment, Code* codes) {
  return segment.values.f32 != nullptr ? EncodeTile(resolved, segment, segment.values.f32, codes)
                                       : EncodeTile(resolved, segment, segment.values.f64, codes);
}

void EncodeAffineScheme(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                        Counts* counts) {
  if (resolved.info->bits == 16) {
    counts->clipped += EncodeEither(resolved, segment, reinterpret_cast<uint16_t*>(out.data()));
  } else if (resolved.info->bits == 8) {
    counts->clipped += EncodeEither(resolved, segment, reinterpret_cast<uint8_t*>(out.data()));
  } else {
    uint8_t codes[kTileElems];
    counts->clipped += EncodeEither(resolved, segment, codes);
    PackNibbles(codes, segment.values.num_elems, /*first_high=*/false,
                reinterpret_cast<uint8_t*>(out.data()));
  }
}

// The figures of a tile whose groups begin and end with its vectors; counts in `clipped`.
template <typename Code>
std::optional<TileFigures> EncodeMeasuredTile(const Resolved& resolved, const Segment& segment,
                                              Code* codes, int64_t& clipped) {
  const float* values = segment.values.f32;
  const GroupMap& groups = resolved.layout.groups;
  const int64_t num_elems = segment.values.num_elems;
  const bool fits =
      *resolved.spec.rounding == Rounding::kHalfEven && values != nullptr && num_elems % 16 == 0 &&
      !UsesSpreadParams(groups) &&
      (groups.num_groups == 1 ||
       (groups.run_elems % 16 == 0 && groups.row_elems % 16 == 0 && segment.first_elem % 16 == 0));
  if (!fits) return std::nullopt;
  FigureLanes<float> lanes(values[0]);
  ForEachStretch(resolved, segment.params, segment.first_elem, num_elems,
                 [&](const AffineParams& params, int64_t begin, int64_t count) {
                   const AffineParams here = params;
                   clipped +=
                       EncodeAffineMeasured(values + begin, count, here, codes + begin, lanes);
                 });
  for (const float signal : lanes.signal) {
    if (!std::isfinite(signal)) return std::nullopt;
  }
  return FiguresOf(lanes, values, num_elems);
}

std::optional<TileFigures> EncodeMeasuredAffineScheme(const Resolved& resolved,
                                                      const Segment& segment,
                                                      std::span<std::byte> out, Counts* counts) {
  int64_t clipped = 0;
  std::optional<TileFigures> figures;
  if (resolved.info->bits == 16) {
    figures =
        EncodeMeasuredTile(resolved, segment, reinterpret_cast<uint16_t*>(out.data()), clipped);
  } else if (resolved.info->bits == 8) {
    figures =
        EncodeMeasuredTile(resolved, segment, reinterpret_cast<uint8_t*>(out.data()), clipped);
  } else {
    uint8_t codes[kTileElems];
    figures = EncodeMeasuredTile(resolved, segment, codes, clipped);
    if (figures.has_value()) {
      PackNibbles(codes, segment.values.num_elems, /*first_high=*/false,
                  reinterpret_cast<uint8_t*>(out.data()));
    }
  }
  if (figures.has_value()) counts->clipped += clipped;
  return figures;
}

template <typename Code>
void DecodeTile(const Resolved& resolved, const Code* codes, const ParamView& view,
                int64_t first_elem, TileSpan out) {
  ForEachStretch(resolved, view, first_elem, out.num_elems,
                 [&](const AffineParams& params, int64_t begin, int64_t count) {
                   if (out.f32 != nullptr) {
                     DecodeAffine(codes + begin, count, params, out.f32 + begin);
                   } else {
                     DecodeAffine(codes + begin, count, params, out.f64 + begin);
                   }
                 });
}

void DecodeAffineScheme(const Resolved& resolved, std::span<const std::byte> codes,
                        const ParamView& params, int64_t first_elem, TileSpan out) {
  const SchemeInfo& info = *resolved.info;
  if (info.bits == 16) {
    DecodeTile(resolved, reinterpret_cast<const int16_t*>(codes.data()), params, first_elem, out);
  } else if (info.bits == 8 && info.is_signed) {
    DecodeTile(resolved, reinterpret_cast<const int8_t*>(codes.data()), params, first_elem, out);
  } else if (info.bits == 8) {
    DecodeTile(resolved, reinterpret_cast<const uint8_t*>(codes.data()), params, first_elem, out);
  } else {
    uint8_t unpacked[kTileElems];
    UnpackNibbles(reinterpret_cast<const uint8_t*>(codes.data()), out.num_elems,
                  /*first_high=*/false, unpacked);
    DecodeTile(resolved, unpacked, params, first_elem, out);
  }
}

// --- The scalar definitions ---

template <typename T>
int32_t EncodeOne(const Resolved& resolved, T value, float scale, int32_t zero_point, int64_t elem,
                  Counts* counts) {
  const CodeRange codes = RangeOfCodes(*resolved.info, resolved.spec);
  uint32_t noise = 0;
  if (*resolved.spec.rounding == Rounding::kStochastic) {
    FillNoise(*resolved.spec.seed, resolved.name_hash, elem, {&noise, 1});
  }
  const T low = static_cast<T>(codes.min - zero_point),
          high = static_cast<T>(codes.max - zero_point);
  const T steps = value / static_cast<T>(scale);
  if (steps <= low - T{0.5} || steps >= high + T{0.5}) ++counts->clipped;
  const T whole = RoundToWhole(std::clamp(steps, low, high), *resolved.spec.rounding, noise);
  return static_cast<int32_t>(whole) + zero_point;
}

void EncodeAffineRef(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                     Counts* counts) {
  const ParamReader reader(resolved, segment.params);
  const int bits = resolved.info->bits;
  for (int64_t i = 0; i < segment.values.num_elems; ++i) {
    const int64_t elem = segment.first_elem + i;
    const int64_t group = resolved.layout.groups.RunAt(elem).group;
    float scale;
    int32_t zero_point;
    reader.Scales(group, 1, &scale);
    reader.ZeroPoints(group, 1, &zero_point);
    const int32_t code =
        segment.values.f32 != nullptr
            ? EncodeOne(resolved, segment.values.f32[i], scale, zero_point, elem, counts)
            : EncodeOne(resolved, segment.values.f64[i], scale, zero_point, elem, counts);
    if (bits >= 8) {
      StoreCode(CodeType(*resolved.info), code, out.data() + i * (bits / 8));
    } else if (i % 2 == 0) {
      out[static_cast<size_t>(i / 2)] = static_cast<std::byte>(code);
    } else {
      out[static_cast<size_t>(i / 2)] |= static_cast<std::byte>(code << 4);
    }
  }
}

int32_t LoadCode(const SchemeInfo& info, std::span<const std::byte> codes, int64_t i) {
  const std::byte* at = codes.data();
  if (info.bits == 16) return reinterpret_cast<const int16_t*>(at)[i];
  if (info.bits == 8 && info.is_signed) return reinterpret_cast<const int8_t*>(at)[i];
  if (info.bits == 8) return reinterpret_cast<const uint8_t*>(at)[i];
  return std::to_integer<int32_t>(at[i / 2]) >> (i % 2 == 0 ? 0 : 4) & 0x0F;
}

void DecodeAffineRef(const Resolved& resolved, std::span<const std::byte> codes,
                     const ParamView& params, int64_t first_elem, TileSpan out) {
  const ParamReader reader(resolved, params);
  for (int64_t i = 0; i < out.num_elems; ++i) {
    const int64_t group = resolved.layout.groups.RunAt(first_elem + i).group;
    float scale;
    int32_t zero_point;
    reader.Scales(group, 1, &scale);
    reader.ZeroPoints(group, 1, &zero_point);
    const int32_t steps = LoadCode(*resolved.info, codes, i) - zero_point;
    if (out.f32 != nullptr) {
      out.f32[i] = static_cast<float>(steps) * scale;
    } else {
      out.f64[i] = static_cast<double>(steps) * static_cast<double>(scale);
    }
  }
}

}  // namespace

double RoundScale(double scale, ScaleType type) {
  if (scale == 0) return 1;
  switch (type) {
    case ScaleType::kF32:
    case ScaleType::kNested8:  // before it becomes a code
      return static_cast<float>(std::clamp<double>(scale, std::numeric_limits<float>::min(),
                                                   std::numeric_limits<float>::max()));
    case ScaleType::kF16:
      scale = std::clamp(scale, 0x1p-14, 65504.0);
      return WidenFloat<double>(kHalfFormat,
                                NarrowFloat(kHalfFormat, scale, Rounding::kHalfEven, true));
    case ScaleType::kBf16:
      scale = std::clamp<double>(scale, std::numeric_limits<float>::min(),
                                 std::numeric_limits<float>::max());
      return WidenFloat<double>(kBfloatFormat,
                                NarrowFloat(kBfloatFormat, scale, Rounding::kHalfEven, true));
    case ScaleType::kPow2: {             // up, so that nothing is clipped
      scale = std::min(scale, 0x1p127);  // infinity has no exponent
      int exponent;
      const double fraction = std::frexp(scale, &exponent);  // in [0.5, 1)
      return std::ldexp(1.0, std::clamp(fraction == 0.5 ? exponent - 1 : exponent, -126, 127));
    }
  }
  return scale;
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
  info.nonfinites = {NonFinite::kReject, NonFinite::kSaturate};
  info.tails = {Tail::kReject, Tail::kShort};
  info.takes_range = info.takes_scale = true;
  return info;
}

Scheme AffineScheme(SchemeInfo info) {
  return {.info = std::move(info),
          .plan = PlanAffine,
          .resolve_constants = nullptr,
          .resolve = ResolveAffine,
          .encode = EncodeAffineScheme,
          .decode = DecodeAffineScheme,
          .encode_measured = EncodeMeasuredAffineScheme,
          .encode_ref = EncodeAffineRef,
          .decode_ref = DecodeAffineRef};
}

}  // namespace quantd
