// Entries: those of fixed_point.h. Tested by tests/core/scheme/reference_test.cc and
// segments_test.cc.
//
// Vectors hold as many values as there are f64 in one, f32 too, so that a value, its quotient and
// its code have the same lane. Codes are int64 in registers, whatever they are in memory: what
// saturates does so among whole numbers, since f64 has no 2^63 - 1. Half-even has a loop of its
// own, all other roundings one together, and both always measure: of codes as large as the values
// memory has the larger share.
#include "core/simd/fixed_point.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <type_traits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/simd/fixed_point.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/simd/affine-inl.h"
#include "core/simd/kernel_table.h"
#include "core/simd/meter-inl.h"
#include "core/simd/prefetch.h"

#ifndef QUANTD_CORE_SIMD_FIXED_POINT_TABLE
#define QUANTD_CORE_SIMD_FIXED_POINT_TABLE
namespace quantd {

template <typename T>
struct FixedPointKernels {
  int64_t (*encode)(const FixedPointRule&, const AffineParams&, const T*, int64_t, void*,
                    MeterLanes<T>&);
  void (*decode)(bool is_wide, int64_t zero, const AffineParams&, const void*, int64_t, T*);
};

}  // namespace quantd
#endif

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

using D64 = hn::CappedTag<double, 16>;
using V64 = hn::VFromD<D64>;
using DI64 = hn::RebindToSigned<D64>;
using DI32 = hn::Rebind<int32_t, D64>;
template <typename T>
using TagOf = hn::Rebind<T, D64>;
constexpr int64_t kWidth = hn::MaxLanes(D64());

template <typename T>
HWY_INLINE V64 ToDouble(hn::VFromD<TagOf<T>> v) {
  if constexpr (sizeof(T) == 4) {
    return hn::PromoteTo(D64(), v);
  } else {
    return v;
  }
}
template <typename T>
HWY_INLINE hn::VFromD<TagOf<T>> FromDouble(V64 v) {
  if constexpr (sizeof(T) == 4) {
    return hn::DemoteTo(TagOf<T>(), v);
  } else {
    return v;
  }
}

HWY_INLINE V64 RoundBy(Rounding rounding, V64 v, V64 noise) {
  const D64 d;
  switch (rounding) {
    case Rounding::kHalfEven:
      return RoundToWholeVec<Rounding::kHalfEven>(d, v, noise);
    case Rounding::kHalfAway:
      return RoundToWholeVec<Rounding::kHalfAway>(d, v, noise);
    case Rounding::kHalfUp:
      return RoundToWholeVec<Rounding::kHalfUp>(d, v, noise);
    case Rounding::kHalfDown:
      return RoundToWholeVec<Rounding::kHalfDown>(d, v, noise);
    case Rounding::kTruncate:
      return RoundToWholeVec<Rounding::kTruncate>(d, v, noise);
    case Rounding::kFloor:
      return RoundToWholeVec<Rounding::kFloor>(d, v, noise);
    case Rounding::kCeil:
      return RoundToWholeVec<Rounding::kCeil>(d, v, noise);
    case Rounding::kStochastic:
      return RoundToWholeVec<Rounding::kStochastic>(d, v, noise);
  }
  return v;
}

// Returns whole numbers, those beyond int64 as its ends.
HWY_INLINE hn::VFromD<DI64> ToInt64(V64 whole) {
  const D64 d;
  const DI64 di;
  // The largest f64 below 2^63, and -2^63.
  const V64 held = hn::Max(hn::Min(whole, hn::Set(d, 0x1.FFFFFFFFFFFFFp62)), hn::Set(d, -0x1p63));
  const auto beyond = hn::RebindMask(di, hn::Ge(whole, hn::Set(d, 0x1p63)));
  return hn::IfThenElse(beyond, hn::Set(di, std::numeric_limits<int64_t>::max()),
                        hn::ConvertTo(di, held));
}

HWY_INLINE void StoreCodes(bool is_wide, hn::VFromD<DI64> code, void* codes, int64_t i,
                           int64_t count) {
  if (is_wide) {
    auto* to = static_cast<int64_t*>(codes) + i;
    count == kWidth ? hn::StoreU(code, DI64(), to) : StoreRest(code, DI64(), to, count);
    return;
  }
  const hn::Rebind<uint32_t, D64> du32;
  auto* to = static_cast<uint32_t*>(codes) + i;
  const auto low = hn::TruncateTo(du32, hn::BitCast(hn::RebindToUnsigned<D64>(), code));
  count == kWidth ? hn::StoreU(low, du32, to) : StoreRest(low, du32, to, count);
}

HWY_INLINE V64 LoadCodes(bool is_wide, const void* codes, int64_t i, int64_t count) {
  if (is_wide) {
    const auto* from = static_cast<const int64_t*>(codes) + i;
    return hn::ConvertTo(D64(), count == kWidth ? hn::LoadU(DI64(), from)
                                                : LoadRest(DI64(), from, count));
  }
  const auto* from = static_cast<const int32_t*>(codes) + i;
  return hn::PromoteTo(D64(), count == kWidth ? hn::LoadU(DI32(), from)
                                              : LoadRest(DI32(), from, count));
}

// What a vector of values becomes, and what is counted on the way.
template <bool kHalfEven, typename T>
class FixedPointSteps {
 public:
  explicit FixedPointSteps(const FixedPointRule& rule)
      : rule_(rule),
        last_below_(hn::Set(D64(), rule.last_below)),
        first_above_(hn::Set(D64(), rule.first_above)),
        zero_value_(hn::Set(D64(), static_cast<double>(rule.zero))),
        min_whole_(hn::Set(DI64(), rule.min_whole)),
        max_whole_(hn::Set(DI64(), rule.max_whole)),
        zero_(hn::Set(DI64(), rule.zero)) {}

  // Of `count` values, whose quotients are `v`, from element `i` on: stores the codes, returns what
  // they stand for.
  HWY_INLINE hn::VFromD<TagOf<T>> Encode(V64 v, V64 scale, void* codes, int64_t i, int64_t count) {
    const D64 d;
    auto outside = hn::Or(hn::Le(v, last_below_), hn::Ge(v, first_above_));
    if (count < kWidth) outside = hn::And(outside, hn::FirstN(d, static_cast<size_t>(count)));
    clipped_ += hn::CountTrue(d, outside);
    V64 whole;
    if constexpr (kHalfEven) {
      whole = hn::Round(v);
    } else {
      V64 noise = hn::Zero(d);
      if (rule_.rounding == Rounding::kStochastic) noise = LoadNoise(d, rule_.noise + i, count);
      whole = RoundBy(rule_.rounding, v, noise);
    }
    const auto code = hn::Add(hn::Min(hn::Max(ToInt64(whole), min_whole_), max_whole_), zero_);
    StoreCodes(rule_.is_wide, code, codes, i, count);
    return FromDouble<T>(hn::Mul(hn::Sub(hn::ConvertTo(d, code), zero_value_), scale));
  }
  int64_t Clipped() const { return static_cast<int64_t>(clipped_); }

 private:
  const FixedPointRule& rule_;
  const V64 last_below_, first_above_, zero_value_;
  const hn::VFromD<DI64> min_whole_, max_whole_, zero_;
  size_t clipped_ = 0;
};

template <bool kHalfEven, typename T>
int64_t EncodeRounding(const FixedPointRule& rule, const AffineParams& params,
                       const T* HWY_RESTRICT values, int64_t num_elems, void* codes,
                       MeterLanes<T>& lanes) {
  const D64 d;
  const TagOf<T> dt;
  FixedPointSteps<kHalfEven, T> steps(rule);
  const bool by_run = params.ends != nullptr;
  const int64_t num_runs = by_run ? params.num_runs : 1;
  for (int64_t k = 0; k < 16; k += kWidth) {
    MeterRegs<TagOf<T>> regs(dt, lanes, static_cast<size_t>(k));
    int64_t begin = 0;
    for (int64_t r = 0; r < num_runs; ++r) {
      const int64_t end = by_run ? params.ends[r] : num_elems;
      const float run_scale = by_run ? LoadAt(params.scales, r) : 1;
      // The reciprocal of a power of two is exact in f64, and so a product with it the quotient.
      const bool is_pow2 = by_run && (std::bit_cast<uint32_t>(run_scale) & 0x7FFFFF) == 0;
      V64 scale = hn::Set(d, double{run_scale});
      const V64 reciprocal = hn::Set(d, 1 / double{run_scale});
      int64_t i = begin + k;
      for (; is_pow2 && i + kWidth <= end; i += 16) {
        PrefetchBehind(values + i);
        const auto x = hn::LoadU(dt, values + i);
        const V64 v = hn::Mul(ToDouble<T>(x), reciprocal);
        regs.Add(dt, x, steps.Encode(v, scale, codes, i, kWidth));
      }
      for (; i < end; i += 16) {
        const int64_t count = std::min(kWidth, end - i);
        const auto x =
            count == kWidth ? hn::LoadU(dt, values + i) : LoadRest(dt, values + i, count);
        if (!by_run) scale = LoadScale(d, params.scales + i, count);
        const auto y = steps.Encode(hn::Div(ToDouble<T>(x), scale), scale, codes, i, count);
        if (count == kWidth) {
          regs.Add(dt, x, y);
        } else {
          regs.AddFirst(dt, static_cast<size_t>(count), x, y);
        }
      }
      begin = end;
    }
    regs.Store(dt, lanes, static_cast<size_t>(k));
  }
  return steps.Clipped();
}

template <typename T>
int64_t Encode(const FixedPointRule& rule, const AffineParams& params, const T* values,
               int64_t num_elems, void* codes, MeterLanes<T>& lanes) {
  const auto encode = rule.rounding == Rounding::kHalfEven ? EncodeRounding<true, T>
                                                           : EncodeRounding<false, T>;
  return encode(rule, params, values, num_elems, codes, lanes);
}

template <typename T>
void Decode(bool is_wide, int64_t zero, const AffineParams& params, const void* codes,
            int64_t num_elems, T* HWY_RESTRICT values) {
  const D64 d;
  const TagOf<T> dt;
  const V64 zero_value = hn::Set(d, static_cast<double>(zero));
  const bool by_run = params.ends != nullptr;
  const int64_t num_runs = by_run ? params.num_runs : 1;
  int64_t i = 0;
  for (int64_t r = 0; r < num_runs; ++r) {
    const int64_t end = by_run ? params.ends[r] : num_elems;
    V64 scale = hn::Set(d, by_run ? double{LoadAt(params.scales, r)} : 1);
    for (; i < end; i += std::min(kWidth, end - i)) {
      const int64_t count = std::min(kWidth, end - i);
      if (!by_run) scale = LoadScale(d, params.scales + i, count);
      const V64 code = LoadCodes(is_wide, codes, i, count);
      const auto y = FromDouble<T>(hn::Mul(hn::Sub(code, zero_value), scale));
      count == kWidth ? hn::StoreU(y, dt, values + i) : StoreRest(y, dt, values + i, count);
    }
  }
}

const KernelTable<FixedPointKernels>& FixedPointTable() {
  static constexpr KernelTable<FixedPointKernels> kTable = {{Encode<float>, Decode<float>},
                                                            {Encode<double>, Decode<double>}};
  return kTable;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd {

HWY_EXPORT(FixedPointTable);

namespace {

template <typename T>
int64_t EncodeAs(const FixedPointRule& rule, const AffineParams& params, const T* values,
                 int64_t num_elems, void* codes, MeterLanes<T>* lanes) {
  MeterLanes<T> none;
  return HWY_DYNAMIC_DISPATCH(FixedPointTable)().Of<T>().encode(
      rule, params, values, num_elems, codes, lanes != nullptr ? *lanes : none);
}

}  // namespace

int64_t EncodeFixedPoint(const FixedPointRule& rule, const AffineParams& params,
                         const float* values, int64_t num_elems, void* codes,
                         MeterLanes<float>* lanes) {
  return EncodeAs(rule, params, values, num_elems, codes, lanes);
}
int64_t EncodeFixedPoint(const FixedPointRule& rule, const AffineParams& params,
                         const double* values, int64_t num_elems, void* codes,
                         MeterLanes<double>* lanes) {
  return EncodeAs(rule, params, values, num_elems, codes, lanes);
}
void DecodeFixedPoint(bool is_wide, int64_t zero, const AffineParams& params, const void* codes,
                      int64_t num_elems, float* values) {
  HWY_DYNAMIC_DISPATCH(FixedPointTable)().f32.decode(is_wide, zero, params, codes, num_elems,
                                                     values);
}
void DecodeFixedPoint(bool is_wide, int64_t zero, const AffineParams& params, const void* codes,
                      int64_t num_elems, double* values) {
  HWY_DYNAMIC_DISPATCH(FixedPointTable)().f64.decode(is_wide, zero, params, codes, num_elems,
                                                     values);
}

}  // namespace quantd
#endif  // HWY_ONCE
