// The entry is FbgemmTable. Tested by tests/core/scheme/segments_test.cc, through the scheme.
#include "core/scheme/fbgemm.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/scheme/fbgemm.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/simd/fused-inl.h"
#include "core/simd/runs-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

// A row or a part of one, the only run.
struct Row {
  int64_t num_elems;
};

// Returns code * scale + bias; in f64 the product is exact.
template <class D, class V = hn::VFromD<D>>
HWY_INLINE V RowValue(D d, V code, V scale, V bias) {
  if constexpr (sizeof(hn::TFromD<D>) == 4) {
    return FusedMulAdd(d, code, scale, bias);
  } else {
    return hn::Add(hn::Mul(code, scale), bias);
  }
}

template <typename T>
int64_t Encode(const FbgemmRow& row, int max_code, const T* values, int64_t num_elems,
               uint8_t* codes, MeterLanes<T>* meter) {
  const auto encode = [&]<class Regs>(std::type_identity<Regs>, MeterLanes<T>& lanes) HWY_ATTR {
    const hn::CappedTag<T, 16> d;
    using D = std::remove_const_t<decltype(d)>;
    const Row part = {num_elems};
    const auto bias = hn::Set(d, static_cast<T>(row.stored.bias));
    const auto scale = hn::Set(d, static_cast<T>(row.stored.scale));
    const auto inverse = hn::Set(d, static_cast<T>(row.inverse));
    StepRounder<D> rounder(max_code);
    const auto steps_of = [&](auto x) HWY_ATTR { return hn::Mul(hn::Sub(x, bias), inverse); };
    EncodeRuns<Regs>(d, std::span(&part, 1), values, codes, lanes, [&](Row) HWY_ATTR {
      return [&](auto x) HWY_ATTR {
        const auto code = rounder.Round(steps_of(x));
        return Narrowed<D>{rounder.Bits(code), RowValue(d, code, scale, bias)};
      };
    });
    if (HWY_LIKELY(!rounder.MayHaveClipped())) return int64_t{0};
    return CountRuns(d, std::span(&part, 1), values, [&](Row) HWY_ATTR {
      return [&](auto x) HWY_ATTR { return rounder.Clips(steps_of(x)); };
    });
  };
  return WithMeter(meter, encode);
}

template <typename T>
void Decode(const FbgemmTrailer& row, const uint8_t* codes, int64_t num_elems, T* values) {
  const hn::CappedTag<T, 16> d;
  const Row part = {num_elems};
  DecodeRuns(d, std::span(&part, 1), codes, values, [&](Row) HWY_ATTR {
    const auto scale = hn::Set(d, static_cast<T>(row.scale));
    const auto bias = hn::Set(d, static_cast<T>(row.bias));
    return [=](auto code) HWY_ATTR { return RowValue(d, FloatOf(d, code), scale, bias); };
  });
}

const KernelTable<FbgemmKernels>& Table() {
  static constexpr KernelTable<FbgemmKernels> kTable = {{Encode<float>, Decode<float>},
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

const KernelTable<FbgemmKernels>& FbgemmTable() { return HWY_DYNAMIC_DISPATCH(Table)(); }

}  // namespace quantd
#endif  // HWY_ONCE
