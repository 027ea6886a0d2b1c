// A code is found in two steps: a value is compared with every fourth middle, and then with the
// three in between, which look-ups in registers of four give. All comparisons of a step go at once,
// where each step of a search in four waits for the one before: on AVX2 and SSE4 that is half as
// fast again, on AVX-512 the same; comparing with all 15 middles takes twice the instructions.
//
//   middles  0 1 2 [3] 4 5 6 [7] 8 9 10 [11] 12 13 14        v between middles 8 and 9:
//   high = how many of 3, 7, 11 are below v                  2
//   low  = how many of 4 high + 0, + 1, + 2 are              1,  code = 4 high + low = 9
//
// What a code stands for is looked up in as many registers as 16 levels fill.
//
// The entries are EncodeLevels and DecodeLevels. Tested by tests/core/scheme/reference_test.cc,
// through the schemes.
#include "core/scheme/codebook.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/scheme/codebook.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/simd/meter-inl.h"
#include "core/simd/prefetch.h"
#include "core/simd/rest-inl.h"

#ifndef QUANTD_CORE_SCHEME_CODEBOOK_KERNELS
#define QUANTD_CORE_SCHEME_CODEBOOK_KERNELS
namespace quantd {

template <typename T>
struct CodebookKernelsOf {
  int64_t (*encode)(const Codebook<T>& book, const T* values, std::span<const CodebookRun<T>> runs,
                    uint8_t* codes, MeterLanes<T>* lanes);
  void (*decode)(const std::array<float, 16>& levels, std::span<const CodebookRun<T>> runs,
                 const uint8_t* codes, T* values);
};
struct CodebookKernels {
  CodebookKernelsOf<float> f32;
  CodebookKernelsOf<double> f64;
};

}  // namespace quantd
#endif

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Returns `counts` with 1 added where the mask holds.
template <class DI, class M>
HWY_INLINE hn::VFromD<DI> CountMask(DI di, hn::VFromD<DI> counts, M mask) {
  if constexpr (HWY_TARGET <= HWY_AVX3) {  // which adds under a mask
    return hn::IfThenElse(hn::RebindMask(di, mask), hn::Add(counts, hn::Set(di, 1)), counts);
  } else {
    return hn::Sub(counts, hn::VecFromMask(di, hn::RebindMask(di, mask)));
  }
}

// 16 levels, looked up by lanes of codes.
template <class D>
class LevelTable {
 public:
  using T = hn::TFromD<D>;
  using DI = hn::RebindToSigned<D>;
  using V = hn::VFromD<D>;
  static constexpr size_t kLanes = hn::MaxLanes(D());
  static constexpr size_t kParts = 16 / kLanes;

  HWY_INLINE LevelTable(D d, const std::array<float, 16>& levels) {
    for (size_t k = 0; k < 16; ++k) levels_[k] = static_cast<T>(levels[k]);
    for (size_t k = 0; k < kParts; ++k) parts_[k] = hn::Load(d, levels_ + k * kLanes);
  }

  HWY_INLINE V At(D d, hn::VFromD<DI> code) const {
    const DI di;
    if constexpr (kLanes < 4) {
      return hn::GatherIndex(d, levels_, code);
    } else {
      const auto lane = hn::IndicesFromVec(d, hn::And(code, hn::Set(di, int{kLanes} - 1)));
      V level = hn::TableLookupLanes(parts_[0], lane);
      for (size_t k = 1; k < kParts; ++k) {
        const auto here = hn::Gt(code, hn::Set(di, static_cast<int>(k * kLanes) - 1));
        const V part = hn::TableLookupLanes(parts_[k], lane);
        level = hn::IfThenElse(hn::RebindMask(d, here), part, level);
      }
      return level;
    }
  }

 private:
  HWY_ALIGN T levels_[16];
  V parts_[kParts];
};

// Finds the codes of values.
template <class D>
class CodeFinder {
 public:
  using T = hn::TFromD<D>;
  using V = hn::VFromD<D>;
  using DI = hn::RebindToSigned<D>;
  using VI = hn::VFromD<DI>;
  static constexpr size_t kLanes = hn::MaxLanes(D());

  HWY_INLINE CodeFinder(D d, const std::array<T, 15>& middles) : middles_(middles) {
    for (size_t k = 0; k < 3; ++k) {
      HWY_ALIGN T table[kLanes < 4 ? 4 : kLanes] = {};
      for (size_t high = 0; high < 4; ++high) table[high] = middles[4 * high + k];
      tables_[k] = hn::Load(d, table);
      fourths_[k] = hn::Set(d, middles[4 * k + 3]);
    }
  }

  HWY_INLINE VI Find(D d, V v) const {
    const DI di;
    VI high = hn::Zero(di), low = high;
    if constexpr (kLanes < 4) {
      for (const T middle : middles_) low = CountMask(di, low, hn::Gt(v, hn::Set(d, middle)));
      return low;
    } else {
      for (const V& middle : fourths_) high = CountMask(di, high, hn::Gt(v, middle));
      const auto lane = hn::IndicesFromVec(d, high);
      for (const V& table : tables_) {
        low = CountMask(di, low, hn::Gt(v, hn::TableLookupLanes(table, lane)));
      }
      return hn::Add(hn::ShiftLeft<2>(high), low);
    }
  }

 private:
  const std::array<T, 15>& middles_;
  V fourths_[3];
  V tables_[3];  // the middles behind those of every fourth, by how many of these are below
};

// Returns true if some value may be clipped.
template <class Regs, class D, typename T = hn::TFromD<D>>
bool EncodeRuns(D d, const Codebook<T>& book, const T* HWY_RESTRICT values,
                std::span<const CodebookRun<T>> runs, uint8_t* HWY_RESTRICT codes,
                MeterLanes<T>& lanes) {
  const hn::RebindToUnsigned<D> du;
  const hn::Rebind<uint8_t, D> d8;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  const LevelTable<D> levels(d, book.levels);
  const CodeFinder<D> finder(d, book.middles);
  auto lowest = hn::Set(d, book.middles[7]), highest = lowest;
  for (int64_t k = 0; k < 16; k += kWidth) {
    Regs regs(d, lanes, static_cast<size_t>(k));
    const T* x_at = values;
    uint8_t* codes_at = codes;
    for (const CodebookRun<T>& run : runs) {
      const auto factor = hn::Set(d, run.factor), scale = hn::Set(d, run.scale);
      const auto encode = [&](auto x) HWY_ATTR {
        const auto v = hn::Mul(x, factor);
        lowest = hn::Min(lowest, v);
        highest = hn::Max(highest, v);
        return finder.Find(d, v);
      };
      const auto decode = [&](auto code) HWY_ATTR { return hn::Mul(levels.At(d, code), scale); };
      const auto narrow = [&](auto code) HWY_ATTR {
        return hn::TruncateTo(d8, hn::BitCast(du, code));
      };
      const int64_t num_elems = run.num_elems;
      int64_t i = k;
      for (; i + kWidth <= num_elems; i += 16) {
        if (k == 0) PrefetchBehind(x_at + i);
        const auto x = hn::LoadU(d, x_at + i);
        const auto code = encode(x);
        hn::StoreU(narrow(code), d8, codes_at + i);
        regs.Add(d, x, decode(code));
      }
      if (const int64_t rest = run.num_elems - i; rest > 0) {
        const auto x = LoadRest(d, x_at + i, rest);
        const auto code = encode(x);
        StoreRest(narrow(code), d8, codes_at + i, rest);
        regs.AddFirst(d, static_cast<size_t>(rest), x, decode(code));
      }
      x_at += run.num_elems;
      codes_at += run.num_elems;
    }
    regs.Store(d, lanes, static_cast<size_t>(k));
  }
  return !hn::AllFalse(d, hn::Or(hn::Le(lowest, hn::Set(d, book.low_clip)),
                                 hn::Ge(highest, hn::Set(d, book.high_clip))));
}

template <class D, typename T = hn::TFromD<D>>
HWY_NOINLINE int64_t CountClipped(D d, const Codebook<T>& book, const T* HWY_RESTRICT values,
                                  std::span<const CodebookRun<T>> runs) {
  constexpr int64_t kWidth = hn::MaxLanes(d);
  const auto low = hn::Set(d, book.low_clip), high = hn::Set(d, book.high_clip);
  const auto inside = hn::Set(d, book.middles[7]);
  size_t clipped = 0;
  for (const CodebookRun<T>& run : runs) {
    const auto factor = hn::Set(d, run.factor);
    const auto count = [&](auto v) HWY_ATTR {
      clipped += hn::CountTrue(d, hn::Or(hn::Le(v, low), hn::Ge(v, high)));
    };
    int64_t i = 0;
    for (; i + kWidth <= run.num_elems; i += kWidth) {
      count(hn::Mul(hn::LoadU(d, values + i), factor));
    }
    if (const int64_t rest = run.num_elems - i; rest > 0) {
      const auto here = hn::FirstN(d, static_cast<size_t>(rest));
      count(hn::IfThenElse(here, hn::Mul(LoadRest(d, values + i, rest), factor), inside));
    }
    values += run.num_elems;
  }
  return static_cast<int64_t>(clipped);
}

template <typename T>
int64_t EncodeLevelsImpl(const Codebook<T>& book, const T* values,
                         std::span<const CodebookRun<T>> runs, uint8_t* codes,
                         MeterLanes<T>* lanes) {
  const hn::CappedTag<T, 16> d;
  bool may_clip;
  if (lanes != nullptr) {
    may_clip = EncodeRuns<MeterRegs<decltype(d)>>(d, book, values, runs, codes, *lanes);
  } else {
    MeterLanes<T> none;
    may_clip = EncodeRuns<NullRegs<decltype(d)>>(d, book, values, runs, codes, none);
  }
  return may_clip ? CountClipped(d, book, values, runs) : 0;
}

template <typename T>
void DecodeLevelsImpl(const std::array<float, 16>& levels, std::span<const CodebookRun<T>> runs,
                      const uint8_t* HWY_RESTRICT codes, T* HWY_RESTRICT values) {
  const hn::CappedTag<T, 16> d;
  const hn::Rebind<int32_t, decltype(d)> di32;
  const hn::Rebind<uint8_t, decltype(d)> d8;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  const LevelTable<decltype(d)> table(d, levels);
  for (const CodebookRun<T>& run : runs) {
    const auto scale = hn::Set(d, run.scale);
    const auto decode = [&](auto code8) HWY_ATTR {
      const auto code = hn::PromoteTo(di32, code8);
      if constexpr (sizeof(T) == 4) {
        return hn::Mul(table.At(d, code), scale);
      } else {
        return hn::Mul(table.At(d, hn::PromoteTo(hn::RebindToSigned<decltype(d)>(), code)), scale);
      }
    };
    int64_t i = 0;
    for (; i + kWidth <= run.num_elems; i += kWidth) {
      hn::StoreU(decode(hn::LoadU(d8, codes + i)), d, values + i);
    }
    if (const int64_t rest = run.num_elems - i; rest > 0) {
      StoreRest(decode(LoadRest(d8, codes + i, rest)), d, values + i, rest);
    }
    codes += run.num_elems;
    values += run.num_elems;
  }
}

const CodebookKernels& CodebookKernelsOfTarget() {
  static constexpr CodebookKernels kKernels = {
      {EncodeLevelsImpl<float>, DecodeLevelsImpl<float>},
      {EncodeLevelsImpl<double>, DecodeLevelsImpl<double>}};
  return kKernels;
}

}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd {
namespace {

HWY_EXPORT(CodebookKernelsOfTarget);

template <typename T>
const CodebookKernelsOf<T>& Kernels() {
  const CodebookKernels& kernels = HWY_DYNAMIC_DISPATCH(CodebookKernelsOfTarget)();
  if constexpr (sizeof(T) == 4) {
    return kernels.f32;
  } else {
    return kernels.f64;
  }
}

}  // namespace

int64_t EncodeLevels(const Codebook<float>& book, const float* values,
                     std::span<const CodebookRun<float>> runs, uint8_t* codes,
                     MeterLanes<float>* lanes) {
  return Kernels<float>().encode(book, values, runs, codes, lanes);
}
int64_t EncodeLevels(const Codebook<double>& book, const double* values,
                     std::span<const CodebookRun<double>> runs, uint8_t* codes,
                     MeterLanes<double>* lanes) {
  return Kernels<double>().encode(book, values, runs, codes, lanes);
}
void DecodeLevels(const std::array<float, 16>& levels, std::span<const CodebookRun<float>> runs,
                  const uint8_t* codes, float* values) {
  Kernels<float>().decode(levels, runs, codes, values);
}
void DecodeLevels(const std::array<float, 16>& levels, std::span<const CodebookRun<double>> runs,
                  const uint8_t* codes, double* values) {
  Kernels<double>().decode(levels, runs, codes, values);
}

}  // namespace quantd
#endif  // HWY_ONCE
