// The search for scale and minimum with one run in each lane, so that sums over its values keep
// their order whatever the vectors' width:
//
//   values      run 0: x0 x1 .. x31   run 1: x0 .. x31   ...        in memory
//   transposed  x0 of runs 0, 1, ..   x1 of runs 0, 1, ..   ...     a vector each
//
// Each step depends on the one before, as codes are counted from the least minimum so far. Codes
// stay floats: adding 1.5 * 2^23 rounds, and clamps and what follows need no integers. Only where a
// quotient leaves the range in which that holds, told by those of the run's least and largest
// value, does a step take the way of ggml's bits. Runs whose values are all equal sit out.
//
// Each step has 18 operations per value. One thread of a Zen 4 (64 KiB, best of 200; GB/s):
//
//                     ggml 0.20.2   SSE4   AVX2   AVX-512
//   plain             0.063         0.30   0.58   0.67
//   with importance   0.036         0.17   0.30   0.34
//
// The entry is SearchKRuns. Tested by tests/core/scheme/segments_test.cc, reference_test.cc and
// golden_test.cc, through the schemes.
#include "core/scheme/k_quant.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/scheme/k_quant.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::CappedTag<float, 16>;
using VF = hn::VFromD<DF>;
using MF = hn::Mask<DF>;
constexpr size_t kRunLanes = hn::MaxLanes(DF());
constexpr float kRoundMagic = 0x1.8p23f;

// Vectors that are worked on at once, so that one's sums fill the time that the other's divisions
// take.
constexpr size_t kVecs = 2;
constexpr size_t kLaneRuns = kVecs * kRunLanes;

// Values of some runs, one in each lane, and what the search makes of them.
struct LanesOfRuns {
  alignas(64) float x[kMaxKRunElems][kLaneRuns];
  float gap[336];  // 4 KiB apart, loads would wait for stores: half the speed
  alignas(64) float w[kMaxKRunElems][kLaneRuns];
  float gap2[336];
  alignas(64) float codes[kMaxKRunElems][kLaneRuns];
};

// Returns clamp(nearest(v), 0, max_code) as ggml's bits have it.
HWY_INLINE VF CodeByBits(DF d, VF v, VF max_code) {
  const hn::RebindToSigned<DF> di;
  const auto bits = hn::BitCast(di, hn::Add(v, hn::Set(d, kRoundMagic)));
  const auto whole = hn::Sub(hn::And(bits, hn::Set(di, 0x7FFFFF)), hn::Set(di, 0x400000));
  return hn::Min(hn::ConvertTo(d, hn::Max(whole, hn::Zero(di))), max_code);
}

// The same for |v| below 2^22.
HWY_INLINE VF CodeByMagic(DF d, VF v, VF max_code) {
  const VF magic = hn::Set(d, kRoundMagic);
  const VF shifted = hn::Add(v, magic);
  return hn::Sub(hn::Min(hn::Max(shifted, magic), hn::Add(max_code, magic)), magic);
}

// Makes weights of those of the columns and the blocks' energies, or without these of values alone.
void FillWeights(DF d, const KSearch& search, const float* energies, size_t v, LanesOfRuns& runs) {
  const size_t at = v * kRunLanes;
  const int64_t run_elems = search.run_elems;
  if (energies != nullptr) {
    const VF energy = hn::Load(d, energies + at);
    for (int64_t l = 0; l < run_elems; ++l) {
      const VF x = hn::Load(d, runs.x[l] + at), importance = hn::Load(d, runs.w[l] + at);
      const VF root = hn::Sqrt(hn::Add(energy, hn::Mul(x, x)));
      hn::Store(hn::Mul(importance, root), d, runs.w[l] + at);
    }
    return;
  }
  VF squares = hn::Zero(d);
  for (int64_t l = 0; search.adds_average && l < run_elems; ++l) {
    const VF x = hn::Load(d, runs.x[l] + at);
    squares = hn::Add(squares, hn::Mul(x, x));
  }
  const VF average = hn::Sqrt(hn::Div(squares, hn::Set(d, static_cast<float>(run_elems))));
  for (int64_t l = 0; l < run_elems; ++l) {
    const VF x = hn::Load(d, runs.x[l] + at);
    hn::Store(hn::Add(average, hn::Abs(x)), d, runs.w[l] + at);
  }
}

// The search in the runs of one vector; the sums over their values are the caller's.
struct VecSearch {
  // Said here, or GCC makes it without the target of this code: NEON does not compile then.
  HWY_INLINE VecSearch() {}

  VF least, largest, sum_w, sum_x;
  VF sum_l, sum_l2, sum_xl;  // of the codes at hand
  VF factor;                 // of the codes at hand
  VF tried_scale, tried_min;
  VF best, scale, min, code_factor, code_min;
  MF flat, fits;

  void SumValues(DF d, int64_t run_elems, size_t v, const LanesOfRuns& runs) {
    const size_t at = v * kRunLanes;
    VF w = hn::Load(d, runs.w[0] + at), x = hn::Load(d, runs.x[0] + at);
    least = largest = x;
    sum_w = w;
    sum_x = hn::Mul(w, x);
    for (int64_t l = 1; l < run_elems; ++l) {
      w = hn::Load(d, runs.w[l] + at);
      x = hn::Load(d, runs.x[l] + at);
      least = hn::IfThenElse(hn::Lt(x, least), x, least);
      largest = hn::IfThenElse(hn::Gt(x, largest), x, largest);
      sum_w = hn::Add(sum_w, w);
      sum_x = hn::Add(sum_x, hn::Mul(w, x));
    }
  }

  HWY_INLINE void Begin(DF d, VF max_code) {
    const VF zero = hn::Zero(d);
    min = code_min = hn::IfThenElse(hn::Gt(least, zero), zero, least);
    flat = hn::Le(largest, min);
    const VF inverse = hn::Div(max_code, hn::Sub(largest, min));
    factor = code_factor = hn::IfThenElse(flat, zero, inverse);
    scale = tried_scale = hn::IfThenElse(flat, zero, hn::Div(hn::Set(d, 1.0f), inverse));
    tried_min = min;
  }

  // Sets what the codes of `tries` codes in the range are found with.
  HWY_INLINE void SetFactor(DF d, float tries) {
    const VF quotient = hn::Div(hn::Set(d, tries), hn::Sub(largest, min));
    factor = hn::IfThenElse(flat, hn::Zero(d), quotient);
  }

  // True where codes may be found by adding the magic number.
  HWY_INLINE MF IsWithinMagic(DF d) const {
    const VF bound = hn::Set(d, 4194303.0f);
    const VF low = hn::Abs(hn::Mul(factor, hn::Sub(least, min)));
    const VF high = hn::Abs(hn::Mul(factor, hn::Sub(largest, min)));
    return hn::And(hn::Le(low, bound), hn::Le(high, bound));  // not for NaN
  }

  // Finds what suits the codes at hand best.
  HWY_INLINE void Solve(DF d) {
    const VF zero = hn::Zero(d);
    const VF det = hn::Sub(hn::Mul(sum_w, sum_l2), hn::Mul(sum_l, sum_l));
    const VF scale_l = hn::Sub(hn::Mul(sum_w, sum_xl), hn::Mul(sum_x, sum_l));
    const VF min_l = hn::Sub(hn::Mul(sum_l2, sum_x), hn::Mul(sum_l, sum_xl));
    tried_min = hn::Div(min_l, det);
    const MF above = hn::Gt(tried_min, zero);
    tried_scale = hn::Div(hn::IfThenElse(above, sum_xl, scale_l),
                          hn::IfThenElse(above, sum_l2, det));
    tried_min = hn::IfThenElse(above, zero, tried_min);
    fits = hn::AndNot(flat, hn::Gt(det, zero));
  }

  HWY_INLINE void KeepIfBetter(VF error) {
    const MF better = hn::And(fits, hn::Lt(error, best));
    best = hn::IfThenElse(better, error, best);
    scale = hn::IfThenElse(better, tried_scale, scale);
    code_factor = hn::IfThenElse(better, factor, code_factor);
    code_min = hn::IfThenElse(better, min, code_min);
    min = hn::IfThenElse(better, tried_min, min);
  }
};

class RunSearch {
 public:
  RunSearch(const KSearch& search, LanesOfRuns& runs)
      : search_(search),
        run_elems_(search.run_elems),
        runs_(runs),
        max_code_(hn::Set(d_, search.max_code)) {}

  HWY_INLINE void Run() {
    for (size_t v = 0; v < kVecs; ++v) {
      vecs_[v].SumValues(d_, run_elems_, v, runs_);
      vecs_[v].Begin(d_, max_code_);
    }
    VF errors[kVecs];
    FindCodes();
    SumErrors(errors);
    for (size_t v = 0; v < kVecs; ++v) vecs_[v].best = errors[v];
    for (int i = 0; i <= search_.num_steps; ++i) {
      const float tries =
          search_.first + search_.step * static_cast<float>(i) + search_.max_code;
      for (VecSearch& vec : vecs_) vec.SetFactor(d_, tries);
      FindCodes();
      for (VecSearch& vec : vecs_) vec.Solve(d_);
      SumErrors(errors);
      for (size_t v = 0; v < kVecs; ++v) vecs_[v].KeepIfBetter(errors[v]);
    }
  }

  void Store(int64_t first, KRuns& out) const {
    for (size_t v = 0; v < kVecs; ++v) {
      const int64_t at = first + static_cast<int64_t>(v * kRunLanes);
      if (at >= kMaxKRuns) return;  // lanes behind the last run
      hn::Store(vecs_[v].scale, d_, out.scale + at);
      hn::Store(hn::Neg(vecs_[v].min), d_, out.min + at);
      hn::Store(vecs_[v].sum_w, d_, out.weight + at);
      hn::Store(vecs_[v].code_min, d_, out.code_min + at);
      hn::Store(vecs_[v].code_factor, d_, out.code_factor + at);
    }
  }

 private:
  // Finds the codes, and their sums with the weights.
  HWY_INLINE void FindCodes() {
    MF within = vecs_[0].IsWithinMagic(d_);
    for (size_t v = 1; v < kVecs; ++v) within = hn::And(within, vecs_[v].IsWithinMagic(d_));
    if (HWY_LIKELY(hn::AllTrue(d_, within))) {
      SumCodes([&](VF steps) HWY_ATTR { return CodeByMagic(d_, steps, max_code_); });
    } else {
      SumCodes([&](VF steps) HWY_ATTR { return CodeByBits(d_, steps, max_code_); });
    }
  }

  template <typename CodeFn>
  HWY_INLINE void SumCodes(CodeFn code_of) {
    VF sum_l[kVecs], sum_l2[kVecs], sum_xl[kVecs], factor[kVecs], min[kVecs];
    for (size_t v = 0; v < kVecs; ++v) {
      sum_l[v] = sum_l2[v] = sum_xl[v] = hn::Zero(d_);
      factor[v] = vecs_[v].factor;
      min[v] = vecs_[v].min;
    }
    for (int64_t l = 0; l < run_elems_; ++l) {
      for (size_t v = 0; v < kVecs; ++v) {
        const VF x = hn::Load(d_, runs_.x[l] + v * kRunLanes);
        const VF code = code_of(hn::Mul(factor[v], hn::Sub(x, min[v])));
        hn::Store(code, d_, runs_.codes[l] + v * kRunLanes);
        const VF weighted = hn::Mul(hn::Load(d_, runs_.w[l] + v * kRunLanes), code);
        sum_l[v] = hn::Add(sum_l[v], weighted);
        sum_l2[v] = hn::Add(sum_l2[v], hn::Mul(weighted, code));
        sum_xl[v] = hn::Add(sum_xl[v], hn::Mul(weighted, x));
      }
    }
    for (size_t v = 0; v < kVecs; ++v) {
      vecs_[v].sum_l = sum_l[v];
      vecs_[v].sum_l2 = sum_l2[v];
      vecs_[v].sum_xl = sum_xl[v];
    }
  }

  HWY_INLINE void SumErrors(VF (&errors)[kVecs]) const {
    if (search_.by_absolute_error) {
      SumErrors(errors, [](VF diff) HWY_ATTR { return hn::Abs(diff); });
    } else {
      SumErrors(errors, [](VF diff) HWY_ATTR { return hn::Mul(diff, diff); });
    }
  }

  template <typename ErrorFn>
  HWY_INLINE void SumErrors(VF (&errors)[kVecs], ErrorFn error_of) const {
    VF error[kVecs], scale[kVecs], min[kVecs];
    for (size_t v = 0; v < kVecs; ++v) {
      error[v] = hn::Zero(d_);
      scale[v] = vecs_[v].tried_scale;
      min[v] = vecs_[v].tried_min;
    }
    for (int64_t l = 0; l < run_elems_; ++l) {
      for (size_t v = 0; v < kVecs; ++v) {
        const VF code = hn::Load(d_, runs_.codes[l] + v * kRunLanes);
        const VF y = hn::Add(hn::Mul(scale[v], code), min[v]);
        const VF diff = hn::Sub(y, hn::Load(d_, runs_.x[l] + v * kRunLanes));
        const VF w = hn::Load(d_, runs_.w[l] + v * kRunLanes);
        error[v] = hn::Add(error[v], hn::Mul(w, error_of(diff)));
      }
    }
    for (size_t v = 0; v < kVecs; ++v) errors[v] = error[v];
  }

  const DF d_;
  const KSearch& search_;
  const int64_t run_elems_;
  LanesOfRuns& runs_;
  const VF max_code_;
  VecSearch vecs_[kVecs];
};

void SearchKRunsImpl(const KSearch& search, const float* HWY_RESTRICT values, int64_t num_runs,
                     const KWeights& weights, KRuns& out) {
  const DF d;
  LanesOfRuns runs;
  const bool weighted = weights.importance != nullptr;
  constexpr auto kRuns = static_cast<int64_t>(kLaneRuns);
  for (int64_t first = 0; first < num_runs; first += kRuns) {
    const int64_t count = std::min(kRuns, num_runs - first), run_elems = search.run_elems;
    alignas(64) float energies[kLaneRuns] = {};
    for (int64_t k = 0; k < kRuns; ++k) {  // the lanes behind the last run hold the first again
      const int64_t run = first + (k < count ? k : 0);
      const float* x = values + run * run_elems;
      for (int64_t l = 0; l < run_elems; ++l) runs.x[l][k] = x[l];
      if (!weighted) continue;
      const float* importance = weights.importance + run * run_elems;
      for (int64_t l = 0; l < run_elems; ++l) runs.w[l][k] = importance[l];
      energies[k] = weights.energies[run];
    }
    for (size_t v = 0; v < kVecs; ++v) {
      FillWeights(d, search, weighted ? energies : nullptr, v, runs);
    }
    RunSearch run_search(search, runs);
    run_search.Run();
    run_search.Store(first, out);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd {
namespace {

HWY_EXPORT(SearchKRunsImpl);

}  // namespace

void SearchKRuns(const KSearch& search, const float* values, int64_t num_runs,
                 const KWeights& weights, KRuns& out) {
  HWY_DYNAMIC_DISPATCH(SearchKRunsImpl)(search, values, num_runs, weights, out);
}

}  // namespace quantd
#endif  // HWY_ONCE
