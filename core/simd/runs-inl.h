// The shape of kernels whose codes take a byte each: runs of values that share parameters, vector
// by vector, what is left of a run in one more, the meter fed or compiled away. A family states its
// arithmetic alone, as a function that is given a run and returns what codes or decodes a vector:
//
//   EncodeRuns<Regs>(d, runs, values, codes, lanes, [&](const Run& run) HWY_ATTR {
//     const auto scale = hn::Set(d, run.scale);
//     return [=](auto x) HWY_ATTR { return Narrowed<D>{code, code * scale}; };
//   });
//
// Compiled once per SIMD target.
#if defined(QUANTD_CORE_SIMD_RUNS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QUANTD_CORE_SIMD_RUNS_INL_H_
#undef QUANTD_CORE_SIMD_RUNS_INL_H_
#else
#define QUANTD_CORE_SIMD_RUNS_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>
#include <span>
#include <type_traits>

#include "core/simd/convert-inl.h"
#include "core/simd/meter-inl.h"
#include "core/simd/prefetch.h"
#include "core/simd/rest-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Returns encode(regs, lanes), `regs` naming what feeds a meter or, if `lanes` is null, nothing.
template <typename T, class Encode>
HWY_INLINE auto WithMeter(MeterLanes<T>* lanes, Encode encode) {
  using D = hn::CappedTag<T, 16>;
  if (lanes != nullptr) return encode(std::type_identity<MeterRegs<D>>(), *lanes);
  MeterLanes<T> none;
  return encode(std::type_identity<NullRegs<D>>(), none);
}

// Writes the codes of the values of `runs`, and adds values and what is decoded of their codes to
// `lanes`, run by run. `start(run)` returns a function from a vector of values to Narrowed; lanes
// behind a run's last value repeat a value of the run.
template <class Regs, class D, class Run, class Start, typename T = hn::TFromD<D>>
HWY_INLINE void EncodeRuns(D d, std::span<const Run> runs, const T* HWY_RESTRICT values,
                           uint8_t* HWY_RESTRICT codes, MeterLanes<T>& lanes, Start start) {
  const hn::RebindToUnsigned<D> du;
  const hn::Rebind<uint8_t, D> d8;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  for (int64_t k = 0; k < 16; k += kWidth) {
    Regs regs(d, lanes, static_cast<size_t>(k));
    const T* x_at = values;
    uint8_t* codes_at = codes;
    for (const Run& run : runs) {
      const auto encode = start(run);
      const int64_t num_elems = run.num_elems;
      int64_t i = k;
      for (; i + kWidth <= num_elems; i += 16) {
        if (k == 0) PrefetchBehind(x_at + i);
        const auto x = hn::LoadU(d, x_at + i);
        const Narrowed<D> made = encode(x);
        StoreLow(du, made.code, codes_at + i);
        regs.Add(d, x, made.value);
      }
      if (const int64_t rest = num_elems - i; rest > 0) {
        const auto here = hn::FirstN(d, static_cast<size_t>(rest));
        const auto x = LoadRest(d, x_at + i, rest);
        const Narrowed<D> made = encode(hn::IfThenElse(here, x, hn::Set(d, hn::GetLane(x))));
        StoreRest(hn::TruncateTo(d8, made.code), d8, codes_at + i, rest);
        regs.AddFirst(d, static_cast<size_t>(rest), x, made.value);
      }
      x_at += num_elems;
      codes_at += num_elems;
    }
    regs.Store(d, lanes, static_cast<size_t>(k));
  }
}

// Returns whole numbers of 32 bits as T.
template <class D>
HWY_INLINE hn::VFromD<D> FloatOf(D d, hn::VFromD<hn::Rebind<int32_t, D>> whole) {
  if constexpr (sizeof(hn::TFromD<D>) == 4) {
    return hn::ConvertTo(d, whole);
  } else {
    return hn::PromoteTo(d, whole);
  }
}

// Writes what the codes of `runs` stand for. `start(run)` returns a function from codes, as 32-bit
// integers, to values.
template <class D, class Run, class Start, typename T = hn::TFromD<D>>
HWY_INLINE void DecodeRuns(D d, std::span<const Run> runs, const uint8_t* HWY_RESTRICT codes,
                           T* HWY_RESTRICT values, Start start) {
  const hn::Rebind<int32_t, D> di32;
  const hn::Rebind<uint8_t, D> d8;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  for (const Run& run : runs) {
    const auto decode = start(run);
    const int64_t num_elems = run.num_elems;
    int64_t i = 0;
    for (; i + kWidth <= num_elems; i += kWidth) {
      hn::StoreU(decode(hn::PromoteTo(di32, hn::LoadU(d8, codes + i))), d, values + i);
    }
    if (const int64_t rest = num_elems - i; rest > 0) {
      StoreRest(decode(hn::PromoteTo(di32, LoadRest(d8, codes + i, rest))), d, values + i, rest);
    }
    codes += num_elems;
    values += num_elems;
  }
}

// Returns the number of values of which `start(run)`, a function from a vector to a mask, is true.
template <class D, class Run, class Start, typename T = hn::TFromD<D>>
HWY_NOINLINE int64_t CountRuns(D d, std::span<const Run> runs, const T* HWY_RESTRICT values,
                               Start start) {
  constexpr int64_t kWidth = hn::MaxLanes(d);
  size_t count = 0;
  for (const Run& run : runs) {
    const auto holds = start(run);
    const int64_t num_elems = run.num_elems;
    int64_t i = 0;
    for (; i + kWidth <= num_elems; i += kWidth) {
      count += hn::CountTrue(d, holds(hn::LoadU(d, values + i)));
    }
    if (const int64_t rest = num_elems - i; rest > 0) {
      const auto here = hn::FirstN(d, static_cast<size_t>(rest));
      count += hn::CountTrue(d, hn::And(here, holds(LoadRest(d, values + i, rest))));
    }
    values += num_elems;
  }
  return static_cast<int64_t>(count);
}

// Rounds steps half-even to the codes 0 to `max_code`.
template <class D>
class StepRounder {
 public:
  using T = hn::TFromD<D>;
  using V = hn::VFromD<D>;

  HWY_INLINE explicit StepRounder(int max_code) : limit_(hn::Set(D(), static_cast<T>(max_code))) {}

  HWY_INLINE V Round(V steps) {
    lowest_ = hn::Min(lowest_, steps);
    highest_ = hn::Max(highest_, steps);
    return hn::Round(hn::Min(hn::Max(steps, hn::Zero(D())), limit_));
  }

  // Returns what Round gave, as an integer in the low bits.
  HWY_INLINE hn::VFromD<hn::RebindToUnsigned<D>> Bits(V code) const {
    const V magic = hn::Set(D(), static_cast<T>(sizeof(T) == 4 ? 0x1.8p23 : 0x1.8p52));
    return hn::BitCast(hn::RebindToUnsigned<D>(), hn::Add(code, magic));
  }

  // True for steps that are clipped: half a step or more outside.
  HWY_INLINE hn::Mask<D> Clips(V steps) const {
    const V half = hn::Set(D(), static_cast<T>(0.5));
    return hn::Or(hn::Le(steps, hn::Neg(half)), hn::Ge(steps, hn::Add(limit_, half)));
  }
  // True if some may have been among those that were rounded.
  HWY_INLINE bool MayHaveClipped() const {
    return !hn::AllFalse(D(), hn::Or(Clips(lowest_), Clips(highest_)));
  }

 private:
  const V limit_;
  V lowest_ = hn::Zero(D()), highest_ = hn::Zero(D());
};

}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#endif  // include guard
