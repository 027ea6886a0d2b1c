// Entry: SumSquaredErrors. Tested by tests/core/simd/squared_errors_test.cc.
//
// A meter (meter.h) sums the errors of a tile; this those of each run of it, for ranges that are
// searched group by group. Squares of f32 are exact in f64, so that none overflows.
#include "core/simd/squared_errors.h"

#include <algorithm>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/simd/squared_errors.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/simd/kernel_table.h"

#ifndef QUANTD_CORE_SIMD_SQUARED_ERRORS_TABLE
#define QUANTD_CORE_SIMD_SQUARED_ERRORS_TABLE
namespace quantd {

template <typename T>
struct SquaredErrorsRow {
  void (*sum)(const T*, const T*, int64_t, int64_t, double*);
};

}  // namespace quantd
#endif

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

constexpr int64_t kSums = 16;
using Wide = hn::CappedTag<double, 8>;
constexpr int64_t kLanes = hn::MaxLanes(Wide());
constexpr int64_t kVectors = kSums / kLanes;

// Returns x - y as doubles, 0 where x is not finite.
template <typename T>
HWY_INLINE hn::VFromD<Wide> Error(const T* HWY_RESTRICT x, const T* HWY_RESTRICT y) {
  const hn::Rebind<T, Wide> d;
  const auto value = hn::LoadU(d, x);
  const auto finite = hn::Lt(hn::Abs(value), hn::Set(d, std::numeric_limits<T>::infinity()));
  const auto error = hn::IfThenElseZero(finite, hn::Sub(value, hn::LoadU(d, y)));
  if constexpr (sizeof(T) == sizeof(double)) {
    return error;
  } else {
    return hn::PromoteTo(Wide(), error);
  }
}

template <typename T>
double SumOfRun(const T* HWY_RESTRICT x, const T* HWY_RESTRICT y, int64_t num_elems) {
  hn::VFromD<Wide> sums[kVectors];
  for (auto& sum : sums) sum = hn::Zero(Wide());
  const auto add = [&sums](const T* from_x, const T* from_y) HWY_ATTR {
    for (int64_t v = 0; v < kVectors; ++v) {
      const auto error = Error(from_x + v * kLanes, from_y + v * kLanes);
      sums[v] = hn::Add(sums[v], hn::Mul(error, error));
    }
  };
  int64_t i = 0;
  for (; i + kSums <= num_elems; i += kSums) add(x + i, y + i);
  if (i < num_elems) {
    T rest_x[kSums] = {}, rest_y[kSums] = {};
    std::copy_n(reinterpret_cast<const char*>(x + i), (num_elems - i) * int64_t{sizeof(T)},
                reinterpret_cast<char*>(rest_x));
    std::copy_n(reinterpret_cast<const char*>(y + i), (num_elems - i) * int64_t{sizeof(T)},
                reinterpret_cast<char*>(rest_y));
    add(rest_x, rest_y);
  }
  double lanes[kSums];
  for (int64_t v = 0; v < kVectors; ++v) hn::StoreU(sums[v], Wide(), lanes + v * kLanes);
  for (int64_t half = kSums / 2; half > 0; half /= 2) {
    for (int64_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

template <typename T>
void SumImpl(const T* x, const T* y, int64_t run_elems, int64_t num_runs, double* sums) {
  for (int64_t run = 0; run < num_runs; ++run) {
    sums[run] = SumOfRun(x + run * run_elems, y + run * run_elems, run_elems);
  }
}

const KernelTable<SquaredErrorsRow>& Kernels() {
  static constexpr KernelTable<SquaredErrorsRow> kKernels = {{SumImpl<float>}, {SumImpl<double>}};
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

}  // namespace

void SumSquaredErrors(const float* x, const float* y, int64_t run_elems, int64_t num_runs,
                      double* sums) {
  HWY_DYNAMIC_DISPATCH(Kernels)().f32.sum(x, y, run_elems, num_runs, sums);
}
void SumSquaredErrors(const double* x, const double* y, int64_t run_elems, int64_t num_runs,
                      double* sums) {
  HWY_DYNAMIC_DISPATCH(Kernels)().f64.sum(x, y, run_elems, num_runs, sums);
}

}  // namespace quantd
#endif  // HWY_ONCE
