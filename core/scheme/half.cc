#include "core/scheme/half.h"

#include <cmath>
#include <utility>

#include "core/base/checked_math.h"
#include "core/base/minifloat.h"
#include "core/base/philox.h"
#include "core/base/status_macros.h"

namespace quantd {
namespace {

template <HalfKind kKind>
constexpr MiniFormat FormatOf() {
  return kKind == HalfKind::kF16 ? kHalfFormat : kBfloatFormat;
}

template <HalfKind kKind>
absl::StatusOr<PackedLayout> PlanHalf(const SchemeInfo&, const QuantSpec&,
                                      const TensorDesc& tensor) {
  PackedLayout layout;
  layout.row_elems = tensor.shape.num_elems();
  layout.atom_bytes = 2;
  layout.groups.row_elems = layout.groups.run_elems = std::max<int64_t>(layout.row_elems, 1);
  QUANTD_ASSIGN_OR_RETURN(int64_t size_bytes, CheckedMul(layout.row_elems, layout.atom_bytes));
  const DType dtype = kKind == HalfKind::kF16 ? DType::kF16 : DType::kBf16;
  layout.planes.push_back({"codes", PlaneRole::kCodes, dtype, tensor.shape, size_bytes});
  return layout;
}

bool Saturates(const Resolved& resolved) {
  return *resolved.spec.nonfinite != NonFinite::kPropagate;
}

template <HalfKind kKind>
void EncodeHalf(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                Counts* counts) {
  const Rounding rounding = *resolved.spec.rounding;
  const TileView& values = segment.values;
  uint32_t noise[kTileElems];
  if (rounding == Rounding::kStochastic) {
    FillNoise(*resolved.spec.seed, resolved.name_hash, segment.first_elem,
              {noise, static_cast<size_t>(values.num_elems)});
  }
  auto* codes = reinterpret_cast<uint16_t*>(out.data());
  counts->clipped += values.f32 != nullptr
                         ? NarrowToHalf(kKind, rounding, Saturates(resolved), values.f32,
                                        values.num_elems, noise, codes)
                         : NarrowToHalf(kKind, rounding, Saturates(resolved), values.f64,
                                        values.num_elems, noise, codes);
}

template <HalfKind kKind>
void DecodeHalf(const Resolved&, std::span<const std::byte> codes, const ParamView&, int64_t,
                TileSpan out) {
  const auto* halves = reinterpret_cast<const uint16_t*>(codes.data());
  if (out.f32 != nullptr) {
    WidenHalf(kKind, halves, out.num_elems, out.f32);
  } else {
    WidenHalf(kKind, halves, out.num_elems, out.f64);
  }
}

template <HalfKind kKind>
void EncodeHalfRef(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                   Counts* counts) {
  constexpr MiniFormat kFormat = FormatOf<kKind>();
  const double largest = WidenFloat<double>(kFormat, kFormat.max_code);
  const double half_step = 0.5 * (largest - WidenFloat<double>(kFormat, kFormat.max_code - 1));
  for (int64_t i = 0; i < segment.values.num_elems; ++i) {
    uint32_t noise = 0;
    if (*resolved.spec.rounding == Rounding::kStochastic) {
      FillNoise(*resolved.spec.seed, resolved.name_hash, segment.first_elem + i, {&noise, 1});
    }
    const auto narrow = [&](auto value) {
      if (std::isfinite(value) && std::fabs(value) >= largest + half_step) ++counts->clipped;
      return NarrowFloat(kFormat, value, *resolved.spec.rounding, Saturates(resolved), noise);
    };
    reinterpret_cast<uint16_t*>(out.data())[i] =
        static_cast<uint16_t>(segment.values.f32 != nullptr ? narrow(segment.values.f32[i])
                                                            : narrow(segment.values.f64[i]));
  }
}

template <HalfKind kKind>
void DecodeHalfRef(const Resolved&, std::span<const std::byte> codes, const ParamView&, int64_t,
                   TileSpan out) {
  const auto* halves = reinterpret_cast<const uint16_t*>(codes.data());
  for (int64_t i = 0; i < out.num_elems; ++i) {
    if (out.f32 != nullptr) {
      out.f32[i] = WidenFloat<float>(FormatOf<kKind>(), halves[i]);
    } else {
      out.f64[i] = WidenFloat<double>(FormatOf<kKind>(), halves[i]);
    }
  }
}

template <HalfKind kKind>
Scheme MakeScheme(SchemeInfo info) {
  return {.info = std::move(info),
          .plan = PlanHalf<kKind>,
          .resolve_constants = nullptr,
          .resolve = nullptr,
          .encode = EncodeHalf<kKind>,
          .decode = DecodeHalf<kKind>,
          .encode_ref = EncodeHalfRef<kKind>,
          .decode_ref = DecodeHalfRef<kKind>};
}

}  // namespace

Scheme HalfScheme(absl::string_view name, absl::string_view summary, absl::string_view source,
                  HalfKind kind) {
  SchemeInfo info;
  info.name = name;
  info.summary = summary;
  info.source = source;
  info.bits_per_code = info.bits = 16;
  info.roundings = {Rounding::kHalfEven, Rounding::kHalfAway,  Rounding::kHalfUp,
                    Rounding::kHalfDown, Rounding::kTruncate,  Rounding::kFloor,
                    Rounding::kCeil,     Rounding::kStochastic};
  info.nonfinites = {NonFinite::kReject, NonFinite::kSaturate, NonFinite::kPropagate};
  return kind == HalfKind::kF16 ? MakeScheme<HalfKind::kF16>(std::move(info))
                                : MakeScheme<HalfKind::kBf16>(std::move(info));
}

}  // namespace quantd
