// One pass over the runs for each part of the meter's 16 lanes (simd/meter-inl.h). Most groups have
// clipped values, at the end that the scale was not fitted to, so they are counted as they come.
//
// Entry: MlxTable. Tested by tests/core/scheme/segments_test.cc, through the schemes.
#include "core/scheme/mlx_codes.h"

#include <algorithm>
#include <cstring>
#include <limits>

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
    const hn::RebindToUnsigned<D> du;
    auto clipped = hn::Zero(du);
    EncodeRuns<Regs>(d, runs, values, codes, lanes, [&](const MlxRun<T>& run) HWY_ATTR {
      const auto scale = hn::Set(d, run.scale), bias = hn::Set(d, run.bias);
      const auto stored_scale = hn::Set(d, run.stored_scale);
      const auto stored_bias = hn::Set(d, run.stored_bias);
      return [=, &rounder, &clipped](auto x) HWY_ATTR {
        const auto steps = hn::Div(hn::Sub(x, bias), scale);
        const auto clips = hn::RebindMask(du, rounder.Clips(steps));
        clipped = hn::Sub(clipped, hn::VecFromMask(du, clips));
        const auto code = rounder.Round(steps);
        return Narrowed<D>{rounder.Bits(code), hn::Add(hn::Mul(code, stored_scale), stored_bias)};
      };
    });
    return static_cast<int64_t>(hn::GetLane(hn::SumOfLanes(du, clipped)));
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

void FindParams(const double* HWY_RESTRICT ranges, int64_t num_ranges, float steps,
                MlxWorking* HWY_RESTRICT params) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  const hn::CappedTag<double, 8> dd;
  const hn::Rebind<float, decltype(dd)> d;
  constexpr int64_t kWidth = hn::MaxLanes(dd);
  const auto zero = hn::Zero(d), largest = hn::Set(d, kLargest);
  const auto held = [&](auto any, auto x) HWY_ATTR {
    const auto least = hn::Set(dd, -double{kLargest}), most = hn::Set(dd, double{kLargest});
    return hn::DemoteTo(d, hn::IfThenElseZero(any, hn::Min(hn::Max(x, least), most)));
  };
  for (int64_t i = 0; i < num_ranges; i += kWidth) {
    const int64_t count = std::min(kWidth, num_ranges - i);
    double pad[2 * kWidth] = {};
    float made[2 * kWidth];
    std::copy_n(ranges + 2 * i, 2 * count, pad);
    auto low = hn::Zero(dd), high = low;
    hn::LoadInterleaved2(dd, pad, low, high);
    const auto any = hn::Le(low, high);
    const auto min = held(any, low), max = held(any, high);
    const auto size = hn::Max(hn::Div(hn::Min(hn::Sub(max, min), largest), hn::Set(d, steps)),
                              hn::Set(d, 1e-7f));
    const auto negative = hn::Gt(hn::Abs(min), hn::Abs(max));
    const auto scale = hn::IfThenElse(negative, size, hn::Neg(size));
    const auto edge = hn::IfThenElse(negative, min, max);
    const auto edge_code = hn::Round(hn::Div(edge, scale));
    const auto at_zero = hn::Eq(edge_code, zero);
    const auto fitted = hn::IfThenElse(at_zero, scale, hn::Div(edge, edge_code));
    hn::StoreInterleaved2(fitted, hn::IfThenZeroElse(at_zero, edge), d, made);
    std::memcpy(params + i, made, static_cast<size_t>(count) * sizeof(MlxWorking));
  }
}

const MlxKernelTable& Table() {
  static constexpr MlxKernelTable kTable = {
      {{Encode<float>, Decode<float>}, {Encode<double>, Decode<double>}}, FindParams};
  return kTable;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd {

HWY_EXPORT(Table);

const MlxKernelTable& MlxTable() { return HWY_DYNAMIC_DISPATCH(Table)(); }

}  // namespace quantd
#endif  // HWY_ONCE
