// Entry: EncodeAffine. Tested by tests/core/simd/affine_test.cc, and with all that schemes make of
// it by tests/core/scheme/reference_test.cc.
//
// Kernels go over runs as affine-inl.h and meter-inl.h have it: lanes outside, runs inside. Codes
// of up to 8 bits, rounded half to even, are made the quick way, 32 values at a time and a careful
// look where one of them wants it; all others the careful way. The parameters of all runs are made
// ready first, many at once, as a run may be two vectors long.
#include "core/simd/affine.h"

#include <algorithm>
#include <type_traits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/simd/affine.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/simd/affine-inl.h"
#include "core/simd/meter-inl.h"
#include "core/simd/prefetch.h"

#ifndef QUANTD_CORE_SIMD_AFFINE_TABLE
#define QUANTD_CORE_SIMD_AFFINE_TABLE
namespace quantd {

// Where codes go.
struct AffineOut {
  uint8_t* bytes = nullptr;
  uint16_t* words = nullptr;  // if not null
};

template <typename T>
using AffineEncodeFn = int64_t (*)(const AffineRule&, const AffineParams&, const T* values,
                                   int64_t num_elems, AffineOut, MeterLanes<T>*);

struct AffineKernels {
  AffineEncodeFn<float> encode_f32;
  AffineEncodeFn<double> encode_f64;
};

}  // namespace quantd
#endif

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

// The values of a call, vector by vector.
template <typename T>
class AffineCall {
 public:
  using D = AffineTag<T>;
  using V = hn::VFromD<D>;
  static constexpr int64_t kWidth = hn::MaxLanes(D());

  AffineCall(const T* values, int64_t num_elems, AffineOut out)
      : values_(values), num_elems_(num_elems), out_(out) {}

  HWY_INLINE V Load(int64_t i) const {
    PrefetchBehind(values_ + i);
    return hn::LoadU(D(), values_ + i);
  }
  // `count` is less than a vector; the other lanes are 0.
  HWY_INLINE V LoadFirst(int64_t i, int64_t count) const {
    PrefetchBehind(values_ + i);
    if (i + kWidth > num_elems_) return LoadRest(D(), values_ + i, count);
    return hn::IfThenElseZero(hn::FirstN(D(), static_cast<size_t>(count)),
                              hn::LoadU(D(), values_ + i));
  }
  HWY_INLINE void Store(int64_t i, V code) const {
    if (out_.words == nullptr) {
      hn::StoreU(Cut(D8(), code), D8(), out_.bytes + i);
    } else {
      hn::StoreU(Cut(D16(), code), D16(), out_.words + i);
    }
  }
  HWY_INLINE void StoreFirst(int64_t i, V code, int64_t count) const {
    // Where a vector has all lanes, runs are done in order, and the next one writes what is beyond.
    if (kWidth == 16 && i + kWidth <= num_elems_) {
      Store(i, code);
    } else if (out_.words == nullptr) {
      StoreRest(Cut(D8(), code), D8(), out_.bytes + i, count);
    } else {
      StoreRest(Cut(D16(), code), D16(), out_.words + i, count);
    }
  }

 private:
  using D8 = hn::Rebind<uint8_t, D>;
  using D16 = hn::Rebind<uint16_t, D>;
  template <class DCode>
  static HWY_INLINE hn::VFromD<DCode> Cut(DCode d, V code) {
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86  // TruncateTo takes two instructions
    if constexpr (sizeof(hn::TFromD<DCode>) == 1 && sizeof(T) == 4) {
      const auto bits = hn::BitCast(hn::RebindToUnsigned<D>(), code);
      return hn::VFromD<DCode>{_mm512_cvtepi32_epi8(bits.raw)};
    }
#endif
    return hn::TruncateTo(d, hn::BitCast(hn::RebindToUnsigned<D>(), code));
  }

  const T* HWY_RESTRICT values_;
  const int64_t num_elems_;
  const AffineOut out_;
};

// --- The careful way ---

template <Rounding kRounding, bool kZeroFirst, class Regs, typename T>
HWY_NOINLINE int64_t EncodeCarefully(const AffineRule& rule, const AffineParams& params,
                                     const AffineCall<T>& call, int64_t num_elems,
                                     MeterLanes<T>& lanes) {
  const AffineTag<T> d;
  using D = decltype(d);
  constexpr int64_t kWidth = AffineCall<T>::kWidth;
  CarefulSteps<kRounding, kZeroFirst, std::remove_const_t<D>> careful(rule);
  const bool by_run = params.ends != nullptr;
  const int64_t num_runs = by_run ? params.num_runs : 1;
  for (int64_t k = 0; k < 16; k += kWidth) {
    Regs regs(d, lanes, static_cast<size_t>(k));
    int64_t begin = 0;
    for (int64_t r = 0; r < num_runs; ++r) {
      const int64_t end = by_run ? params.ends[r] : num_elems;
      AffineLanes<std::remove_const_t<D>> here = {hn::Zero(d), hn::Zero(d)};
      if (by_run) {
        here = {hn::Set(d, static_cast<T>(LoadAt(params.scales, r))),
                hn::Set(d, static_cast<T>(ZeroOfRun(params, r)))};
      }
      for (int64_t i = begin + k; i < end; i += 16) {
        const int64_t count = std::min(kWidth, end - i);
        if (!by_run) {
          here = {LoadScale(d, params.scales + i, count), LoadZeros(d, params, i, count)};
        }
        auto noise = hn::Zero(d);
        if constexpr (kRounding == Rounding::kStochastic) {
          noise = LoadNoise(d, rule.noise + i, count);
        }
        const auto x = count == kWidth ? call.Load(i) : call.LoadFirst(i, count);
        const auto made = careful.Encode(x, here, noise);
        if (count == kWidth) {
          call.Store(i, made.code);
          regs.Add(d, x, made.y);
        } else {
          call.StoreFirst(i, made.code, count);
          regs.AddFirst(d, static_cast<size_t>(count), x, made.y);
        }
      }
      begin = end;
    }
    regs.Store(d, lanes, static_cast<size_t>(k));
  }
  return careful.Clipped();
}

// --- The quick way ---

// What QuickRun needs of each run.
template <typename T>
struct QuickTable {
  HWY_ALIGN T scales[kMaxAffineRuns];
  HWY_ALIGN T reciprocals[kMaxAffineRuns];
  HWY_ALIGN T magics[kMaxAffineRuns];
  HWY_ALIGN T near_ties[kMaxAffineRuns];
  HWY_ALIGN T lowest_values[kMaxAffineRuns];
  HWY_ALIGN T highest_values[kMaxAffineRuns];

  // False if there is a scale without a useful reciprocal.
  bool Fill(const AffineRule& rule, const AffineParams& params) {
    const AffineTag<T> d;
    const auto low = hn::Set(d, static_cast<T>(rule.min_code - kNearClip));
    const auto high = hn::Set(d, static_cast<T>(rule.max_code + kNearClip));
    const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
    auto lowest = hn::Set(d, T{1}), highest = lowest;
    for (int64_t r = 0; r < params.num_runs; r += lanes) {
      const int64_t count = std::min(lanes, params.num_runs - r);
      auto scale = LoadScale(d, params.scales + r, count);
      if (count < lanes) {
        scale = hn::IfThenElse(hn::FirstN(d, static_cast<size_t>(count)), scale, hn::Set(d, T{1}));
      }
      lowest = hn::Min(lowest, scale);
      highest = hn::Max(highest, scale);
      const auto zero = LoadZeros(d, params, r, count);
      hn::Store(scale, d, scales + r);
      hn::Store(hn::Div(hn::Set(d, T{1}), scale), d, reciprocals + r);
      hn::Store(hn::Add(zero, hn::Set(d, Magic<T>())), d, magics + r);
      hn::Store(hn::Mul(scale, hn::Set(d, static_cast<T>(kNearTie))), d, near_ties + r);
      hn::Store(hn::Mul(hn::Sub(low, zero), scale), d, lowest_values + r);
      hn::Store(hn::Mul(hn::Sub(high, zero), scale), d, highest_values + r);
    }
    return MayUseReciprocal(static_cast<float>(hn::GetLane(hn::MinOfLanes(d, lowest)))) &&
           MayUseReciprocal(static_cast<float>(hn::GetLane(hn::MaxOfLanes(d, highest))));
  }

  template <class D>
  HWY_INLINE QuickRun<D> Run(D d, int64_t r) const {
    return {hn::Set(d, scales[r]),
            hn::Set(d, reciprocals[r]),
            hn::Set(d, magics[r]),
            hn::Set(d, lowest_values[r]),
            hn::Set(d, highest_values[r]),
            hn::BitCast(hn::RebindToSigned<D>(), hn::Set(d, near_ties[r]))};
  }
};

// One run or more, 32 values at a time: in the common case without a doubt.
template <bool kZeroFirst, class Regs, typename T>
class QuickEncoder {
 public:
  using D = AffineTag<T>;
  using V = hn::VFromD<D>;
  using DI = hn::RebindToSigned<D>;
  static constexpr int64_t kWidth = AffineCall<T>::kWidth;

  QuickEncoder(const AffineRule& rule, const T* values, int64_t num_elems, uint8_t* codes)
      : call_(values, num_elems, {codes, nullptr}), careful_(rule) {}

  // Encodes vectors k, k + 16, ... of [begin, end), whose parameters are `run`.
  HWY_INLINE void EncodeRun(const QuickRun<D>& run, int64_t begin, int64_t end, Regs& regs) {
    int64_t i = begin;
    for (; i + 16 + kWidth <= end; i += 32) {
      const QuickSteps<D> a(D(), call_.Load(i), run), b(D(), call_.Load(i + 16), run);
      const V min = hn::Min(a.x, b.x), max = hn::Max(a.x, b.x);
      const auto magnitude = hn::Max(a.magnitude, b.magnitude);
      if (HWY_UNLIKELY(InDoubt(D(), min, max, magnitude, run))) {
        LookAgain(i, a.x, run, regs);
        LookAgain(i + 16, b.x, run, regs);
        continue;
      }
      call_.Store(i, a.code);
      call_.Store(i + 16, b.code);
      regs.AddSums(D(), a.x, a.y, a.e);
      regs.AddSums(D(), b.x, b.y, b.e);
      regs.AddExtremes(min, max, magnitude);
    }
    for (; i < end; i += 16) {
      const int64_t count = std::min(kWidth, end - i);
      const V x = count == kWidth ? call_.Load(i) : call_.LoadFirst(i, count);
      const QuickSteps<D> a(D(), x, run);
      AffineSteps<D> made = {a.code, a.y};
      if (HWY_UNLIKELY(InDoubt(D(), x, x, a.magnitude, run))) made = Carefully(x, run);
      if (count == kWidth) {
        call_.Store(i, made.code);
        regs.Add(D(), x, made.y);
      } else {
        call_.StoreFirst(i, made.code, count);
        regs.AddFirst(D(), static_cast<size_t>(count), x, made.y);
      }
    }
  }

  int64_t Clipped() const { return careful_.Clipped(); }

 private:
  HWY_INLINE AffineSteps<D> Carefully(V x, const QuickRun<D>& run) {
    const V zero = hn::Sub(run.magic, hn::Set(D(), Magic<T>()));
    return careful_.Encode(x, {run.scale, zero}, hn::Zero(D()));
  }
  HWY_INLINE void LookAgain(int64_t i, V x, const QuickRun<D>& run, Regs& regs) {
    const AffineSteps<D> made = Carefully(x, run);
    call_.Store(i, made.code);
    regs.Add(D(), x, made.y);
  }

  const AffineCall<T> call_;
  CarefulSteps<Rounding::kHalfEven, kZeroFirst, D> careful_;
};

template <bool kZeroFirst, class Regs, typename T>
HWY_NOINLINE int64_t EncodeQuickly(const AffineRule& rule, const AffineParams& params,
                                   const QuickTable<T>& table, const T* values, int64_t num_elems,
                                   uint8_t* codes, MeterLanes<T>& lanes) {
  const AffineTag<T> d;
  QuickEncoder<kZeroFirst, Regs, T> encoder(rule, values, num_elems, codes);
  for (int64_t k = 0; k < 16; k += encoder.kWidth) {
    Regs regs(d, lanes, static_cast<size_t>(k));
    int64_t begin = 0;
    for (int64_t r = 0; r < params.num_runs; ++r) {
      const int64_t end = params.ends[r];
      encoder.EncodeRun(table.Run(d, r), begin + k, end, regs);
      begin = end;
    }
    regs.Store(d, lanes, static_cast<size_t>(k));
  }
  return encoder.Clipped();
}

// --- Choosing ---

template <class Regs, typename T>
int64_t EncodeWith(const AffineRule& rule, const AffineParams& params, const T* values,
                   int64_t num_elems, AffineOut out, MeterLanes<T>& lanes) {
  const AffineCall<T> call(values, num_elems, out);
  if (rule.rounding == Rounding::kHalfEven && out.words == nullptr && params.ends != nullptr) {
    QuickTable<T> table;
    if (table.Fill(rule, params)) {
      const auto encode =
          rule.zero_first ? EncodeQuickly<true, Regs, T> : EncodeQuickly<false, Regs, T>;
      return encode(rule, params, table, values, num_elems, out.bytes, lanes);
    }
  }
  switch (rule.rounding) {
#define QUANTD_ROUNDING(name) \
  case Rounding::name:        \
    return EncodeCarefully<Rounding::name, false, Regs>(rule, params, call, num_elems, lanes)
    case Rounding::kHalfEven:
      if (!rule.zero_first) {
        return EncodeCarefully<Rounding::kHalfEven, false, Regs>(rule, params, call, num_elems,
                                                                 lanes);
      }
      return EncodeCarefully<Rounding::kHalfEven, true, Regs>(rule, params, call, num_elems, lanes);
    QUANTD_ROUNDING(kHalfAway);
    QUANTD_ROUNDING(kHalfUp);
    QUANTD_ROUNDING(kHalfDown);
    QUANTD_ROUNDING(kTruncate);
    QUANTD_ROUNDING(kFloor);
    QUANTD_ROUNDING(kCeil);
    QUANTD_ROUNDING(kStochastic);
#undef QUANTD_ROUNDING
  }
  return 0;
}

template <typename T>
int64_t Encode(const AffineRule& rule, const AffineParams& params, const T* values,
               int64_t num_elems, AffineOut out, MeterLanes<T>* lanes) {
  using D = AffineTag<T>;
  if (lanes != nullptr) {
    return EncodeWith<MeterRegs<D>>(rule, params, values, num_elems, out, *lanes);
  }
  MeterLanes<T> unused;
  return EncodeWith<NullRegs<D>>(rule, params, values, num_elems, out, unused);
}

const AffineKernels& Kernels() {
  static constexpr AffineKernels kKernels = {Encode<float>, Encode<double>};
  return kKernels;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd {
namespace {

HWY_EXPORT(Kernels);

const AffineKernels& ChosenKernels() { return HWY_DYNAMIC_DISPATCH(Kernels)(); }

}  // namespace

int64_t EncodeAffine(const AffineRule& rule, const AffineParams& params, const float* values,
                     int64_t num_elems, uint8_t* codes, MeterLanes<float>* lanes) {
  return ChosenKernels().encode_f32(rule, params, values, num_elems, {codes, nullptr}, lanes);
}
int64_t EncodeAffine(const AffineRule& rule, const AffineParams& params, const float* values,
                     int64_t num_elems, uint16_t* codes, MeterLanes<float>* lanes) {
  return ChosenKernels().encode_f32(rule, params, values, num_elems, {nullptr, codes}, lanes);
}
int64_t EncodeAffine(const AffineRule& rule, const AffineParams& params, const double* values,
                     int64_t num_elems, uint8_t* codes, MeterLanes<double>* lanes) {
  return ChosenKernels().encode_f64(rule, params, values, num_elems, {codes, nullptr}, lanes);
}
int64_t EncodeAffine(const AffineRule& rule, const AffineParams& params, const double* values,
                     int64_t num_elems, uint16_t* codes, MeterLanes<double>* lanes) {
  return ChosenKernels().encode_f64(rule, params, values, num_elems, {nullptr, codes}, lanes);
}

}  // namespace quantd
#endif  // HWY_ONCE
