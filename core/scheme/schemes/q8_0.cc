// q8_0: blocks of 32 elements with their own scale inside, as ggml's quantize_row_q8_0_ref makes
// them:
//
//   | f16 d | 32 x int8 |   d = absmax / 127 in f32, code = round(x * (1 / d)), ties away from zero
//
// Codes are made with the f32 d, then d is rounded to f16 (ggml/src/ggml-quants.c).
// Beyond ggml: a d that f16 cannot hold becomes 65504 before the codes are made, and a block whose
// 1 / d is not finite (absmax below 2^-121) is all zero.
#include <algorithm>
#include <cmath>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/scheme/schemes/q8_0.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/scheme/scheme.h"
#include "core/simd/round-inl.h"

#ifndef QUANTD_CORE_SCHEME_SCHEMES_Q8_0_BLOCK
#define QUANTD_CORE_SCHEME_SCHEMES_Q8_0_BLOCK
#include "core/base/minifloat.h"

namespace quantd {
namespace q8_0 {

constexpr int64_t kBlockElems = 32;

struct Block {
  uint16_t scale;  // f16
  int8_t codes[kBlockElems];
};
static_assert(sizeof(Block) == 34 && alignof(Block) == 2);

template <typename T>
struct Scale {
  uint16_t stored;
  T inverse;  // what values are multiplied by; 0 for an all-zero block
};

template <typename T>
inline Scale<T> ScaleOf(T absmax) {
  constexpr double kOverflow = 65520;  // rounds beyond f16's 65504
  T scale = absmax / T{127};
  if (scale >= T{kOverflow}) scale = T{65504};
  const T inverse = scale != 0 ? T{1} / scale : T{0};
  if (!std::isfinite(inverse)) return {0, 0};
  return {static_cast<uint16_t>(NarrowFloat(kHalfFormat, scale, Rounding::kHalfEven, true)),
          inverse};
}

}  // namespace q8_0
}  // namespace quantd
#endif

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <typename T>
int64_t EncodeQ8Blocks(const T* HWY_RESTRICT values, int64_t num_elems,
                       q8_0::Block* HWY_RESTRICT blocks) {
  using q8_0::kBlockElems;
  const hn::CappedTag<T, kBlockElems> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  const hn::Rebind<uint8_t, decltype(d)> d8;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  const auto limit = hn::Set(d, T{127});
  const auto clip_bound = hn::Set(d, static_cast<T>(127.5));
  const auto magic = hn::Set(d, static_cast<T>(sizeof(T) == 4 ? 0x1.8p23 : 0x1.8p52));
  T padded[kBlockElems] = {};
  int64_t clipped = 0;
  for (; num_elems > 0; num_elems -= kBlockElems, values += kBlockElems, ++blocks) {
    if (num_elems < kBlockElems) {  // a padded row end
      std::copy(values, values + num_elems, padded);
      values = padded;
    }
    auto max = hn::Zero(d);
    for (int64_t i = 0; i < kBlockElems; i += kWidth) {
      max = hn::Max(max, hn::Abs(hn::LoadU(d, values + i)));
    }
    const q8_0::Scale<T> scale = q8_0::ScaleOf(hn::GetLane(hn::MaxOfLanes(d, max)));
    blocks->scale = scale.stored;
    const auto inverse = hn::Set(d, scale.inverse);
    auto reach = hn::Zero(d);
    for (int64_t i = 0; i < kBlockElems; i += kWidth) {
      const auto v = hn::Mul(hn::LoadU(d, values + i), inverse);
      reach = hn::Max(reach, hn::Abs(v));
      const auto clamped = hn::Min(hn::Max(v, hn::Neg(limit)), limit);
      const auto whole = RoundToWholeVec<Rounding::kHalfAway>(d, clamped, v);
      const auto code = hn::TruncateTo(d8, hn::BitCast(du, hn::Add(whole, magic)));
      hn::StoreU(code, d8, reinterpret_cast<uint8_t*>(blocks->codes) + i);
    }
    if (!hn::AllTrue(d, hn::Lt(reach, clip_bound))) {
      for (int64_t i = 0; i < kBlockElems; ++i) {
        clipped += std::fabs(values[i] * scale.inverse) >= static_cast<T>(127.5);
      }
    }
  }
  return clipped;
}

template <typename T>
void DecodeQ8Blocks(const q8_0::Block* HWY_RESTRICT blocks, int64_t num_elems,
                    T* HWY_RESTRICT values) {
  using q8_0::kBlockElems;
  const hn::CappedTag<T, kBlockElems> d;
  const hn::Rebind<int8_t, decltype(d)> d8;
  const hn::Rebind<int32_t, decltype(d)> d32;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  for (; num_elems > 0; num_elems -= kBlockElems, values += kBlockElems, ++blocks) {
    const T scale = WidenFloat<T>(kHalfFormat, blocks->scale);
    if (num_elems < kBlockElems) {
      for (int64_t i = 0; i < num_elems; ++i) values[i] = static_cast<T>(blocks->codes[i]) * scale;
      return;
    }
    const auto factor = hn::Set(d, scale);
    for (int64_t i = 0; i < kBlockElems; i += kWidth) {
      const auto code = hn::PromoteTo(d32, hn::LoadU(d8, blocks->codes + i));
      if constexpr (sizeof(T) == 4) {
        hn::StoreU(hn::Mul(hn::ConvertTo(d, code), factor), d, values + i);
      } else {
        hn::StoreU(hn::Mul(hn::PromoteTo(d, code), factor), d, values + i);
      }
    }
  }
}

int64_t EncodeQ8F32(const float* x, int64_t n, q8_0::Block* b) { return EncodeQ8Blocks(x, n, b); }
int64_t EncodeQ8F64(const double* x, int64_t n, q8_0::Block* b) { return EncodeQ8Blocks(x, n, b); }
void DecodeQ8F32(const q8_0::Block* b, int64_t n, float* x) { DecodeQ8Blocks(b, n, x); }
void DecodeQ8F64(const q8_0::Block* b, int64_t n, double* x) { DecodeQ8Blocks(b, n, x); }

}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "core/base/checked_math.h"
#include "core/base/status_macros.h"
#include "core/scheme/block.h"

namespace quantd {
namespace {

HWY_EXPORT(EncodeQ8F32);
HWY_EXPORT(EncodeQ8F64);
HWY_EXPORT(DecodeQ8F32);
HWY_EXPORT(DecodeQ8F64);

absl::StatusOr<PackedLayout> PlanQ8(const SchemeInfo&, const QuantSpec& spec,
                                    const TensorDesc& tensor) {
  return PlanRowBlocks(*spec.tail, tensor.shape, q8_0::kBlockElems, sizeof(q8_0::Block));
}

void EncodeQ8(const Resolved&, const Segment& segment, std::span<std::byte> out, Counts* counts) {
  auto* blocks = reinterpret_cast<q8_0::Block*>(out.data());
  const TileView& values = segment.values;
  counts->clipped += values.f32 != nullptr
                         ? HWY_DYNAMIC_DISPATCH(EncodeQ8F32)(values.f32, values.num_elems, blocks)
                         : HWY_DYNAMIC_DISPATCH(EncodeQ8F64)(values.f64, values.num_elems, blocks);
}

void DecodeQ8(const Resolved&, std::span<const std::byte> codes, const ParamView&, int64_t,
              TileSpan out) {
  const auto* blocks = reinterpret_cast<const q8_0::Block*>(codes.data());
  if (out.f32 != nullptr) {
    HWY_DYNAMIC_DISPATCH(DecodeQ8F32)(blocks, out.num_elems, out.f32);
  } else {
    HWY_DYNAMIC_DISPATCH(DecodeQ8F64)(blocks, out.num_elems, out.f64);
  }
}

template <typename T>
void EncodeRefBlocks(const T* values, int64_t num_elems, q8_0::Block* blocks, Counts* counts) {
  for (int64_t begin = 0; begin < num_elems; begin += q8_0::kBlockElems, ++blocks) {
    const int64_t count = std::min(q8_0::kBlockElems, num_elems - begin);
    T absmax = 0;
    for (int64_t i = 0; i < count; ++i) absmax = std::max(absmax, std::fabs(values[begin + i]));
    const q8_0::Scale<T> scale = q8_0::ScaleOf(absmax);
    blocks->scale = scale.stored;
    for (int64_t i = 0; i < q8_0::kBlockElems; ++i) {
      const T steps = i < count ? values[begin + i] * scale.inverse : T{0};
      counts->clipped += std::fabs(steps) >= static_cast<T>(127.5);
      blocks->codes[i] = static_cast<int8_t>(
          RoundToWhole(std::clamp(steps, T{-127}, T{127}), Rounding::kHalfAway, 0));
    }
  }
}

void EncodeQ8Ref(const Resolved&, const Segment& segment, std::span<std::byte> out,
                 Counts* counts) {
  auto* blocks = reinterpret_cast<q8_0::Block*>(out.data());
  if (segment.values.f32 != nullptr) {
    EncodeRefBlocks(segment.values.f32, segment.values.num_elems, blocks, counts);
  } else {
    EncodeRefBlocks(segment.values.f64, segment.values.num_elems, blocks, counts);
  }
}

void DecodeQ8Ref(const Resolved&, std::span<const std::byte> codes, const ParamView&, int64_t,
                 TileSpan out) {
  const auto* blocks = reinterpret_cast<const q8_0::Block*>(codes.data());
  for (int64_t i = 0; i < out.num_elems; ++i) {
    const q8_0::Block& block = blocks[i / q8_0::kBlockElems];
    const double value =  // 8 + 11 bits: exact in f32 as well
        block.codes[i % q8_0::kBlockElems] * WidenFloat<double>(kHalfFormat, block.scale);
    if (out.f32 != nullptr) {
      out.f32[i] = static_cast<float>(value);
    } else {
      out.f64[i] = value;
    }
  }
}

}  // namespace

const Scheme& q8_0_scheme() {
  static const Scheme kScheme = [] {
    Scheme scheme = {.info = {},
                     .plan = PlanQ8,
                     .resolve_constants = nullptr,
                     .resolve = nullptr,
                     .encode = EncodeQ8,
                     .decode = DecodeQ8,
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
