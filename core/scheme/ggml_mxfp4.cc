// Kernels of mxfp4 in dialect ggml. Codes are made of q = |x| / d, an exact quotient by a power of
// two: levels lie 1 apart up to 4, then 2, then 4, so
//
//   level = step * ceil(q / step - 1/2), at most 12:     5 is 2 * ceil(2.0) = 4, 5.1 is 6
//
// Entries: EncodeGgmlMxfp4 and DecodeGgmlMxfp4. Tested by tests/core/scheme/segments_test.cc,
// reference_test.cc and golden_test.cc, through mxfp4.
#include "core/scheme/ggml_mxfp4.h"

#include <algorithm>
#include <bit>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/scheme/ggml_mxfp4.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/simd/runs-inl.h"

#ifndef QUANTD_CORE_SCHEME_GGML_MXFP4_KERNELS
#define QUANTD_CORE_SCHEME_GGML_MXFP4_KERNELS
namespace quantd {

struct GgmlMxfp4Kernels {
  int64_t (*encode)(const float* values, int64_t num_blocks, uint8_t* blocks,
                    MeterLanes<float>* lanes);
  void (*decode)(const uint8_t* blocks, int64_t num_blocks, float* values);
};

// What a block is made with: |x| * up * down is |x| / scale, two factors as one may be too large.
struct GgmlMxfp4Scale {
  uint8_t e;
  float scale, up, down;
  float limit, clip;  // the largest level, and half a step beyond it
};

inline float GgmlMxfp4ScaleOf(uint8_t e) {
  return std::bit_cast<float>(e < 2 ? 0x00200000u << e : (e - 1u) << 23);
}

// How many ulp of what lies below 2^k have a log2 that rounds to k: that is 2^m * ln(2) where f32
// has its numbers below k 2^(m - 23) apart.
inline uint32_t UlpsThatRoundTo(int k) {
  constexpr uint32_t kUlps[] = {0, 1, 2, 5, 11, 22, 44, 88};
  if (k == 0 || k == 1) return 0;
  const auto size = static_cast<uint32_t>(k < 0 ? -k : k);
  const int m = std::bit_width(size) - 1 - (k > 0 && std::has_single_bit(size));
  return kUlps[m];
}

inline GgmlMxfp4Scale FindGgmlMxfp4Scale(float absmax) {
  int k = -125;  // for e = 0
  if (const auto bits = std::bit_cast<uint32_t>(absmax); bits >= 0x00800000) {
    k = static_cast<int>(bits >> 23) - 127;
    k += 0x00800000 - (bits & 0x007FFFFF) <= UlpsThatRoundTo(k + 1);
  } else if (bits != 0) {
    const int width = std::bit_width(bits);
    k = width - 150;
    const uint64_t below = (uint64_t{1} << width) - bits;
    k += below << (-126 - k) <= UlpsThatRoundTo(k + 1);
  }
  const auto e = static_cast<uint8_t>(k + 125);
  const float scale = GgmlMxfp4ScaleOf(e);
  const bool is_small = scale < 0x1p-64f, is_last = scale >= 0x1p125f;
  return {e,
          scale,
          is_small ? 0x1p64f : 1.0f,
          is_small ? 1 / (scale * 0x1p64f) : 1 / scale,
          is_last ? 6.0f : 12.0f,
          is_last ? 7.0f : 14.0f};
}

}  // namespace quantd
#endif

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DX = hn::CappedTag<float, 16>;
constexpr int64_t kMxLanes = hn::MaxLanes(DX());
constexpr int64_t kMxElems = 32, kMxBytes = kGgmlMxfp4Bytes;

template <class Regs>
int64_t EncodeMxWith(const float* HWY_RESTRICT values, int64_t num_blocks,
                     uint8_t* HWY_RESTRICT blocks, MeterLanes<float>& lanes) {
  const DX d;
  const hn::RebindToUnsigned<DX> du;
  using VX = hn::VFromD<DX>;
  GgmlMxfp4Scale scales[kTileElems / kMxElems];
  for (int64_t block = 0; block < num_blocks; ++block) {
    VX most = hn::Zero(d);
    for (int64_t i = block * kMxElems; i < (block + 1) * kMxElems; i += kMxLanes) {
      if (i % 16 == 0) PrefetchBehind(values + i);
      most = hn::Max(most, hn::Abs(hn::LoadU(d, values + i)));
    }
    scales[block] = FindGgmlMxfp4Scale(hn::GetLane(hn::MaxOfLanes(d, most)));
    blocks[block * kMxBytes] = scales[block].e;
  }
  const VX zero = hn::Zero(d), half = hn::Set(d, 0.5f), one = hn::Set(d, 1.0f);
  size_t clipped = 0;
  for (int64_t k = 0; k < 16; k += kMxLanes) {
    Regs regs(d, lanes, static_cast<size_t>(k));
    const float* HWY_RESTRICT from = values + k;
    uint8_t* HWY_RESTRICT to = blocks + 1 + k;
    for (int64_t block = 0; block < num_blocks; ++block, from += kMxElems, to += kMxBytes) {
      const GgmlMxfp4Scale& of = scales[block];
      const VX scale = hn::Set(d, of.scale), up = hn::Set(d, of.up), down = hn::Set(d, of.down);
      const VX limit = hn::Set(d, of.limit), clip = hn::Set(d, of.clip);
      const auto code_of = [&](VX x) HWY_ATTR {
        const VX q = hn::Mul(hn::Mul(hn::Abs(x), up), down);
        clipped += hn::CountTrue(d, hn::Ge(q, clip));
        const auto above4 = hn::Gt(q, hn::Set(d, 4.0f)), above8 = hn::Gt(q, hn::Set(d, 8.0f));
        const VX step = hn::IfThenElse(
            above8, hn::Set(d, 4.0f), hn::IfThenElse(above4, hn::Set(d, 2.0f), one));
        const VX share = hn::IfThenElse(
            above8, hn::Set(d, 0.25f), hn::IfThenElse(above4, half, one));
        VX level = hn::Mul(step, hn::Ceil(hn::Sub(hn::Mul(q, share), half)));
        level = hn::Min(hn::Max(level, zero), limit);
        // 2, 3, 4, 6, .. have codes 2, 3, 4, 5, ..: their exponent and first bit of fraction.
        const auto bits = hn::ShiftRight<22>(hn::BitCast(du, level));
        const auto first = hn::IfThenElseZero(hn::RebindMask(du, hn::Gt(level, zero)),
                                              hn::Set(du, 1));
        auto code = hn::Sub(hn::Max(bits, hn::Set(du, 254)), hn::Set(du, 254));
        code = hn::Max(code, first);
        const auto negative = hn::And(hn::Lt(x, zero), hn::Gt(level, zero));
        code = hn::Or(code, hn::IfThenElseZero(hn::RebindMask(du, negative), hn::Set(du, 8)));
        const VX y = hn::Mul(scale, level);
        regs.Add(d, x, hn::IfThenElse(negative, hn::Neg(y), y));
        return code;
      };
      const auto low = code_of(hn::LoadU(d, from));
      const auto high = code_of(hn::LoadU(d, from + 16));
      StoreLow(du, hn::Or(low, hn::ShiftLeft<4>(high)), to);
    }
    regs.Store(d, lanes, static_cast<size_t>(k));
  }
  return static_cast<int64_t>(clipped);
}

int64_t EncodeMx(const float* values, int64_t num_blocks, uint8_t* blocks,
                 MeterLanes<float>* meter) {
  return WithMeter(meter, [&]<class Regs>(std::type_identity<Regs>, MeterLanes<float>& lanes) {
    return EncodeMxWith<Regs>(values, num_blocks, blocks, lanes);
  });
}

void DecodeMx(const uint8_t* HWY_RESTRICT blocks, int64_t num_blocks, float* HWY_RESTRICT values) {
  const DX d;
  const hn::RebindToUnsigned<DX> du;
  const hn::Rebind<uint8_t, DX> d8;
  for (int64_t block = 0; block < num_blocks; ++block, blocks += kMxBytes, values += kMxElems) {
    const auto scale = hn::Set(d, GgmlMxfp4ScaleOf(blocks[0]));
    const auto value_of = [&](auto code) HWY_ATTR {
      const auto size = hn::And(code, hn::Set(du, 7)), two = hn::Set(du, 2);
      const auto bits = hn::ShiftLeft<22>(hn::Add(size, hn::Set(du, 254)));
      const auto small = hn::RebindMask(d, hn::Lt(size, two));
      const auto level = hn::IfThenElse(
          small, hn::ConvertTo(d, hn::BitCast(hn::RebindToSigned<DX>(), size)),
          hn::BitCast(d, bits));
      // Code 8 is 0 in ggml's table of whole numbers.
      const auto sign = hn::ShiftLeft<28>(hn::And(code, hn::Set(du, 8)));
      const auto kept = hn::IfThenElseZero(hn::Gt(size, hn::Zero(du)), sign);
      return hn::Mul(hn::Or(level, hn::BitCast(d, kept)), scale);
    };
    for (int64_t k = 0; k < 16; k += kMxLanes) {
      const auto byte = hn::BitCast(
          du, hn::PromoteTo(hn::RebindToSigned<DX>(), hn::LoadU(d8, blocks + 1 + k)));
      hn::StoreU(value_of(byte), d, values + k);
      hn::StoreU(value_of(hn::ShiftRight<4>(byte)), d, values + 16 + k);
    }
  }
}

const GgmlMxfp4Kernels& GgmlMxfp4KernelsOfTarget() {
  static constexpr GgmlMxfp4Kernels kKernels = {EncodeMx, DecodeMx};
  return kKernels;
}

}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "core/base/status_macros.h"
#include "core/scheme/block.h"
#include "core/scheme/float_tile.h"

namespace quantd {
namespace {

HWY_EXPORT(GgmlMxfp4KernelsOfTarget);

constexpr int64_t kElems = 32;

}  // namespace

absl::StatusOr<PackedLayout> PlanGgmlMxfp4(const QuantSpec& spec, const TensorDesc& tensor) {
  QUANTD_ASSIGN_OR_RETURN(PackedLayout layout,
                          PlanRowBlocks(*spec.tail, tensor.shape, kElems, kGgmlMxfp4Bytes));
  layout.atom_scales = true;
  return layout;
}

void EncodeGgmlMxfp4(const Segment& segment, std::span<std::byte> out, Counts* counts,
                     Meter* meter) {
  const FloatTile tile(segment.values, kElems, /*aligned=*/false);
  counts->clipped += HWY_DYNAMIC_DISPATCH(GgmlMxfp4KernelsOfTarget)().encode(
      tile.values(), tile.num_elems() / kElems, reinterpret_cast<uint8_t*>(out.data()),
      LanesOfTile(segment.values, tile, meter));
  MeasureDecoded(segment.values, tile, meter, [&](float* values) {
    DecodeGgmlMxfp4(out, {values, nullptr, tile.num_elems()});
  });
}

void DecodeGgmlMxfp4(std::span<const std::byte> packed, TileSpan out) {
  DecodeTile(out, kElems, [&](int64_t first, int64_t num_blocks, float* values) {
    HWY_DYNAMIC_DISPATCH(GgmlMxfp4KernelsOfTarget)().decode(
        reinterpret_cast<const uint8_t*>(packed.data()) + first * kGgmlMxfp4Bytes, num_blocks,
        values);
  });
}

}  // namespace quantd
#endif  // HWY_ONCE
