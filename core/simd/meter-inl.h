// The meter inside a kernel: the sums of some of the 16 lanes, in registers. Compiled once per SIMD
// target.
//
// A kernel goes over the lanes vector by vector, and for each over its segments:
//
//   for (size_t k = 0; k < 16; k += Lanes(d)) {
//     MeterRegs<D> regs(d, lanes, k);        // or NullRegs, which compiles away
//     for (each segment)
//       for (i = k; i < num_elems; i += 16)  // one vector of values: elements i, i + 1, ...
//         regs.Add(d, x, y);                 // AddFirst where less than a vector is left
//     regs.Store(d, lanes, k);
//   }
//
// so that sums stay in registers where a vector has fewer than 16 lanes, and the values, read more
// than once, in the L1 cache.
#if defined(QUANTD_CORE_SIMD_METER_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QUANTD_CORE_SIMD_METER_INL_H_
#undef QUANTD_CORE_SIMD_METER_INL_H_
#else
#define QUANTD_CORE_SIMD_METER_INL_H_
#endif

#include <hwy/highway.h>

#include "core/simd/meter.h"

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class D>
class MeterRegs {
 public:
  using T = hn::TFromD<D>;
  using V = hn::VFromD<D>;
  using DI = hn::RebindToSigned<D>;
  static_assert(hn::MaxLanes(D()) <= 16, "a lane has a place of its own");

  HWY_INLINE MeterRegs(D d, const MeterLanes<T>& lanes, size_t k)
      : sum_(hn::LoadU(d, lanes.sum.data() + k)),
        signal_(hn::LoadU(d, lanes.signal.data() + k)),
        error_(hn::LoadU(d, lanes.error.data() + k)),
        cross_(hn::LoadU(d, lanes.cross.data() + k)),
        min_(hn::LoadU(d, lanes.min.data() + k)),
        max_(hn::LoadU(d, lanes.max.data() + k)),
        max_error_(hn::BitCast(DI(), hn::LoadU(d, lanes.max_error.data() + k))) {}

  HWY_INLINE void Add(D d, V x, V y) {
    const V e = hn::Sub(x, y);
    AddSums(d, x, y, e);
    AddExtremes(x, x, hn::BitCast(DI(), hn::Abs(e)));
  }
  // Adds all but the extremes of x and of e, which is x - y.
  HWY_INLINE void AddSums(D /*d*/, V x, V y, V e) {
    sum_ = hn::Add(sum_, x);
    signal_ = hn::Add(signal_, hn::Mul(x, x));
    error_ = hn::Add(error_, hn::Mul(e, e));
    cross_ = hn::Add(cross_, hn::Mul(x, y));
  }
  // Adds the least x, the largest, and the largest |e|, as an integer, of a lane.
  HWY_INLINE void AddExtremes(V min, V max, hn::VFromD<DI> magnitude) {
    min_ = hn::Min(min_, min);
    max_ = hn::Max(max_, max);
    // Magnitudes are compared as integers, so that NaN and infinity come out on top everywhere.
    max_error_ = hn::Max(max_error_, magnitude);
  }
  // Adds the first `count` lanes of x and y.
  HWY_INLINE void AddFirst(D d, size_t count, V x, V y) {
    const auto mask = hn::FirstN(d, count);
    min_ = hn::IfThenElse(mask, hn::Min(min_, x), min_);
    max_ = hn::IfThenElse(mask, hn::Max(max_, x), max_);
    const V first_x = hn::IfThenElseZero(mask, x), first_y = hn::IfThenElseZero(mask, y);
    const V e = hn::Sub(first_x, first_y);
    AddSums(d, first_x, first_y, e);
    max_error_ = hn::Max(max_error_, hn::BitCast(DI(), hn::Abs(e)));
  }
  HWY_INLINE void Store(D d, MeterLanes<T>& lanes, size_t k) const {
    hn::StoreU(sum_, d, lanes.sum.data() + k);
    hn::StoreU(signal_, d, lanes.signal.data() + k);
    hn::StoreU(error_, d, lanes.error.data() + k);
    hn::StoreU(cross_, d, lanes.cross.data() + k);
    hn::StoreU(min_, d, lanes.min.data() + k);
    hn::StoreU(max_, d, lanes.max.data() + k);
    hn::StoreU(hn::BitCast(d, max_error_), d, lanes.max_error.data() + k);
  }

 private:
  V sum_, signal_, error_, cross_, min_, max_;
  hn::VFromD<DI> max_error_;
};

// The same for kernels without a meter.
template <class D>
class NullRegs {
 public:
  using T = hn::TFromD<D>;
  using V = hn::VFromD<D>;
  HWY_INLINE NullRegs(D, const MeterLanes<T>&, size_t) {}
  HWY_INLINE void Add(D, V, V) {}
  HWY_INLINE void AddSums(D, V, V, V) {}
  HWY_INLINE void AddExtremes(V, V, hn::VFromD<hn::RebindToSigned<D>>) {}
  HWY_INLINE void AddFirst(D, size_t, V, V) {}
  HWY_INLINE void Store(D, MeterLanes<T>&, size_t) const {}
};

}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#endif  // include guard
