// The searches for scales without minima with one run in each lane, as in k_quant.cc: sums over its
// values keep their order whatever the vectors' width.
//
// Nearest levels of the table are found by halving: a level begins at the middle between it and the
// one below, which is a multiple of 1/2. So twice the value is compared with whole numbers, with no
// rounding in between. Where a vector has 8 lanes or more, it holds the tables of the two lower
// halvings, else the 15 middles are compared with one after the other.
//
//   -3.2, as -6.4: not below -9 (8 .. 15), below 63 (.. 11), 38 (.. 9) and 14: index 8, level 1
//
// Entries: SearchScales, DescendScales and EncodeIq4Runs. Tested by
// tests/core/scheme/segments_test.cc, reference_test.cc and golden_test.cc, through the schemes.
#include "core/scheme/scale_search.h"

#include <algorithm>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/scheme/scale_search.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/simd/runs-inl.h"

#ifndef QUANTD_CORE_SCHEME_SCALE_SEARCH_KERNELS
#define QUANTD_CORE_SCHEME_SCALE_SEARCH_KERNELS
namespace quantd {

struct ScaleSearchKernels {
  decltype(&SearchScales) search;
  decltype(&DescendScales) descend;
  decltype(&EncodeIq4Runs) encode_iq4;
};

// Twice the middle below level i.
constexpr float Iq4Edge(int i) { return static_cast<float>(kIq4Levels[i - 1] + kIq4Levels[i]); }

// Tables of a vector: of the second last and the last halving, levels of even and of odd index.
struct Iq4Tables {
  alignas(64) float quarter[16], eighth[16], even[16], odd[16];
};
constexpr Iq4Tables kIq4Tables = [] {
  Iq4Tables tables = {};
  for (int i = 0; i < 8; ++i) {
    tables.quarter[i] = Iq4Edge(4 * (i % 4) + 2);
    tables.eighth[i] = Iq4Edge(2 * i + 1);
    tables.even[i] = kIq4Levels[2 * i];
    tables.odd[i] = kIq4Levels[2 * i + 1];
  }
  return tables;
}();

}  // namespace quantd
#endif

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DS = hn::CappedTag<float, 16>;
using DSI = hn::RebindToSigned<DS>;
using VS = hn::VFromD<DS>;
using VSI = hn::VFromD<DSI>;
using MS = hn::Mask<DS>;
constexpr size_t kScaleLanes = hn::MaxLanes(DS());
constexpr size_t kScaleVecs = 2;  // worked on at once, so that one fills the time of the other
constexpr size_t kScaleRuns = kScaleVecs * kScaleLanes;
constexpr float kNearestMagic = 0x1.8p23f;
constexpr float kAllZero = 1e-15f;  // GROUP_MAX_EPS

// Values of some runs, one in each lane, and their weights.
struct ScaleRuns {
  alignas(64) float x[kMaxKRunElems][kScaleRuns];
  float gap[336];  // 4 KiB apart, loads would wait for stores
  alignas(64) float w[kMaxKRunElems][kScaleRuns];
  float gap2[336];
  alignas(64) float levels[kMinKRunElems][kScaleRuns];
};

// Returns clamp(nearest(v), lowest, highest) as ggml's bits have it.
HWY_INLINE VS LevelByBits(VS v, VS lowest, VS highest) {
  const DS d;
  const DSI di;
  const auto bits = hn::BitCast(di, hn::Add(v, hn::Set(d, kNearestMagic)));
  const auto whole = hn::Sub(hn::And(bits, hn::Set(di, 0x7FFFFF)), hn::Set(di, 0x400000));
  return hn::Min(hn::Max(hn::ConvertTo(d, whole), lowest), highest);
}

struct Iq4Found {
  VS level;
  VSI index;
};

// Returns the level nearest to v, the lowest one for NaN.
HWY_INLINE Iq4Found FindIq4(VS v) {
  const DS d;
  const DSI di;
  const VS twice = hn::Add(v, v);
  const auto bit = [&](MS mask) HWY_ATTR { return hn::VecFromMask(di, hn::RebindMask(di, mask)); };
  if constexpr (kScaleLanes >= 8) {
    const auto at = [&](const float (&table)[16], VSI i) HWY_ATTR {
      return hn::TableLookupLanes(hn::Load(d, table), hn::IndicesFromVec(d, i));
    };
    const MS upper = hn::Ge(twice, hn::Set(d, Iq4Edge(8)));
    const VS half = hn::IfThenElse(upper, hn::Set(d, Iq4Edge(12)), hn::Set(d, Iq4Edge(4)));
    VSI i = hn::Or(hn::And(bit(upper), hn::Set(di, 2)),
                   hn::And(bit(hn::Ge(twice, half)), hn::Set(di, 1)));
    i = hn::Sub(hn::Add(i, i), bit(hn::Ge(twice, at(kIq4Tables.quarter, i))));
    const MS odd = hn::Ge(twice, at(kIq4Tables.eighth, i));
    return {hn::IfThenElse(odd, at(kIq4Tables.odd, i), at(kIq4Tables.even, i)),
            hn::Sub(hn::Add(i, i), bit(odd))};
  } else {
    VS level = hn::Set(d, float{kIq4Levels[0]});
    VSI index = hn::Zero(di);
    for (int i = 1; i < 16; ++i) {
      const MS reached = hn::Ge(twice, hn::Set(d, Iq4Edge(i)));
      level = hn::IfThenElse(reached, hn::Set(d, static_cast<float>(kIq4Levels[i])), level);
      index = hn::Sub(index, bit(reached));
    }
    return {level, index};
  }
}

// What is known of the runs of a vector.
struct VecScales {
  HWY_INLINE VecScales() {}  // said here for NEON, as in k_quant.cc

  VS furthest, absmax, sum_w;
  VS sum_xl, sum_l2;  // of the levels at hand
  VS factor;          // of the levels at hand
  VS best, scale, code_factor;

  // Finds the value furthest from 0, of two the first. Returns true where all are finite.
  HWY_INLINE bool Begin(int64_t run_elems, size_t v, const ScaleRuns& runs) {
    const DS d;
    const VS zero = hn::Zero(d);
    VS not_finite = zero;
    furthest = absmax = sum_w = zero;
    for (int64_t l = 0; l < run_elems; ++l) {
      const VS x = hn::Load(d, runs.x[l] + v * kScaleLanes), magnitude = hn::Abs(x);
      const MS further = hn::Gt(magnitude, absmax);
      absmax = hn::IfThenElse(further, magnitude, absmax);
      furthest = hn::IfThenElse(further, x, furthest);
      sum_w = hn::Add(sum_w, hn::Load(d, runs.w[l] + v * kScaleLanes));
      not_finite = hn::Add(not_finite, hn::Sub(x, x));
    }
    return hn::AllTrue(d, hn::Eq(not_finite, zero));
  }

  HWY_INLINE void Take(bool first, bool by_table) {
    const DS d;
    const VS zero = hn::Zero(d);
    const MS has_levels = hn::Gt(sum_l2, zero);
    const VS tried = hn::Div(sum_xl, sum_l2);
    if (first) {
      const MS none = by_table ? hn::Not(has_levels) : hn::Eq(sum_l2, zero);
      scale = hn::IfThenElse(none, zero, tried);
      best = hn::Mul(scale, sum_xl);
      code_factor = factor;
      return;
    }
    const MS better =
        hn::And(has_levels, hn::Gt(hn::Mul(sum_xl, sum_xl), hn::Mul(best, sum_l2)));
    scale = hn::IfThenElse(better, tried, scale);
    best = hn::IfThenElse(better, hn::Mul(tried, sum_xl), best);
    code_factor = hn::IfThenElse(better, factor, code_factor);
  }
};

// Sums over the levels that level_of gives. Products are taken in the order of each project's
// function: (w * x) * level, or of the table (w * level) * x.
template <bool kByTable, class LevelFn>
HWY_INLINE void SumLevels(int64_t run_elems, const ScaleRuns& runs, VecScales (&vecs)[kScaleVecs],
                          LevelFn level_of) {
  const DS d;
  VS sum_xl[kScaleVecs], sum_l2[kScaleVecs];
  for (size_t v = 0; v < kScaleVecs; ++v) sum_xl[v] = sum_l2[v] = hn::Zero(d);
  for (int64_t l = 0; l < run_elems; ++l) {
    for (size_t v = 0; v < kScaleVecs; ++v) {
      const VS x = hn::Load(d, runs.x[l] + v * kScaleLanes);
      const VS w = hn::Load(d, runs.w[l] + v * kScaleLanes);
      const VS level = level_of(hn::Mul(vecs[v].factor, x));
      const VS weighted = hn::Mul(w, level);
      sum_xl[v] = hn::Add(sum_xl[v], kByTable ? hn::Mul(weighted, x)
                                              : hn::Mul(hn::Mul(w, x), level));
      sum_l2[v] = hn::Add(sum_l2[v], hn::Mul(weighted, level));
    }
  }
  for (size_t v = 0; v < kScaleVecs; ++v) {
    vecs[v].sum_xl = sum_xl[v];
    vecs[v].sum_l2 = sum_l2[v];
  }
}

HWY_INLINE void SearchTable(const ScaleRuns& runs, VecScales (&vecs)[kScaleVecs]) {
  const DS d;
  const auto level_of = [](VS v) HWY_ATTR { return FindIq4(v).level; };
  constexpr int kTries = 7;
  for (int step = -kTries - 1; step <= kTries; ++step) {
    const bool first = step < -kTries;
    for (VecScales& vec : vecs) {
      const VS lowest = hn::Set(d, static_cast<float>(kIq4Levels[0] + (first ? 0 : step)));
      vec.factor = first ? hn::Div(hn::Set(d, 1.0f), hn::Div(hn::Neg(vec.furthest), lowest))
                         : hn::Div(lowest, vec.furthest);
    }
    SumLevels<true>(kMaxKRunElems, runs, vecs, level_of);
    for (VecScales& vec : vecs) vec.Take(first, true);
  }
}

HWY_INLINE void SearchWhole(const ScaleSearch& search, const ScaleRuns& runs, bool finite,
                            VecScales (&vecs)[kScaleVecs]) {
  const DS d;
  const auto reach = static_cast<float>(search.reach);
  const VS magic = hn::Set(d, kNearestMagic);
  const VS low = hn::Set(d, kNearestMagic - reach), high = hn::Set(d, kNearestMagic + reach - 1);
  const VS lowest = hn::Set(d, -reach), highest = hn::Set(d, reach - 1);
  constexpr int kTries = 9;
  for (int step = -kTries - 1; step <= kTries; ++step) {
    if (step == 0) continue;
    const bool first = step < -kTries;
    const float tries = first ? reach : reach + 0.1f * static_cast<float>(step);
    for (VecScales& vec : vecs) vec.factor = hn::Div(hn::Set(d, -tries), vec.furthest);
    if (HWY_LIKELY(finite)) {
      SumLevels<false>(search.run_elems, runs, vecs, [=](VS v) HWY_ATTR {
        return hn::Sub(hn::Min(hn::Max(hn::Add(v, magic), low), high), magic);
      });
    } else {
      SumLevels<false>(search.run_elems, runs, vecs,
                       [=](VS v) HWY_ATTR { return LevelByBits(v, lowest, highest); });
    }
    for (VecScales& vec : vecs) vec.Take(first, false);
  }
}

// Loads runs from `first` on; the lanes behind the last one hold the first again.
HWY_INLINE void LoadRuns(const float* HWY_RESTRICT values, int64_t run_elems, int64_t first,
                         int64_t num_runs, float (&to)[kMaxKRunElems][kScaleRuns]) {
  constexpr auto kRuns = static_cast<int64_t>(kScaleRuns);
  const int64_t count = std::min(kRuns, num_runs - first);
  for (int64_t k = 0; k < kRuns; ++k) {
    const float* HWY_RESTRICT from = values + (first + (k < count ? k : 0)) * run_elems;
    for (int64_t l = 0; l < run_elems; ++l) to[l][k] = LoadAt(from, l);
  }
}

HWY_INLINE void FillScaleWeights(int64_t run_elems, bool has_importance, const float* energies,
                                 ScaleRuns& runs) {
  const DS d;
  for (size_t at = 0; at < kScaleRuns; at += kScaleLanes) {
    const VS energy = energies != nullptr ? hn::Load(d, energies + at) : hn::Zero(d);
    for (int64_t l = 0; l < run_elems; ++l) {
      const VS x = hn::Load(d, runs.x[l] + at);
      VS w = hn::Mul(x, x);
      if (has_importance) {
        const VS importance = hn::Load(d, runs.w[l] + at);
        w = energies == nullptr ? importance
                                : hn::Mul(importance, hn::Sqrt(hn::Add(energy, w)));
      }
      hn::Store(w, d, runs.w[l] + at);
    }
  }
}

void SearchScalesImpl(const ScaleSearch& search, const float* values, int64_t num_runs,
                      const KWeights& weights, KRuns& out) {
  const DS d;
  const bool by_table = search.reach == 0, has_importance = weights.importance != nullptr;
  const int64_t run_elems = search.run_elems;
  constexpr auto kRuns = static_cast<int64_t>(kScaleRuns);
  ScaleRuns runs;
  for (int64_t first = 0; first < num_runs; first += kRuns) {
    LoadRuns(values, run_elems, first, num_runs, runs.x);
    alignas(64) float energies[kScaleRuns] = {};
    if (has_importance) {
      LoadRuns(weights.importance, run_elems, first, num_runs, runs.w);
      const int64_t count = std::min(kRuns, num_runs - first);
      if (weights.energies != nullptr) std::copy_n(weights.energies + first, count, energies);
    }
    FillScaleWeights(run_elems, has_importance, weights.energies != nullptr ? energies : nullptr,
                     runs);
    VecScales vecs[kScaleVecs];
    bool finite = true;
    for (size_t v = 0; v < kScaleVecs; ++v) finite &= vecs[v].Begin(run_elems, v, runs);
    if (by_table) {
      SearchTable(runs, vecs);
    } else {
      SearchWhole(search, runs, finite, vecs);
    }
    for (size_t v = 0; v < kScaleVecs; ++v) {
      const int64_t at = first + static_cast<int64_t>(v * kScaleLanes);
      if (at >= kMaxKRuns) break;
      const MS flat = hn::Lt(vecs[v].absmax, hn::Set(d, kAllZero));
      hn::Store(hn::IfThenZeroElse(flat, vecs[v].scale), d, out.scale + at);
      hn::Store(hn::Zero(d), d, out.min + at);
      hn::Store(vecs[v].sum_w, d, out.weight + at);
      // Of all-zero runs, the lowest level.
      hn::Store(hn::IfThenElseZero(flat, hn::Set(d, 1000.0f)), d, out.code_min + at);
      hn::Store(hn::IfThenElse(flat, hn::Set(d, 1.0f), vecs[v].code_factor), d,
                out.code_factor + at);
    }
  }
}

// What DescendScales knows of the runs of a vector: the sums over their levels.
struct VecDescent {
  HWY_INLINE VecDescent() {}

  VS sum_xl, sum_l2;
  MS flat, changed;

  HWY_INLINE void Begin(size_t v, ScaleRuns& runs) {
    const DS d;
    VecScales vec;
    vec.Begin(kMinKRunElems, v, runs);
    flat = hn::Lt(vec.absmax, hn::Set(d, kAllZero));
    const VS lowest = hn::Set(d, -4.0f), highest = hn::Set(d, 3.0f);
    const VS factor = hn::Div(lowest, vec.furthest);
    sum_xl = sum_l2 = hn::Zero(d);
    for (int64_t l = 0; l < kMinKRunElems; ++l) {
      const size_t at = v * kScaleLanes;
      const VS x = hn::Load(d, runs.x[l] + at), w = hn::Load(d, runs.w[l] + at);
      const VS level = LevelByBits(hn::Mul(factor, x), lowest, highest);
      hn::Store(level, d, runs.levels[l] + at);
      sum_xl = hn::Add(sum_xl, hn::Mul(hn::Mul(w, x), level));
      sum_l2 = hn::Add(sum_l2, hn::Mul(hn::Mul(w, level), level));
    }
  }

  // Moves level l.
  HWY_INLINE void Move(size_t v, int64_t l, ScaleRuns& runs) {
    const DS d;
    const VS zero = hn::Zero(d);
    const size_t at = v * kScaleLanes;
    const VS x = hn::Load(d, runs.x[l] + at), w = hn::Load(d, runs.w[l] + at);
    const VS weighted = hn::Mul(w, x), level = hn::Load(d, runs.levels[l] + at);
    VS xl = hn::Sub(sum_xl, hn::Mul(weighted, level));
    VS l2 = hn::Sub(sum_l2, hn::Mul(hn::Mul(w, level), level));
    const VS next = LevelByBits(hn::Div(hn::Mul(x, l2), xl), hn::Set(d, -4.0f), hn::Set(d, 3.0f));
    MS better = hn::And(hn::Gt(xl, zero), hn::Ne(next, level));
    xl = hn::Add(xl, hn::Mul(weighted, next));
    l2 = hn::Add(l2, hn::Mul(hn::Mul(w, next), next));
    better = hn::And(better, hn::And(hn::Gt(l2, zero),
                                     hn::Gt(hn::Mul(hn::Mul(xl, xl), sum_l2),
                                            hn::Mul(hn::Mul(sum_xl, sum_xl), l2))));
    hn::Store(hn::IfThenElse(better, next, level), d, runs.levels[l] + at);
    sum_xl = hn::IfThenElse(better, xl, sum_xl);
    sum_l2 = hn::IfThenElse(better, l2, sum_l2);
    changed = hn::Or(changed, better);
  }
};

// A run that has not changed in a round does not in the next, so all go on until none does.
HWY_INLINE void Descend(ScaleRuns& runs, VecDescent (&vecs)[kScaleVecs]) {
  const DS d;
  for (size_t v = 0; v < kScaleVecs; ++v) vecs[v].Begin(v, runs);
  for (int round = 0; round < 5; ++round) {
    for (VecDescent& vec : vecs) vec.changed = hn::Lt(hn::Zero(d), hn::Zero(d));
    for (int64_t l = 0; l < kMinKRunElems; ++l) {
      for (size_t v = 0; v < kScaleVecs; ++v) vecs[v].Move(v, l, runs);
    }
    bool changed = false;
    for (const VecDescent& vec : vecs) changed |= !hn::AllFalse(d, vec.changed);
    if (!changed) return;
  }
}

void DescendScalesImpl(const float* values, int64_t num_runs, KRuns& out, int8_t* levels) {
  const DS d;
  constexpr auto kRuns = static_cast<int64_t>(kScaleRuns);
  ScaleRuns runs;
  for (int64_t first = 0; first < num_runs; first += kRuns) {
    LoadRuns(values, kMinKRunElems, first, num_runs, runs.x);
    FillScaleWeights(kMinKRunElems, false, nullptr, runs);
    VecDescent vecs[kScaleVecs];
    Descend(runs, vecs);
    for (size_t v = 0; v < kScaleVecs; ++v) {
      const int64_t at = first + static_cast<int64_t>(v * kScaleLanes);
      if (at >= num_runs) break;
      const VS tried = hn::Div(vecs[v].sum_xl, vecs[v].sum_l2);
      const MS has_scale = hn::AndNot(vecs[v].flat, hn::Gt(vecs[v].sum_l2, hn::Zero(d)));
      hn::Store(hn::IfThenElseZero(has_scale, tried), d, out.scale + at);
      for (int64_t l = 0; l < kMinKRunElems; ++l) {
        const VS level = hn::Load(d, runs.levels[l] + v * kScaleLanes);
        hn::Store(hn::IfThenElse(vecs[v].flat, hn::Set(d, -4.0f), level), d,
                  runs.levels[l] + v * kScaleLanes);
      }
    }
    for (int64_t k = 0; k < std::min(kRuns, num_runs - first); ++k) {
      int8_t* to = levels + (first + k) * kMinKRunElems;
      for (int64_t l = 0; l < kMinKRunElems; ++l) to[l] = static_cast<int8_t>(runs.levels[l][k]);
    }
  }
}

template <class Regs>
int64_t EncodeIq4With(const float* HWY_RESTRICT values, int64_t num_runs, const float* inverses,
                      const float* scales, uint8_t* HWY_RESTRICT codes, MeterLanes<float>& lanes) {
  const DS d;
  const DSI di;
  const hn::RebindToUnsigned<DS> du;
  constexpr auto kWidth = static_cast<int64_t>(kScaleLanes);
  const VS low = hn::Set(d, -138.5f), high = hn::Set(d, 125.0f);
  VSI clipped = hn::Zero(di);  // less the all-ones mask of each
  for (int64_t k = 0; k < 16; k += kWidth) {
    Regs regs(d, lanes, static_cast<size_t>(k));
    for (int64_t run = 0; run < num_runs; ++run) {
      const VS inverse = hn::Set(d, inverses[run]), scale = hn::Set(d, scales[run]);
      for (int64_t i = run * kMaxKRunElems + k; i < (run + 1) * kMaxKRunElems; i += 16) {
        const VS x = hn::LoadU(d, values + i), v = hn::Mul(x, inverse);
        const MS outside = hn::Or(hn::Le(v, low), hn::Ge(v, high));
        clipped = hn::Add(clipped, hn::VecFromMask(di, hn::RebindMask(di, outside)));
        const Iq4Found found = FindIq4(v);
        StoreLow(du, hn::BitCast(du, found.index), codes + i);
        regs.Add(d, x, hn::Mul(scale, found.level));
      }
    }
    regs.Store(d, lanes, static_cast<size_t>(k));
  }
  return -hn::GetLane(hn::SumOfLanes(di, clipped));
}

int64_t EncodeIq4Impl(const float* values, int64_t num_runs, const float* inverses,
                      const float* scales, uint8_t* codes, MeterLanes<float>* meter) {
  return WithMeter(meter, [&]<class Regs>(std::type_identity<Regs>, MeterLanes<float>& lanes) {
    return EncodeIq4With<Regs>(values, num_runs, inverses, scales, codes, lanes);
  });
}

const ScaleSearchKernels& ScaleSearchKernelsOfTarget() {
  static constexpr ScaleSearchKernels kKernels = {SearchScalesImpl, DescendScalesImpl,
                                                  EncodeIq4Impl};
  return kKernels;
}

}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd {

HWY_EXPORT(ScaleSearchKernelsOfTarget);

void SearchScales(const ScaleSearch& search, const float* values, int64_t num_runs,
                  const KWeights& weights, KRuns& out) {
  HWY_DYNAMIC_DISPATCH(ScaleSearchKernelsOfTarget)().search(search, values, num_runs, weights, out);
}

void DescendScales(const float* values, int64_t num_runs, KRuns& out, int8_t* levels) {
  HWY_DYNAMIC_DISPATCH(ScaleSearchKernelsOfTarget)().descend(values, num_runs, out, levels);
}

int64_t EncodeIq4Runs(const float* values, int64_t num_runs, const float* inverses,
                      const float* scales, uint8_t* codes, MeterLanes<float>* lanes) {
  return HWY_DYNAMIC_DISPATCH(ScaleSearchKernelsOfTarget)().encode_iq4(values, num_runs, inverses,
                                                                       scales, codes, lanes);
}

}  // namespace quantd
#endif  // HWY_ONCE
