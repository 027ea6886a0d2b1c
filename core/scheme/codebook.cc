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
// The entry is CodebookTable. Tested by tests/core/scheme/reference_test.cc, through the schemes.
#include "core/scheme/codebook.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/scheme/codebook.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/simd/runs-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace {
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

template <typename T>
int64_t Encode(const Codebook<T>& book, std::span<const CodebookRun<T>> runs, const T* values,
               uint8_t* codes, MeterLanes<T>* meter) {
  const auto encode = [&]<class Regs>(std::type_identity<Regs>, MeterLanes<T>& lanes) HWY_ATTR {
    const hn::CappedTag<T, 16> d;
    using D = std::remove_const_t<decltype(d)>;
    const LevelTable<D> levels(d, book.levels);
    const CodeFinder<D> finder(d, book.middles);
    auto lowest = hn::Set(d, book.middles[7]), highest = lowest;
    EncodeRuns<Regs>(d, runs, values, codes, lanes, [&](const CodebookRun<T>& run) HWY_ATTR {
      const auto factor = hn::Set(d, run.factor), scale = hn::Set(d, run.scale);
      return [=, &levels, &finder, &lowest, &highest](auto x) HWY_ATTR {
        const auto v = hn::Mul(x, factor);
        lowest = hn::Min(lowest, v);
        highest = hn::Max(highest, v);
        const auto code = finder.Find(d, v);
        return Narrowed<D>{hn::BitCast(hn::RebindToUnsigned<D>(), code),
                           hn::Mul(levels.At(d, code), scale)};
      };
    });
    const auto clips = [&](auto v) HWY_ATTR {
      return hn::Or(hn::Le(v, hn::Set(d, book.low_clip)), hn::Ge(v, hn::Set(d, book.high_clip)));
    };
    if (HWY_LIKELY(hn::AllFalse(d, hn::Or(clips(lowest), clips(highest))))) return int64_t{0};
    return CountRuns(d, runs, values, [&](const CodebookRun<T>& run) HWY_ATTR {
      const auto factor = hn::Set(d, run.factor);
      return [=, &clips](auto x) HWY_ATTR { return clips(hn::Mul(x, factor)); };
    });
  };
  return WithMeter(meter, encode);
}

template <typename T>
void Decode(const std::array<float, 16>& levels, std::span<const CodebookRun<T>> runs,
            const uint8_t* codes, T* values) {
  const hn::CappedTag<T, 16> d;
  using D = std::remove_const_t<decltype(d)>;
  const LevelTable<D> table(d, levels);
  DecodeRuns(d, runs, codes, values, [&](const CodebookRun<T>& run) HWY_ATTR {
    const auto scale = hn::Set(d, run.scale);
    return [=, &table](auto code) HWY_ATTR {
      if constexpr (sizeof(T) == 4) {
        return hn::Mul(table.At(d, code), scale);
      } else {
        return hn::Mul(table.At(d, hn::PromoteTo(hn::RebindToSigned<D>(), code)), scale);
      }
    };
  });
}

void Recode(const std::array<uint8_t, 16>& by_place, int64_t num_codes,
            uint8_t* HWY_RESTRICT codes) {
  int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR  // which has no look-up of bytes
  const hn::ScalableTag<uint8_t> d;
  HWY_ALIGN uint8_t bytes[16];
  std::copy(by_place.begin(), by_place.end(), bytes);
  const auto table = hn::LoadDup128(d, bytes);
  const int64_t width = static_cast<int64_t>(hn::Lanes(d));
  for (; i + width <= num_codes; i += width) {
    hn::StoreU(hn::TableLookupBytes(table, hn::LoadU(d, codes + i)), d, codes + i);
  }
#endif
  for (; i < num_codes; ++i) codes[i] = by_place[codes[i]];
}

const CodebookKernelTable& Table() {
  static constexpr CodebookKernelTable kTable = {
      {{Encode<float>, Decode<float>}, {Encode<double>, Decode<double>}}, Recode};
  return kTable;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd {

HWY_EXPORT(Table);

const CodebookKernelTable& CodebookTable() { return HWY_DYNAMIC_DISPATCH(Table)(); }

}  // namespace quantd
#endif  // HWY_ONCE
