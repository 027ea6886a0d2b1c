// One pass over the runs for each part of the meter's 16 lanes (simd/meter-inl.h). Whether values
// are clipped is not asked of each: the least and the largest quotient of all runs are kept, and
// only where these lie half a step outside are the clipped ones counted, in another pass. The end
// of a run that fills no vector is padded with its bias, whose quotient is 0.
//
// Entry: MlxTable. Tested by tests/core/scheme/segments_test.cc, through the schemes.
#include "core/scheme/mlx_codes.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/scheme/mlx_codes.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/simd/runs-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

template <typename T>
int64_t Encode(int max_code, std::span<const MlxRun<T>> runs, const T* values, uint8_t* codes,
               MeterLanes<T>* meter) {
  const auto encode = [&]<class Regs>(std::type_identity<Regs>, MeterLanes<T>& lanes) HWY_ATTR {
    const hn::CappedTag<T, 16> d;
    using D = std::remove_const_t<decltype(d)>;
    StepRounder<D> rounder(max_code);
    EncodeRuns<Regs>(d, runs, values, codes, lanes, [&](const MlxRun<T>& run) HWY_ATTR {
      const auto scale = hn::Set(d, run.scale), bias = hn::Set(d, run.bias);
      const auto stored_scale = hn::Set(d, run.stored_scale);
      const auto stored_bias = hn::Set(d, run.stored_bias);
      return [=, &rounder](auto x) HWY_ATTR {
        const auto code = rounder.Round(hn::Div(hn::Sub(x, bias), scale));
        return Narrowed<D>{rounder.Bits(code), hn::Add(hn::Mul(code, stored_scale), stored_bias)};
      };
    });
    if (HWY_LIKELY(!rounder.MayHaveClipped())) return int64_t{0};
    return CountRuns(d, runs, values, [&](const MlxRun<T>& run) HWY_ATTR {
      const auto scale = hn::Set(d, run.scale), bias = hn::Set(d, run.bias);
      return [=](auto x) HWY_ATTR { return rounder.Clips(hn::Div(hn::Sub(x, bias), scale)); };
    });
  };
  return WithMeter(meter, encode);
}

template <typename T>
void Decode(std::span<const MlxRun<T>> runs, const uint8_t* codes, T* values) {
  const hn::CappedTag<T, 16> d;
  DecodeRuns(d, runs, codes, values, [&](const MlxRun<T>& run) HWY_ATTR {
    const auto scale = hn::Set(d, run.stored_scale), bias = hn::Set(d, run.stored_bias);
    return [=](auto code) HWY_ATTR { return hn::Add(hn::Mul(FloatOf(d, code), scale), bias); };
  });
}

const KernelTable<MlxKernels>& Table() {
  static constexpr KernelTable<MlxKernels> kTable = {{Encode<float>, Decode<float>},
                                                     {Encode<double>, Decode<double>}};
  return kTable;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd {

HWY_EXPORT(Table);

const KernelTable<MlxKernels>& MlxTable() { return HWY_DYNAMIC_DISPATCH(Table)(); }

}  // namespace quantd
#endif  // HWY_ONCE
