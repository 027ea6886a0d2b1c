// The kernel of ggml's ternary formats. x * (1 / d) lies between -1 and 1, but where d had to be f16's
// largest: so levels are two comparisons with one half.
//
// Entry: MakeTernary. Tested by tests/core/scheme/segments_test.cc, reference_test.cc and
// golden_test.cc, through the schemes.
#include <cmath>

#include "core/scheme/ggml_ternary.h"
#include "core/scheme/super_block.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/scheme/ggml_ternary_kernels.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/simd/runs-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DT = hn::CappedTag<float, 16>;
constexpr int64_t kTernaryLanes = hn::MaxLanes(DT());

template <class Regs>
int64_t MakeTernaryWith(const float* HWY_RESTRICT values, int64_t num_blocks, uint16_t* d_codes,
                        int8_t* HWY_RESTRICT levels, MeterLanes<float>& lanes) {
  const DT d;
  const hn::RebindToSigned<DT> di;
  const hn::RebindToUnsigned<DT> du;
  const auto one = hn::Set(d, 1.0f), half = hn::Set(d, 0.5f), outside = hn::Set(d, 1.5f);
  constexpr int64_t kMostBlocks = kTileElems / kSuperBlockElems;
  float inverses[kMostBlocks], scales[kMostBlocks];
  for (int64_t block = 0; block < num_blocks; ++block) {
    const float* x = values + block * kSuperBlockElems;
    auto most = hn::Zero(d), most2 = most;
    for (int64_t i = 0; i < kSuperBlockElems; i += 2 * kTernaryLanes) {
      if (i % 16 == 0) PrefetchBehind(x + i);
      most = hn::Max(most, hn::Abs(hn::LoadU(d, x + i)));
      most2 = hn::Max(most2, hn::Abs(hn::LoadU(d, x + i + kTernaryLanes)));
    }
    float scale = hn::GetLane(hn::MaxOfLanes(d, hn::Max(most, most2)));
    if (scale >= 65520) scale = 65504;
    inverses[block] = std::isfinite(1 / scale) ? 1 / scale : 0;
    d_codes[block] =
        static_cast<uint16_t>(NarrowFloat(kHalfFormat, scale, Rounding::kHalfEven, true));
    scales[block] = WidenFloat<float>(kHalfFormat, d_codes[block]);
  }
  auto clipped = hn::Zero(di);  // less the all-ones mask of each
  for (int64_t k = 0; k < 16; k += kTernaryLanes) {
    Regs regs(d, lanes, static_cast<size_t>(k));
    for (int64_t block = 0; block < num_blocks; ++block) {
      const auto inverse = hn::Set(d, inverses[block]), scale = hn::Set(d, scales[block]);
      const int64_t begin = block * kSuperBlockElems;
      for (int64_t i = begin + k; i < begin + kSuperBlockElems; i += 16) {
        const auto x = hn::LoadU(d, values + i), v = hn::Mul(x, inverse), size = hn::Abs(v);
        const auto is_far = hn::RebindMask(di, hn::Ge(size, outside));
        clipped = hn::Add(clipped, hn::VecFromMask(di, is_far));
        const auto level = hn::IfThenElseZero(hn::Ge(size, half), hn::CopySign(one, v));
        StoreLow(du, hn::BitCast(du, hn::ConvertTo(di, level)),
                 reinterpret_cast<uint8_t*>(levels) + i);
        regs.Add(d, x, hn::Mul(scale, level));
      }
    }
    regs.Store(d, lanes, static_cast<size_t>(k));
  }
  return -hn::GetLane(hn::SumOfLanes(di, clipped));
}

int64_t MakeTernaryImpl(const float* values, int64_t num_blocks, uint16_t* d, int8_t* levels,
                        MeterLanes<float>* meter) {
  return WithMeter(meter, [&]<class Regs>(std::type_identity<Regs>, MeterLanes<float>& lanes) {
    return MakeTernaryWith<Regs>(values, num_blocks, d, levels, lanes);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd {

HWY_EXPORT(MakeTernaryImpl);

int64_t MakeTernary(const float* values, int64_t num_blocks, uint16_t* d, int8_t* levels,
                    MeterLanes<float>* lanes) {
  return HWY_DYNAMIC_DISPATCH(MakeTernaryImpl)(values, num_blocks, d, levels, lanes);
}

}  // namespace quantd
#endif  // HWY_ONCE
