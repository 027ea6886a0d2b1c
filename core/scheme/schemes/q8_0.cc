// q8_0: blocks of 32 elements with their own scale inside, as ggml's quantize_row_q8_0_ref makes
// them:
//
//   | f16 d | 32 x int8 |   d = absmax / 127 in f32, code = round(x * (1 / d)), ties away from zero
//
// Codes are made with the f32 d, then d is rounded to f16 (ggml/src/ggml-quants.c): a block whose
// largest is 127.4 has d = 1.0031496, codes by that, and stores 1.0029297.
// Beyond ggml: a d that f16 cannot hold becomes 65504 before the codes are made, and a block whose
// 1 / d is not finite (absmax below 2^-121) is all zero. f64 is worked on in f64.
//
// The kernel goes by batches of 16 blocks, which the L1 cache holds: the largest of each, then the
// scales of all in one or few vectors, then codes and figures. Half away from zero is a truncation
// after 0.49999997f is added, which is exact up to 2^22; 0.5 would make 1 of 0.49999997f itself.
//
// Entry: q8_0_scheme. Tested by tests/core/scheme/reference_test.cc and golden_test.cc.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/scheme/schemes/q8_0.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/base/copy_bytes.h"
#include "core/scheme/scheme.h"
#include "core/simd/kernel_table.h"
#include "core/simd/runs-inl.h"

#ifndef QUANTD_CORE_SCHEME_SCHEMES_Q8_0_BLOCK
#define QUANTD_CORE_SCHEME_SCHEMES_Q8_0_BLOCK
namespace quantd {
namespace q8_0 {

constexpr int64_t kBlockElems = 32;
constexpr int64_t kBatchBlocks = 16;
constexpr int kMaxCode = 127;
constexpr double kMaxScale = 65504;  // the largest f16
constexpr double kScaleOverflow = 65520;  // the first that rounds beyond it

struct Block {
  uint16_t scale;  // f16
  int8_t codes[kBlockElems];
};
static_assert(sizeof(Block) == 34 && offsetof(Block, codes) == 2);

template <typename T>
struct Kernels {
  // Returns the number of values that were clipped. Blocks may lie at any alignment.
  int64_t (*encode)(const T*, int64_t num_elems, std::byte* blocks, MeterLanes<T>*);
  void (*decode)(const std::byte* blocks, int64_t num_elems, T*);
};
}  // namespace q8_0
}  // namespace quantd
#endif

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using q8_0::Block;
using q8_0::kBatchBlocks;
using q8_0::kBlockElems;

// Blocks next to each other and what they are made with.
template <typename T>
struct Q8Batch {
  const T* values;  // whole blocks
  int64_t num_blocks;
  int64_t num_elems;                  // fewer in a block that ends with the row
  HWY_ALIGN T absmax[kBatchBlocks];   // of each block
  HWY_ALIGN T inverse[kBatchBlocks];  // what values are multiplied by; 0 for an all-zero block
  HWY_ALIGN T factor[kBatchBlocks];   // the stored scale
  HWY_ALIGN T stored[kBatchBlocks];   // its code, in the low bits
  bool may_have_clipped;
};

template <typename T>
HWY_INLINE void FindMaxima(Q8Batch<T>& batch) {
  const hn::CappedTag<T, 16> d;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  std::fill(batch.absmax, batch.absmax + kBatchBlocks, T{0});
  const T* HWY_RESTRICT values = batch.values;
  for (int64_t block = 0; block < batch.num_blocks; ++block, values += kBlockElems) {
    auto max = hn::Zero(d);
    for (int64_t i = 0; i < kBlockElems; i += kWidth) {
      PrefetchBehind(values + i);
      max = hn::Max(max, hn::Abs(hn::LoadU(d, values + i)));
    }
    batch.absmax[block] = hn::GetLane(hn::MaxOfLanes(d, max));
  }
}

template <typename T>
HWY_INLINE void FindScales(Q8Batch<T>& batch) {
  const hn::CappedTag<T, 16> d;
  const auto largest = hn::Set(d, static_cast<T>(q8_0::kMaxScale));
  const auto overflow = hn::Set(d, static_cast<T>(q8_0::kScaleOverflow));
  const auto infinity = hn::Set(d, std::numeric_limits<T>::infinity());
  batch.may_have_clipped = false;
  for (int64_t i = 0; i < kBatchBlocks; i += hn::MaxLanes(d)) {
    const auto wanted =
        hn::Div(hn::Load(d, batch.absmax + i), hn::Set(d, static_cast<T>(q8_0::kMaxCode)));
    const auto too_large = hn::Ge(wanted, overflow);
    const auto scale = hn::IfThenElse(too_large, largest, wanted);
    const auto inverse = hn::Div(hn::Set(d, T{1}), scale);
    const auto is_zero = hn::Not(hn::Lt(inverse, infinity));
    const auto stored = NarrowQuickVec<kHalfFormat, false>(d, hn::IfThenZeroElse(is_zero, scale));
    hn::Store(hn::IfThenZeroElse(is_zero, inverse), d, batch.inverse + i);
    hn::Store(stored.value, d, batch.factor + i);
    hn::Store(hn::BitCast(d, stored.code), d, batch.stored + i);
    batch.may_have_clipped |= !hn::AllFalse(d, too_large);
  }
}

// One vector of values to codes; returns what they stand for. kClamps where x * inverse may be
// beyond the outermost codes.
template <bool kClamps, class D, typename T = hn::TFromD<D>, class V = hn::VFromD<D>>
HWY_INLINE V EncodeQ8Vec(D d, V x, V inverse, V factor, std::byte* codes) {
  const hn::RebindToUnsigned<D> du;
  constexpr T kBelowHalf = static_cast<T>(0.5) - std::numeric_limits<T>::epsilon() / 4;
  constexpr T kMagic = static_cast<T>(sizeof(T) == 4 ? 0x1.8p23 : 0x1.8p52);
  const V limit = hn::Set(d, static_cast<T>(q8_0::kMaxCode));
  V v = hn::Mul(x, inverse);
  if constexpr (kClamps) v = hn::Min(hn::Max(v, hn::Neg(limit)), limit);
  const V whole = hn::Trunc(hn::Add(v, hn::CopySignToAbs(hn::Set(d, kBelowHalf), v)));
  StoreLow(du, hn::BitCast(du, hn::Add(whole, hn::Set(d, kMagic))),
           reinterpret_cast<uint8_t*>(codes));
  return hn::Mul(whole, factor);
}

// Codes and figures of a batch.
template <bool kClamps, class Regs, typename T>
HWY_INLINE void EncodeQ8Codes(const Q8Batch<T>& batch, std::byte* HWY_RESTRICT out,
                              MeterLanes<T>& lanes) {
  const hn::CappedTag<T, 16> d;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  for (int64_t k = 0; k < 16; k += kWidth) {
    Regs regs(d, lanes, static_cast<size_t>(k));
    const T* HWY_RESTRICT from = batch.values + k;
    std::byte* codes = out + offsetof(Block, codes) + k;
    int64_t left = batch.num_elems - k;
    for (int64_t block = 0; block < batch.num_blocks; ++block, left -= kBlockElems) {
      const auto inverse = hn::Set(d, batch.inverse[block]);
      const auto factor = hn::Set(d, batch.factor[block]);
      for (int64_t half = 0; half < kBlockElems; half += 16) {
        const auto x = hn::LoadU(d, from + half);
        const auto y = EncodeQ8Vec<kClamps>(d, x, inverse, factor, codes + half);
        if (HWY_LIKELY(left - half >= kWidth)) {
          regs.Add(d, x, y);
        } else if (left > half) {
          regs.AddFirst(d, static_cast<size_t>(left - half), x, y);
        }
      }
      from += kBlockElems;
      codes += sizeof(Block);
    }
    regs.Store(d, lanes, static_cast<size_t>(k));
  }
}

template <typename T>
HWY_INLINE void StoreScales(const Q8Batch<T>& batch, std::byte* out) {
  for (int64_t block = 0; block < batch.num_blocks; ++block, out += sizeof(Block)) {
    const auto code =
        static_cast<uint16_t>(std::bit_cast<hwy::MakeUnsigned<T>>(batch.stored[block]));
    std::memcpy(out, &code, sizeof(code));
  }
}

template <typename T>
int64_t CountClippedQ8(const Q8Batch<T>& batch) {
  int64_t clipped = 0;
  for (int64_t i = 0; i < batch.num_elems; ++i) {
    const T steps = LoadAt(batch.values, i) * batch.inverse[i / kBlockElems];
    clipped += std::fabs(steps) >= static_cast<T>(q8_0::kMaxCode + 0.5);
  }
  return clipped;
}

// Finds the scales of the next batch of `num_elems` values; a single short block is filled up in
// `padded`.
template <typename T>
HWY_INLINE void PrepareQ8(const T* values, int64_t num_elems, T* padded, Q8Batch<T>& batch) {
  batch.num_blocks = std::clamp(num_elems / kBlockElems, int64_t{1}, int64_t{kBatchBlocks});
  batch.num_elems = std::min(num_elems, batch.num_blocks * kBlockElems);
  batch.values = values;
  if (num_elems < kBlockElems) {
    CopyBytes(padded, values, static_cast<size_t>(num_elems) * sizeof(T));
    batch.values = padded;
  }
  FindMaxima(batch);
  FindScales(batch);
}

template <class Regs, typename T>
HWY_NOINLINE int64_t EncodeQ8Blocks(const T* values, int64_t num_elems, std::byte* out,
                                    MeterLanes<T>& lanes) {
  // Scales are found a batch ahead, so that their divisions end while codes are made.
  Q8Batch<T> batches[2];
  T padded[kBlockElems] = {};
  int64_t clipped = 0;
  if (num_elems > 0) PrepareQ8(values, num_elems, padded, batches[0]);
  for (int turn = 0; num_elems > 0; turn ^= 1) {
    const Q8Batch<T>& batch = batches[turn];
    values += batch.num_elems;
    num_elems -= batch.num_elems;
    if (num_elems > 0) PrepareQ8(values, num_elems, padded, batches[turn ^ 1]);
    if (HWY_UNLIKELY(batch.may_have_clipped)) {
      EncodeQ8Codes<true, Regs>(batch, out, lanes);
      clipped += CountClippedQ8(batch);
    } else {
      EncodeQ8Codes<false, Regs>(batch, out, lanes);
    }
    StoreScales(batch, out);
    out += batch.num_blocks * int64_t{sizeof(Block)};
  }
  return clipped;
}

template <typename T>
int64_t EncodeQ8(const T* values, int64_t num_elems, std::byte* blocks, MeterLanes<T>* meter) {
  return WithMeter(meter, [&]<class Regs>(std::type_identity<Regs>, MeterLanes<T>& lanes) {
    return EncodeQ8Blocks<Regs>(values, num_elems, blocks, lanes);
  });
}

template <typename T>
void DecodeQ8(const std::byte* HWY_RESTRICT blocks, int64_t num_elems, T* values) {
  const hn::CappedTag<T, 16> d;
  const hn::Rebind<int8_t, decltype(d)> d8;
  const hn::Rebind<int32_t, decltype(d)> d32;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  DecodeBlocks<kBlockElems>(num_elems, values, [&](int64_t block, T* HWY_RESTRICT out) HWY_ATTR {
    const std::byte* from = blocks + block * int64_t{sizeof(Block)};
    uint16_t scale;
    std::memcpy(&scale, from, sizeof(scale));
    const auto factor = hn::Set(d, WidenFloat<T>(kHalfFormat, scale));
    const auto* codes = reinterpret_cast<const int8_t*>(from) + offsetof(Block, codes);
    for (int64_t i = 0; i < kBlockElems; i += kWidth) {
      const auto code = FloatOf(d, hn::PromoteTo(d32, hn::LoadU(d8, codes + i)));
      hn::StoreU(hn::Mul(code, factor), d, out + i);
    }
  });
}

const KernelTable<q8_0::Kernels>& Q8Table() {
  static constexpr KernelTable<q8_0::Kernels> kTable = {{EncodeQ8<float>, DecodeQ8<float>},
                                                        {EncodeQ8<double>, DecodeQ8<double>}};
  return kTable;
}

}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "core/base/checked_math.h"
#include "core/base/status_macros.h"
#include "core/scheme/block.h"
#include "core/scheme/q8_0_ref.h"

namespace quantd {
namespace {

HWY_EXPORT(Q8Table);

absl::StatusOr<PackedLayout> PlanQ8(const SchemeInfo&, const QuantSpec& spec,
                                    const TensorDesc& tensor) {
  QUANTD_ASSIGN_OR_RETURN(
      PackedLayout layout,
      PlanRowBlocks(*spec.tail, tensor.shape, q8_0::kBlockElems, sizeof(q8_0::Block)));
  layout.atom_scales = true;
  return layout;
}

void EncodeQ8Scheme(const Resolved&, const Segment& segment, std::span<std::byte> out,
                    Counts* counts, Meter* meter) {
  counts->clipped += segment.values.Visit([&]<typename T>(const T* values) {
    return HWY_DYNAMIC_DISPATCH(Q8Table)().Of<T>().encode(values, segment.values.num_elems,
                                                          out.data(), LanesOf<T>(meter));
  });
}

void DecodeQ8Scheme(const Resolved&, std::span<const std::byte> codes, const ParamView&, int64_t,
                    TileSpan out) {
  out.Visit([&]<typename T>(T* values) {
    HWY_DYNAMIC_DISPATCH(Q8Table)().Of<T>().decode(codes.data(), out.num_elems, values);
  });
}

}  // namespace

const Scheme& q8_0_scheme() {
  static const Scheme kScheme = [] {
    Scheme scheme = {.info = {},
                     .plan = PlanQ8,
                     .resolve_constants = nullptr,
                     .resolve = nullptr,
                     .encode = EncodeQ8Scheme,
                     .decode = DecodeQ8Scheme,
                     .encode_ref = EncodeQ8Ref,
                     .decode_ref = DecodeQ8Ref};
    scheme.info.name = "q8_0";
    scheme.info.summary = "ggml blocks of 32 int8 with an f16 scale inside";
    scheme.info.source = "ggml quantize_row_q8_0_ref";
    scheme.info.bits_per_code = 8.5;
    scheme.info.granularities = {{.kind = GranularityKind::kGroup, .group_elems = 32}};
    scheme.info.roundings = {Rounding::kHalfAway};
    scheme.info.dialects = {{.name = "ggml"}};
    scheme.info.nonfinites = {NonFinite::kReject, NonFinite::kSaturate};
    scheme.info.tails = {Tail::kReject, Tail::kPad};
    return scheme;
  }();
  return kScheme;
}

}  // namespace quantd
#endif  // HWY_ONCE
