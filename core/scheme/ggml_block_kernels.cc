// Kernels of ggml's simple blocks, one pair for the four formats, which differ in numbers alone:
//
//   v = (x - base) * inverse + bias      bias rounds: 1/2 above the code of 0
//   code = whole part of v, 0 to max_code;  x' = scale * (code - zero_code) - min
//
// so that without a minimum base and min are 0. They go by batches of 16 blocks, which the L1 cache
// holds: least and largest values of each, then the parameters of all in one or few vectors, then
// codes and figures.
//
//   x' of -3 in q4_0, d = 0.375:  -3 * 2.6666667 + 8.5 = 0.5, code 0;  0.375 * (0 - 8) = -3
//
// Entries: EncodeGgmlBlocks and DecodeGgmlBlocks. Tested by tests/core/scheme/segments_test.cc,
// reference_test.cc and golden_test.cc, through the schemes.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/scheme/ggml_blocks.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/scheme/ggml_block_kernels.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/simd/runs-inl.h"

#ifndef QUANTD_CORE_SCHEME_GGML_BLOCK_KERNELS_TABLE
#define QUANTD_CORE_SCHEME_GGML_BLOCK_KERNELS_TABLE
namespace quantd {

struct GgmlBlockKernels {
  decltype(&EncodeGgmlBlocks) encode;
  decltype(&DecodeGgmlBlocks) decode;
};

// Adds the low bits of 16 bytes as 4 x u8, of which bit j is bit 0 of byte j, bit j + 16 bit 1.
inline void StoreHighBits(const uint8_t* pairs, uint8_t* to) {
  for (int64_t half = 0; half < 2; ++half) {
    uint64_t bytes;
    std::memcpy(&bytes, pairs + 8 * half, sizeof(bytes));
    constexpr uint64_t kOnes = 0x0101010101010101, kGather = 0x0102040810204080;
    to[half] = static_cast<uint8_t>((bytes & kOnes) * kGather >> 56);
    to[half + 2] = static_cast<uint8_t>((bytes >> 1 & kOnes) * kGather >> 56);
  }
}

// The other way round, with the bits as bits 4 of two codes: 0x10 and 0x20.
inline void LoadHighBits(const uint8_t* from, uint8_t* pairs) {
  const auto spread = [](uint64_t byte) {  // bit j to bit 0 of byte j
    constexpr uint64_t kEach = 0x8040201008040201, kOnes = 0x0101010101010101;
    return ((byte * kOnes & kEach) + 0x7F * kOnes) >> 7 & kOnes;
  };
  for (int64_t half = 0; half < 2; ++half) {
    const uint64_t bytes = spread(from[half]) << 4 | spread(from[half + 2]) << 5;
    std::memcpy(pairs + 8 * half, &bytes, sizeof(bytes));
  }
}

}  // namespace quantd
#endif

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DG = hn::CappedTag<float, 16>;
using VG = hn::VFromD<DG>;
constexpr int64_t kLanes = hn::MaxLanes(DG());
constexpr int64_t kElems = GgmlBlockFormat::kElems;
constexpr int64_t kBatchBlocks = 16;
constexpr float kMaxHalf = 65504, kHalfOverflow = 65520;  // the first that rounds beyond it

// Blocks next to each other and what they are made with.
struct GgmlBatch {
  alignas(64) float least[kBatchBlocks], largest[kBatchBlocks];
  alignas(64) float base[kBatchBlocks], inverse[kBatchBlocks], bias[kBatchBlocks];
  alignas(64) float scale[kBatchBlocks], min[kBatchBlocks];
  alignas(64) uint32_t d[kBatchBlocks], m[kBatchBlocks];  // f16
  bool is_far;  // parameters were beyond f16
};

HWY_INLINE void FindEnds(const float* HWY_RESTRICT values, int64_t num_blocks, GgmlBatch& batch) {
  const DG d;
  for (int64_t block = 0; block < num_blocks; ++block, values += kElems) {
    PrefetchBehind(values);
    VG least = hn::LoadU(d, values), largest = least;
    for (int64_t i = kLanes; i < kElems; i += kLanes) {
      if (i % 16 == 0) PrefetchBehind(values + i);
      const VG x = hn::LoadU(d, values + i);
      least = hn::Min(least, x);
      largest = hn::Max(largest, x);
    }
    batch.least[block] = hn::GetLane(hn::MinOfLanes(d, least));
    batch.largest[block] = hn::GetLane(hn::MaxOfLanes(d, largest));
  }
}

// Makes `largest` the value furthest from 0, of two the first.
HWY_INLINE void FindFurthest(const float* values, int64_t num_blocks, GgmlBatch& batch) {
  const DG d;
  for (int64_t i = 0; i < kBatchBlocks; i += kLanes) {
    const VG least = hn::Load(d, batch.least + i), largest = hn::Load(d, batch.largest + i);
    const VG furthest = hn::IfThenElse(hn::Gt(hn::Neg(least), largest), least, largest);
    hn::Store(furthest, d, batch.largest + i);
  }
  for (int64_t block = 0; block < num_blocks; ++block) {
    if (HWY_LIKELY(batch.least[block] != -batch.largest[block])) continue;
    const float absmax = batch.largest[block];
    const float* x = values + block * kElems;
    int64_t at = 0;
    while (at < kElems - 1 && std::fabs(LoadAt(x, at)) != absmax) ++at;
    batch.largest[block] = absmax == 0 ? 0 : LoadAt(x, at);
  }
}

// Makes a `least` of 0 the first zero of the block, whose sign it has.
HWY_INLINE void FindSignOfZero(const float* values, int64_t num_blocks, GgmlBatch& batch) {
  for (int64_t block = 0; block < num_blocks; ++block) {
    if (HWY_LIKELY(batch.least[block] != 0)) continue;
    const float* x = values + block * kElems;
    while (LoadAt(x, 0) != 0) ++x;
    batch.least[block] = LoadAt(x, 0);
  }
}

// Returns `v`, or f16's largest with its sign where f16 cannot hold it.
HWY_INLINE VG WithinHalf(VG v, hn::Mask<DG>& far) {
  const DG d;
  const auto beyond = hn::Ge(hn::Abs(v), hn::Set(d, kHalfOverflow));
  far = hn::Or(far, beyond);
  return hn::IfThenElse(beyond, hn::CopySign(hn::Set(d, kMaxHalf), v), v);
}

HWY_INLINE void FindParams(const GgmlBlockFormat& format, GgmlBatch& batch) {
  const DG d;
  const hn::RebindToUnsigned<DG> du;
  const VG zero = hn::Zero(d), one = hn::Set(d, 1.0f);
  const VG infinity = hn::Set(d, std::numeric_limits<float>::infinity());
  const VG steps = hn::Set(d, static_cast<float>(format.has_min ? format.max_code()
                                                                : -format.zero_code()));
  const VG bias = hn::Set(d, static_cast<float>(format.zero_code()) + 0.5f);
  auto far = hn::Lt(one, zero);
  for (int64_t i = 0; i < kBatchBlocks; i += kLanes) {
    VG range = hn::Load(d, batch.largest + i), base = zero;
    if (format.has_min) {
      base = WithinHalf(hn::Load(d, batch.least + i), far);
      range = hn::Add(hn::Sub(range, base), zero);  // which -0 becomes 0 by
    }
    const VG scale = WithinHalf(hn::Div(range, steps), far);
    const VG inverse = hn::Div(one, scale);
    const auto is_zero = hn::Eq(scale, zero);
    const auto is_tiny = hn::AndNot(is_zero, hn::Not(hn::Lt(hn::Abs(inverse), infinity)));
    hn::Store(hn::IfThenZeroElse(hn::Or(is_zero, is_tiny), inverse), d, batch.inverse + i);
    hn::Store(hn::IfThenElse(is_tiny, hn::Set(d, 0.25f), bias), d, batch.bias + i);
    hn::Store(base, d, batch.base + i);
    const auto stored = NarrowQuickVec<kHalfFormat>(d, scale);
    hn::Store(stored.code, du, batch.d + i);
    hn::Store(stored.value, d, batch.scale + i);
    const auto stored_min = NarrowQuickVec<kHalfFormat>(d, base);
    hn::Store(stored_min.code, du, batch.m + i);
    hn::Store(format.has_min ? hn::Neg(stored_min.value) : zero, d, batch.min + i);
  }
  batch.is_far = !hn::AllFalse(d, far);
}

// Codes and figures of a batch. Returns how many values are above the codes.
template <class Regs>
HWY_INLINE int64_t EncodeGgmlCodes(const GgmlBlockFormat& format, const float* HWY_RESTRICT values,
                                   int64_t num_blocks, const GgmlBatch& batch,
                                   uint8_t* HWY_RESTRICT out, MeterLanes<float>& lanes) {
  const DG d;
  const hn::RebindToUnsigned<DG> du;
  const VG zero = hn::Zero(d), limit = hn::Set(d, static_cast<float>(format.max_code()));
  const VG above = hn::Set(d, static_cast<float>(format.max_code() + 1));
  const VG zero_code = hn::Set(d, static_cast<float>(format.zero_code()));
  const VG magic = hn::Set(d, 0x1.0p23f);
  const bool has_high = format.bits == 5;
  const int64_t bytes = format.bytes(), codes_at = format.codes_at();
  uint8_t pairs[kBatchBlocks][16];
  VG clipped = zero;
  for (int64_t k = 0; k < 16; k += kLanes) {
    Regs regs(d, lanes, static_cast<size_t>(k));
    const float* HWY_RESTRICT from = values + k;
    uint8_t* HWY_RESTRICT to = out + codes_at + k;
    for (int64_t block = 0; block < num_blocks; ++block, from += kElems, to += bytes) {
      const VG base = hn::Set(d, batch.base[block]), inverse = hn::Set(d, batch.inverse[block]);
      const VG bias = hn::Set(d, batch.bias[block]);
      const VG scale = hn::Set(d, batch.scale[block]), min = hn::Set(d, batch.min[block]);
      const auto code_of = [&](VG x) HWY_ATTR {
        const VG v = hn::Add(hn::Mul(hn::Sub(x, base), inverse), bias);
        clipped = hn::Add(clipped, hn::IfThenElseZero(hn::Ge(v, above), hn::Set(d, 1.0f)));
        const VG code = hn::Trunc(hn::Min(hn::Max(v, zero), limit));
        regs.Add(d, x, hn::Sub(hn::Mul(scale, hn::Sub(code, zero_code)), min));
        return hn::BitCast(du, hn::Add(code, magic));  // the code in the low bits
      };
      const auto low = code_of(hn::LoadU(d, from));
      const auto high = code_of(hn::LoadU(d, from + 16));
      if (has_high) {
        const auto nibble = hn::Set(du, 0x0F);
        StoreLow(du, hn::Or(hn::And(low, nibble), hn::ShiftLeft<4>(hn::And(high, nibble))), to);
        const auto bit = hn::Set(du, 0x10);
        const auto pair = hn::Or(hn::And(low, bit), hn::ShiftLeft<1>(hn::And(high, bit)));
        StoreLow(du, hn::ShiftRight<4>(pair), pairs[block] + k);
      } else {
        StoreLow(du, hn::Or(low, hn::ShiftLeft<4>(high)), to);
      }
    }
    regs.Store(d, lanes, static_cast<size_t>(k));
  }
  for (int64_t block = 0; has_high && block < num_blocks; ++block) {
    StoreHighBits(pairs[block], out + block * bytes + format.high_bits_at());
  }
  return static_cast<int64_t>(hn::GetLane(hn::SumOfLanes(d, clipped)));
}

// How many values are below the codes, as happens where parameters were far.
int64_t CountBelow(const float* values, int64_t num_blocks, const GgmlBatch& batch) {
  int64_t below = 0;
  for (int64_t i = 0; i < num_blocks * kElems; ++i) {
    const int64_t at = i / kElems;
    below += (LoadAt(values, i) - batch.base[at]) * batch.inverse[at] + batch.bias[at] <= 0;
  }
  return below;
}

template <class Regs>
int64_t EncodeGgmlBatches(const GgmlBlockFormat& format, const float* values, int64_t num_blocks,
                          std::byte* blocks, MeterLanes<float>& lanes) {
  const int64_t bytes = format.bytes();
  auto* out = reinterpret_cast<uint8_t*>(blocks);
  int64_t clipped = 0;
  GgmlBatch batch = {};
  for (int64_t count; num_blocks > 0; num_blocks -= count) {
    count = std::min(num_blocks, kBatchBlocks);
    FindEnds(values, count, batch);
    if (format.has_min) {
      FindSignOfZero(values, count, batch);
    } else {
      FindFurthest(values, count, batch);
    }
    FindParams(format, batch);
    clipped += EncodeGgmlCodes<Regs>(format, values, count, batch, out, lanes);
    if (HWY_UNLIKELY(batch.is_far)) clipped += CountBelow(values, count, batch);
    for (int64_t block = 0; block < count; ++block, out += bytes) {
      const auto half = static_cast<uint16_t>(batch.d[block]);
      std::memcpy(out, &half, sizeof(half));
      if (!format.has_min) continue;
      const auto min = static_cast<uint16_t>(batch.m[block]);
      std::memcpy(out + 2, &min, sizeof(min));
    }
    values += count * kElems;
  }
  return clipped;
}

int64_t EncodeGgml(const GgmlBlockFormat& format, const float* values, int64_t num_blocks,
                   std::byte* blocks, MeterLanes<float>* meter) {
  return WithMeter(meter, [&]<class Regs>(std::type_identity<Regs>, MeterLanes<float>& lanes) {
    return EncodeGgmlBatches<Regs>(format, values, num_blocks, blocks, lanes);
  });
}

void DecodeGgml(const GgmlBlockFormat& format, const std::byte* blocks, int64_t num_blocks,
                float* HWY_RESTRICT values) {
  const DG d;
  const hn::Rebind<int32_t, DG> di;
  const hn::Rebind<uint8_t, DG> d8;
  const auto* HWY_RESTRICT from = reinterpret_cast<const uint8_t*>(blocks);
  const VG zero_code = hn::Set(d, static_cast<float>(format.zero_code()));
  const auto nibble = hn::Set(di, 0x0F), bit = hn::Set(di, 0x10);
  const bool has_high = format.bits == 5;
  uint8_t pairs[16];
  for (int64_t block = 0; block < num_blocks; ++block, from += format.bytes(), values += kElems) {
    uint16_t half[2] = {};
    std::memcpy(half, from, format.has_min ? 4 : 2);
    const VG scale = hn::Set(d, WidenFloat<float>(kHalfFormat, half[0]));
    const VG min = hn::Set(d, format.has_min ? -WidenFloat<float>(kHalfFormat, half[1]) : 0.0f);
    const auto value_of = [&](auto code) HWY_ATTR {
      return hn::Sub(hn::Mul(scale, hn::Sub(hn::ConvertTo(d, code), zero_code)), min);
    };
    if (has_high) LoadHighBits(from + format.high_bits_at(), pairs);
    for (int64_t k = 0; k < 16; k += kLanes) {
      const auto byte = hn::PromoteTo(di, hn::LoadU(d8, from + format.codes_at() + k));
      auto low = hn::And(byte, nibble), high = hn::ShiftRight<4>(byte);
      if (has_high) {
        const auto pair = hn::PromoteTo(di, hn::LoadU(d8, pairs + k));
        low = hn::Or(low, hn::And(pair, bit));
        high = hn::Or(high, hn::And(hn::ShiftRight<1>(pair), bit));
      }
      hn::StoreU(value_of(low), d, values + k);
      hn::StoreU(value_of(high), d, values + 16 + k);
    }
  }
}

const GgmlBlockKernels& GgmlBlockKernelsOfTarget() {
  static constexpr GgmlBlockKernels kKernels = {EncodeGgml, DecodeGgml};
  return kKernels;
}

}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd {

HWY_EXPORT(GgmlBlockKernelsOfTarget);

int64_t EncodeGgmlBlocks(const GgmlBlockFormat& format, const float* values, int64_t num_blocks,
                         std::byte* blocks, MeterLanes<float>* lanes) {
  return HWY_DYNAMIC_DISPATCH(GgmlBlockKernelsOfTarget)().encode(format, values, num_blocks, blocks,
                                                                 lanes);
}

void DecodeGgmlBlocks(const GgmlBlockFormat& format, const std::byte* blocks, int64_t num_blocks,
                      float* values) {
  HWY_DYNAMIC_DISPATCH(GgmlBlockKernelsOfTarget)().decode(format, blocks, num_blocks, values);
}

}  // namespace quantd
#endif  // HWY_ONCE
