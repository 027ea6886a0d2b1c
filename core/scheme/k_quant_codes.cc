// Codes of the K-quants, made with what is stored:
//
//   level = nearest((x + min) / scale), lowest to highest;  y = scale * level - min
//
// A run whose stored scale is 0, as where another run of its block is 1,000 times as large, has the
// levels of the search, which are made again by the two numbers of it that SearchKRuns leaves for
// that. `nearest` is ggml's, by the bits of a float: beyond 2^22 it is what they say.
//
// Entries: EncodeKRuns and DecodeKRuns. Tested by tests/core/scheme/segments_test.cc, through the
// schemes.
#include "core/scheme/k_quant_codes.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/scheme/k_quant_codes.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/simd/runs-inl.h"

#ifndef QUANTD_CORE_SCHEME_K_QUANT_CODES_KERNELS
#define QUANTD_CORE_SCHEME_K_QUANT_CODES_KERNELS
namespace quantd {

struct KCodeKernels {
  decltype(&EncodeKRuns) encode;
  decltype(&DecodeKRuns) decode;
};

}  // namespace quantd
#endif

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DK = hn::CappedTag<float, 16>;

template <class Regs>
int64_t EncodeKRunsWith(const KLevels& format, const float* HWY_RESTRICT values, int64_t num_runs,
                        const KRunParams* params, const KRuns& found, int8_t* HWY_RESTRICT levels,
                        MeterLanes<float>& lanes) {
  const DK d;
  const hn::RebindToSigned<DK> di;
  const hn::RebindToUnsigned<DK> du;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  const int64_t run_elems = format.run_elems;
  const auto low = hn::Set(d, static_cast<float>(format.lowest) - 0.5f);
  const auto high = hn::Set(d, static_cast<float>(format.highest) + 0.5f);
  const auto lowest = hn::Set(di, format.lowest), highest = hn::Set(di, format.highest);
  auto clipped = hn::Zero(di);  // less the all-ones mask of each
  // As ggml's nearest_int has it, beyond 2^22 as well.
  const auto code_of = [&](auto steps) HWY_ATTR {
    const auto bits = hn::BitCast(di, hn::Add(steps, hn::Set(d, 0x1.8p23f)));
    const auto whole = hn::Sub(hn::And(bits, hn::Set(di, 0x7FFFFF)), hn::Set(di, 0x400000));
    return hn::Min(hn::Max(whole, lowest), highest);
  };
  for (int64_t k = 0; k < 16; k += kWidth) {
    Regs regs(d, lanes, static_cast<size_t>(k));
    for (int64_t run = 0; run < num_runs; ++run) {
      const auto scale = hn::Set(d, params[run].scale), min = hn::Set(d, params[run].min);
      const bool keeps = params[run].scale == 0;
      const auto factor = hn::Set(d, found.code_factor[run]);
      const auto code_min = hn::Set(d, found.code_min[run]);
      for (int64_t i = run * run_elems + k; i < (run + 1) * run_elems; i += 16) {
        const auto x = hn::Load(d, values + i);
        hn::VFromD<decltype(di)> code;
        if (HWY_UNLIKELY(keeps)) {
          code = code_of(hn::Mul(factor, hn::Sub(x, code_min)));
        } else {
          const auto steps = hn::Div(hn::Add(x, min), scale);
          const auto outside = hn::Or(hn::Le(steps, low), hn::Ge(steps, high));
          clipped = hn::Sub(clipped, hn::VecFromMask(di, hn::RebindMask(di, outside)));
          code = code_of(steps);
        }
        StoreLow(du, hn::BitCast(du, code), reinterpret_cast<uint8_t*>(levels) + i);
        regs.Add(d, x, hn::Sub(hn::Mul(scale, hn::ConvertTo(d, code)), min));
      }
    }
    regs.Store(d, lanes, static_cast<size_t>(k));
  }
  return hn::GetLane(hn::SumOfLanes(di, clipped));
}

int64_t EncodeKRunsImpl(const KLevels& format, const float* values, int64_t num_runs,
                        const KRunParams* params, const KRuns& found, int8_t* levels,
                        MeterLanes<float>* lanes) {
  return WithMeter(lanes, [&]<class Regs>(std::type_identity<Regs>, MeterLanes<float>& sums) {
    return EncodeKRunsWith<Regs>(format, values, num_runs, params, found, levels, sums);
  });
}

void DecodeKRunsImpl(const int8_t* HWY_RESTRICT levels, int64_t run_elems, int64_t num_runs,
                     const KRunParams* params, float* HWY_RESTRICT values) {
  const DK d;
  const hn::Rebind<int32_t, DK> di;
  const hn::Rebind<int8_t, DK> d8;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  for (int64_t run = 0; run < num_runs; ++run) {
    const auto scale = hn::Set(d, params[run].scale), min = hn::Set(d, params[run].min);
    for (int64_t i = run * run_elems; i < (run + 1) * run_elems; i += kWidth) {
      const auto level = hn::ConvertTo(d, hn::PromoteTo(di, hn::LoadU(d8, levels + i)));
      hn::StoreU(hn::Sub(hn::Mul(scale, level), min), d, values + i);
    }
  }
}

const KCodeKernels& KCodeKernelsOfTarget() {
  static constexpr KCodeKernels kKernels = {EncodeKRunsImpl, DecodeKRunsImpl};
  return kKernels;
}

}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd {

HWY_EXPORT(KCodeKernelsOfTarget);

int64_t EncodeKRuns(const KLevels& format, const float* values, int64_t num_runs,
                    const KRunParams* params, const KRuns& found, int8_t* levels,
                    MeterLanes<float>* lanes) {
  return HWY_DYNAMIC_DISPATCH(KCodeKernelsOfTarget)().encode(format, values, num_runs, params,
                                                             found, levels, lanes);
}

void DecodeKRuns(const int8_t* levels, int64_t run_elems, int64_t num_runs,
                 const KRunParams* params, float* values) {
  HWY_DYNAMIC_DISPATCH(KCodeKernelsOfTarget)().decode(levels, run_elems, num_runs, params, values);
}

}  // namespace quantd
#endif  // HWY_ONCE
