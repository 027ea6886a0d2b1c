// Entry: FbgemmNarrowScheme. Tested by tests/core/scheme/segments_test.cc and golden_test.cc.
#include "core/scheme/fbgemm_narrow.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/substitute.h"
#include "core/base/checked_math.h"
#include "core/base/minifloat.h"
#include "core/base/status_macros.h"
#include "core/scheme/fbgemm.h"
#include "core/simd/bits.h"

namespace quantd {
namespace {

// What lies behind a row: | f16 scale | f16 bias |.
struct HalfTrailer {
  uint16_t scale, bias;
};
static_assert(sizeof(HalfTrailer) == 4);

absl::StatusOr<PackedLayout> PlanNarrowRows(const SchemeInfo& info, const QuantSpec&,
                                            const TensorDesc& tensor) {
  const Shape& shape = tensor.shape;
  if (shape.rank() == 0) {
    return absl::InvalidArgumentError("shape [] has no rows; rows of codes need rank 1 or more");
  }
  if (shape.last_dim() == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("shape ", shape.Text(), " has rows without elements; rows need at least one"));
  }
  PackedLayout layout;
  layout.row_elems = shape.last_dim();
  layout.atom_elems = 8 / info.bits;
  layout.trailer_bytes = sizeof(HalfTrailer);
  layout.groups.row_elems = layout.groups.run_elems = layout.row_elems;
  layout.groups.num_groups = layout.groups.batch_rows =
      std::max<int64_t>(shape.num_elems() / layout.row_elems, 1);
  layout.working_bytes = sizeof(FbgemmRow);
  layout.band_evidence = kRange;
  std::vector<int64_t> dims(shape.dims().begin(), shape.dims().end());
  dims.back() = layout.row_bytes();
  QUANTD_ASSIGN_OR_RETURN(Shape packed, Shape::Make(std::move(dims)));
  const int64_t size_bytes = packed.num_elems();
  layout.planes = {{"codes", PlaneRole::kCodes, DType::kUint8, std::move(packed), size_bytes}};
  return layout;
}

// Returns `x` as f16 has it, at most its largest.
float RoundToHalf(float x) {
  return WidenFloat<float>(kHalfFormat,
                           NarrowFloat(kHalfFormat, x, Rounding::kHalfEven, /*saturate=*/true));
}

void ResolveNarrowRows(const Resolved& resolved, std::span<const Range> ranges, ParamPlanes out) {
  constexpr double kLargest = std::numeric_limits<float>::max();
  const float max_code = static_cast<float>((1 << resolved.info->bits) - 1);
  std::byte* to = out.working.data();
  for (const Range& range : ranges) {
    const bool empty = !(range.min <= range.max);
    const auto narrow = [&](double x) {
      return empty ? 0 : static_cast<float>(std::clamp(x, -kLargest, kLargest));
    };
    const float bias = RoundToHalf(narrow(range.min));
    const float span = narrow(range.max) - bias;
    float scale = span == 0 ? 1 : RoundToHalf(span / max_code);
    if (scale == 0) scale = 1;  // too small for f16
    const FbgemmRow row = {{scale, bias}, 1 / scale};
    std::memcpy(to, &row, sizeof(row));
    to += sizeof(row);
  }
}

void EncodeNarrowRows(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                      Counts* counts, Meter* meter) {
  const TileView& values = segment.values;
  const int bits = resolved.info->bits;
  const int64_t row_elems = resolved.layout.row_elems;
  const int64_t group = segment.first_elem / row_elems - segment.params.first_group;
  FbgemmRow row;
  std::memcpy(&row, segment.params.working.data() + group * int64_t{sizeof(row)}, sizeof(row));
  uint8_t unpacked[kTileElems];
  counts->clipped += values.Visit([&]<typename T>(const T* from) {
    return FbgemmTable().Of<T>().encode(row, (1 << bits) - 1, from, values.num_elems, unpacked,
                                        LanesOf<T>(meter));
  });
  PackBits(unpacked, values.num_elems, bits, reinterpret_cast<uint8_t*>(out.data()));
  if ((segment.first_elem + values.num_elems) % row_elems != 0) return;
  const auto half = [](float x) {
    return static_cast<uint16_t>(NarrowFloat(kHalfFormat, x, Rounding::kHalfEven, true));
  };
  const HalfTrailer trailer = {half(row.stored.scale), half(row.stored.bias)};
  std::memcpy(out.data() + out.size() - sizeof(trailer), &trailer, sizeof(trailer));
}

void DecodeNarrowRows(const Resolved& resolved, std::span<const std::byte> packed,
                      const ParamView&, int64_t, TileSpan out) {
  HalfTrailer trailer;
  std::memcpy(&trailer, packed.data() + packed.size() - sizeof(trailer), sizeof(trailer));
  const FbgemmTrailer row = {WidenFloat<float>(kHalfFormat, trailer.scale),
                             WidenFloat<float>(kHalfFormat, trailer.bias)};
  uint8_t unpacked[kTileElems];
  UnpackBits(reinterpret_cast<const uint8_t*>(packed.data()), out.num_elems, resolved.info->bits,
             unpacked);
  out.Visit([&]<typename T>(T* to) {
    FbgemmTable().Of<T>().decode(row, unpacked, out.num_elems, to);
  });
}

// --- The scalar definitions ---

void EncodeNarrowRowsRef(const Resolved& resolved, const Segment& segment,
                         std::span<std::byte> out, Counts* counts) {
  const int64_t columns = resolved.tensor.shape.last_dim();
  const int bits = resolved.info->bits, last = (1 << bits) - 1;
  float row[3];  // scale, bias, inverse
  const int64_t group = segment.first_elem / columns - segment.params.first_group;
  std::memcpy(row, segment.params.working.data() + group * 12, 12);
  std::fill(out.begin(), out.end(), std::byte{0});
  for (int64_t i = 0; i < segment.values.num_elems; ++i) {
    const int code = segment.values.Visit([&]<typename T>(const T* from) {
      const T steps = (LoadAt(from, i) - static_cast<T>(row[1])) * static_cast<T>(row[2]);
      counts->clipped += steps <= static_cast<T>(-0.5) || steps >= static_cast<T>(last + 0.5);
      if (!(steps > 0)) return 0;
      return steps >= static_cast<T>(last) ? last : static_cast<int>(std::nearbyint(steps));
    });
    const int64_t at = i * bits;
    out[static_cast<size_t>(at / 8)] |= static_cast<std::byte>(code << at % 8);
  }
  if ((segment.first_elem + segment.values.num_elems) % columns != 0) return;
  for (size_t k = 0; k < 2; ++k) {
    const uint32_t code = NarrowFloat(kHalfFormat, row[k], Rounding::kHalfEven, true);
    std::memcpy(&out[out.size() - 4 + 2 * k], &code, 2);
  }
}

void DecodeNarrowRowsRef(const Resolved& resolved, std::span<const std::byte> packed,
                         const ParamView&, int64_t, TileSpan out) {
  const int bits = resolved.info->bits;
  uint16_t row[2];  // scale, bias
  std::memcpy(row, &packed[packed.size() - 4], 4);
  for (int64_t i = 0; i < out.num_elems; ++i) {
    const int64_t at = i * bits;
    const int code = std::to_integer<int>(packed[static_cast<size_t>(at / 8)]) >> at % 8 &
                     ((1 << bits) - 1);
    out.Visit([&]<typename T>(T* to) {
      to[i] = std::fma(static_cast<T>(code), WidenFloat<T>(kHalfFormat, row[0]),
                       WidenFloat<T>(kHalfFormat, row[1]));
    });
  }
}

// $0: bits; $1: the largest code; $2: it and a half; $3: codes of a byte.
constexpr absl::string_view kDefinition =
    R"(Rows of the last axis, which must not be empty; `axis=0` in the spec stands for them at any rank. A row
is | stream of bits of L codes of $0 bits, ceil(L / $3) bytes | f16 scale | f16 bias |, at any
alignment. Of its range, rounded to f32 (beyond it: its largest), all in f32, f16() rounding ties to
even, beyond its largest to that:

    bias = f16(min)
    scale = f16((max - bias) / $1), or 1 where that is 0,  inverse = 1 / scale
    code = rint(clamp((x - bias) * inverse, 0, $1))     in T
    x' = fma(code, scale, bias)                        in U, rounded once

Clipped: (x - bias) * inverse at most -0.5 or at least $2.

| plane | dtype | shape |
| --- | --- | --- |
| codes | uint8 | [.., ceil(L / $3) + 4] |
)";

}  // namespace

Scheme FbgemmNarrowScheme(absl::string_view name, absl::string_view summary, int bits) {
  Scheme scheme{};
  scheme.plan = PlanNarrowRows;
  scheme.resolve = ResolveNarrowRows;
  scheme.encode = EncodeNarrowRows;
  scheme.decode = DecodeNarrowRows;
  scheme.encode_ref = EncodeNarrowRowsRef;
  scheme.decode_ref = DecodeNarrowRowsRef;
  SchemeInfo& info = scheme.info;
  info.name = name;
  info.summary = summary;
  info.source = "FBGEMM FloatOrHalfToFusedNBitRowwiseQuantizedSBHalf";
  info.definition = absl::Substitute(kDefinition, bits, (1 << bits) - 1,
                                     absl::StrCat((1 << bits) - 1, ".5"), 8 / bits);
  info.bits_per_code = info.bits = bits;
  info.is_signed = false;
  info.granularities = {{.kind = GranularityKind::kAxis, .axis = 0}};
  info.roundings = {Rounding::kHalfEven};
  info.dialects = {{.name = "fbgemm"}};
  info.nonfinites = {NonFinite::kReject};
  info.takes_range = true;
  return scheme;
}

}  // namespace quantd
