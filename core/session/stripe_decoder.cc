// Decoding one stripe, tile by tile: the values of a tile are digested, and their CRC32C is made,
// while they are in the L1 cache, as stripe_encoder.cc does with codes. The digest of the codes as
// they came in is made first.
//
//   codes    |  tile  |  tile  | ...   read in place where a piece has all of a tile's
//   values   f32 or f64 as the scheme decodes them; f16 and bf16 by way of f64
//
// The way of f64 keeps halves from being rounded twice: nf4's x' = codebook[code] * scale, rounded
// to f32 and then to f16, may lie on a tie of f16 that the product itself does not. Where rows have
// trailers, each tile reads on to its row's end, as decoding wants what stands there.
//
// A finite value that the type wanted does not hold, as q8_0's 127 * 516 for f16, becomes the
// largest that it does, and is counted. f64 holds all products, so that what is infinite or NaN
// there was stored so, and stays. In f32, which is decoded at once, such values show as infinities;
// then the part is decoded again by way of f64. They are looked for only where a parameter of the
// stripe is large, which hardly ever is so, or where there are many parameters to look at.
//
// Outliers overwrite what their codes stand for, by way of f64 as well.
//
// Entry: DecodeStripe. Tested by tests/core/session/dequantize_session_test.cc and
// same_bytes_test.cc.
#include "core/session/stripe_decoder.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/base/copy_bytes.h"
#include "core/base/crc32c.h"
#include "core/base/minifloat.h"
#include "core/simd/convert.h"
#include "core/simd/meter.h"
#include "core/simd/scan.h"

namespace quantd {

int64_t SaturateFloats(const double* wide, int64_t num_elems, float* values) {
  constexpr double kLargest = std::numeric_limits<float>::max();
  constexpr double kBeyond = 0x1.ffffffp127;  // half a step further
  int64_t saturated = 0;
  for (int64_t i = 0; i < num_elems; ++i) {
    if (std::isfinite(LoadAt(values, i)) || !std::isfinite(wide[i])) continue;
    const auto value = static_cast<float>(std::clamp(wide[i], -kLargest, kLargest));
    CopyBytes(values + i, &value, sizeof(value));
    saturated += std::fabs(wide[i]) >= kBeyond;
  }
  return saturated;
}

namespace {

// Returns the groups that the stripe, which may be a part of a band, has elements of; maybe more.
GroupSpan GroupsWithin(const Plan& plan, const Stripe& stripe) {
  const PackedLayout& layout = plan.resolved.layout;
  const GroupMap& map = layout.groups;
  if (!map.IsLocal(plan.resolved.tensor.shape.num_elems())) return {0, map.num_groups};
  GroupSpan groups = GroupsOf(layout, stripe.begin, stripe.end);
  if (map.band_rows == 1) return groups;
  const int64_t first = map.RowGroup(stripe.begin / map.row_elems);  // its next row begins there
  groups.count += groups.first - first;
  groups.first = first;
  return groups;
}

// False if a parameter of the stripe is so large that what codes stand for may leave f32: codes are
// below 2^17, those of fixed point below 2^bits, and of products there are sums of two.
bool AreTame(const Plan& plan, const Stripe& stripe, const ParamView& params) {
  const PackedLayout& layout = plan.resolved.layout;
  if (layout.trailer_bytes > 0) return false;  // it has parameters
  if (layout.planes[0].dtype == DType::kF64) return false;
  if (plan.resolved.spec.scale_type == ScaleType::kDyadic16) return false;  // two planes a scale
  if (stripe.num_elems() == 0) return true;
  const int exponent = 117 - std::max(17, plan.resolved.info->bits);
  const uint32_t limit = static_cast<uint32_t>(127 + exponent) << 23;  // 2^exponent, as f32's bits
  const GroupSpan groups = GroupsWithin(plan, stripe);
  // Columns have all groups in each stripe: with many it costs less to look at the values.
  if (groups.count > stripe.num_elems() / 8) return false;
  uint32_t largest = 0;
  for (size_t plane = 1; plane < layout.scheme_planes(); ++plane) {
    const PlaneDesc& desc = layout.planes[plane];
    const bool is_f32 = desc.dtype == DType::kF32;
    if (!is_f32 && desc.dtype != DType::kBf16) continue;
    const std::byte* entries = params.planes[plane].data();
    int64_t first = 0, end = desc.shape.num_elems();
    if (desc.role == PlaneRole::kPerGroup) {
      first = (groups.first - params.first_group) / desc.groups_per_entry;
      end = std::min(end, CeilDiv(groups.first + groups.count - params.first_group,
                                  desc.groups_per_entry));
    }
    for (int64_t i = first; i < end; ++i) {
      const uint32_t bits =
          is_f32 ? LoadAt(reinterpret_cast<const uint32_t*>(entries), i)
                 : uint32_t{LoadAt(reinterpret_cast<const uint16_t*>(entries), i)} << 16;
      largest = std::max(largest, bits & 0x7FFFFFFF);
    }
  }
  return largest < limit;
}

// Narrows `wide`, of which it may change the finite values.
int64_t NarrowSaturating(DType dtype, double* wide, int64_t num_elems, uint16_t* out) {
  const HalfKind kind = dtype == DType::kF16 ? HalfKind::kF16 : HalfKind::kBf16;
  const auto narrow = [&] {
    return NarrowToHalf(kind, Rounding::kHalfEven, /*saturate=*/false, wide, num_elems, nullptr,
                        out);
  };
  const int64_t saturated = narrow();
  if (saturated == 0) return 0;
  const MiniFormat& format = dtype == DType::kF16 ? kHalfFormat : kBfloatFormat;
  const double largest = WidenFloat<double>(format, format.max_code);
  for (int64_t i = 0; i < num_elems; ++i) {
    if (std::isfinite(wide[i])) wide[i] = std::clamp(wide[i], -largest, largest);
  }
  narrow();
  return saturated;
}

// Returns how many values saturated.
int64_t DecodePart(const Plan& plan, std::span<const std::byte> codes, const ParamView& params,
                   int64_t first_elem, int64_t num_elems, DType dtype, bool tame,
                   std::byte* out) {
  const auto decode = [&](TileSpan tile) {
    plan.scheme->decode(plan.resolved, codes, params, first_elem, tile);
  };
  double wide[kTileElems];
  if (dtype == DType::kF32) {
    auto* values = reinterpret_cast<float*>(out);
    decode({values, nullptr, num_elems});
    if (tame || AllFinite(values, num_elems)) return 0;
    decode({nullptr, wide, num_elems});
    return SaturateFloats(wide, num_elems, values);
  }
  if (dtype == DType::kF64) {
    decode({nullptr, reinterpret_cast<double*>(out), num_elems});
    return 0;
  }
  decode({nullptr, wide, num_elems});
  return NarrowSaturating(dtype, wide, num_elems, reinterpret_cast<uint16_t*>(out));
}

// Writes outliers to `values` of `dtype`, which begin with element `first_elem`, from their plane.
// Returns how many saturated.
int64_t RestoreOutliers(std::span<const StoredOutlier> outliers, DType stored_dtype,
                        std::span<const std::byte> stored, int64_t first_elem, DType dtype,
                        std::byte* values) {
  const auto elem_bytes = static_cast<size_t>(SizeOf(dtype));
  int64_t saturated = 0;
  for (const StoredOutlier& outlier : outliers) {
    const std::byte* from = stored.data() + outlier.entry * SizeOf(stored_dtype);
    double wide;
    if (WorksAsF32(stored_dtype)) {
      float single;
      WidenToF32(stored_dtype, from, 1, &single);
      wide = single;
    } else {
      WidenToF64(stored_dtype, from, 1, &wide);
    }
    double value = wide;
    if (dtype == DType::kF32) {
      auto narrow = static_cast<float>(wide);
      saturated += SaturateFloats(&wide, 1, &narrow);
      CopyBytes(&value, &narrow, sizeof(narrow));
    } else if (dtype != DType::kF64) {
      uint16_t narrow;
      saturated += NarrowSaturating(dtype, &wide, 1, &narrow);
      CopyBytes(&value, &narrow, sizeof(narrow));
    }
    CopyBytes(values + static_cast<size_t>(outlier.elem - first_elem) * elem_bytes, &value,
              elem_bytes);
  }
  return saturated;
}

}  // namespace

void DecodeStripe(const Plan& plan, const Stripe& stripe, const ByteRange& codes,
                  const ParamView& params, DType dtype, bool crc, std::span<std::byte> values,
                  DecodedStripe& result) {
  const PackedLayout& layout = plan.resolved.layout;
  const int64_t elem_bytes = SizeOf(dtype), first_byte = layout.CodeOffset(stripe.begin);
  result.codes.Begin(first_byte, codes.size_bytes());
  result.values.Begin(stripe.begin * elem_bytes, std::ssize(values));
  result.crc32c = 0;
  result.saturated = 0;
  result.outliers.clear();
  result.status = absl::OkStatus();
  std::span<const std::byte> stored_values;
  if (layout.outliers > 0) {
    const size_t index_plane = layout.scheme_planes();
    result.status = ReadOutliers(layout, params.planes[index_plane], stripe.begin, stripe.end,
                                 result.outliers);
    if (!result.status.ok()) return;
    stored_values = params.planes[index_plane + 1];
  }
  auto next_outlier = result.outliers.begin();
  const bool tame = dtype == DType::kF32 && AreTame(plan, stripe, params);
  std::byte scratch[kTileElems * sizeof(double)];
  // Of layouts with trailers, whose parts want the row's end: read once a row.
  std::vector<std::byte> row;
  const std::byte* row_at = nullptr;
  int64_t row_offset = 0, row_codes_end = 0;
  if (layout.trailer_bytes > 0) row.resize(static_cast<size_t>(layout.row_bytes()));
  for (int64_t begin = stripe.begin; begin < stripe.end;) {
    const int64_t end = TileEnd(layout, begin, stripe.end);
    for (int64_t part = begin; part < end;) {
      const int64_t row_end = (part / layout.row_elems + 1) * layout.row_elems;
      const int64_t part_end = std::min(end, row_end);
      const int64_t offset = layout.CodeOffset(part);
      int64_t codes_end = layout.CodeOffset(part_end);
      const std::byte* at = nullptr;
      if (layout.trailer_bytes == 0) {
        at = codes.Read(offset - first_byte, codes_end - offset, scratch);
      } else {
        if (row_codes_end <= offset) {
          row_offset = offset;
          row_codes_end = layout.CodeOffset(std::min(row_end, stripe.end));
          row_at = codes.Read(offset - first_byte, row_codes_end - offset, row.data());
        }
        codes_end = row_codes_end;
        at = row_at + (offset - row_offset);
      }
      result.saturated +=
          DecodePart(plan, {at, static_cast<size_t>(codes_end - offset)}, params, part,
                     part_end - part, dtype, tame,
                     values.data() + (part - stripe.begin) * elem_bytes);
      part = part_end;
    }
    const auto tile_outliers = next_outlier;
    while (next_outlier != result.outliers.end() && next_outlier->elem < end) ++next_outlier;
    result.saturated +=
        RestoreOutliers({tile_outliers, next_outlier}, plan.resolved.tensor.dtype, stored_values,
                        stripe.begin, dtype, values.data());
    // While they are in the L1 cache.
    const auto tile = values.subspan(static_cast<size_t>((begin - stripe.begin) * elem_bytes),
                                     static_cast<size_t>((end - begin) * elem_bytes));
    result.values.Update(tile);
    if (crc) result.crc32c = Crc32c(tile, result.crc32c);
    begin = end;
  }
  // Behind the values, that codes which come from memory do so while values are made, not while
  // nothing else is done (256 MiB of f32: 22 against 25 ms).
  for (const std::span<const std::byte> piece : codes.pieces()) result.codes.Update(piece);
}

}  // namespace quantd
