// Entries: those of signs.h. Tested by tests/core/scheme/reference_test.cc and segments_test.cc,
// through the schemes.
//
// There is no meter inside: schemes that want figures decode the codes again, in the L1 cache, and
// hand both to MeasureSegment, so that one kernel serves scales by run and by element.
#include "core/simd/signs.h"

#include <cmath>
#include <cstring>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/simd/signs.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/simd/convert-inl.h"
#include "core/simd/kernel_table.h"
#include "core/simd/meter.h"
#include "core/simd/rest-inl.h"

#ifndef QUANTD_CORE_SIMD_SIGNS_TABLE
#define QUANTD_CORE_SIMD_SIGNS_TABLE
namespace quantd {

template <typename T>
struct SignKernels {
  int64_t (*encode)(const SignCoding&, const T*, int64_t, uint8_t*);
  void (*decode)(const SignCoding&, const uint8_t*, int64_t, T*);
  int64_t (*encode_thirds)(const ThirdCoding&, const T*, int64_t, uint8_t*);
  void (*decode_thirds)(const ThirdCoding&, const uint8_t*, int64_t, T*);
};

}  // namespace quantd
#endif

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

// Returns the least value whose code is 1.
template <typename T>
T LeastOf(const SignCoding& coding) {
  return coding.zero ? T{0} : std::numeric_limits<T>::denorm_min();
}

template <typename T>
int64_t Encode(const SignCoding& coding, const T* HWY_RESTRICT values, int64_t num_elems,
               uint8_t* HWY_RESTRICT codes) {
  const hn::CappedTag<T, 16> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  const auto least = hn::Set(d, LeastOf<T>(coding)), zero = hn::Zero(d);
  const auto one = hn::Set(d, T{1});
  size_t clipped = 0;
  int64_t i = 0;
  for (; i + kWidth <= num_elems; i += kWidth) {
    const auto x = hn::LoadU(d, values + i);
    const auto scale = coding.scales == nullptr ? one : LoadF32(d, coding.scales + i);
    const auto is_one = hn::VecFromMask(du, hn::RebindMask(du, hn::Ge(x, least)));
    StoreLow(du, hn::And(is_one, hn::Set(du, 1)), codes + i);
    const auto far = hn::Ge(hn::Abs(x), hn::Add(scale, scale));
    clipped += hn::CountTrue(d, hn::And(far, hn::Ne(x, zero)));
  }
  for (; i < num_elems; ++i) {
    const T x = LoadAt(values, i);
    const T scale = coding.scales == nullptr ? T{1} : static_cast<T>(LoadAt(coding.scales, i));
    codes[i] = x >= LeastOf<T>(coding);
    clipped += std::fabs(x) >= scale + scale && x != 0;
  }
  return static_cast<int64_t>(clipped);
}

template <typename T>
void Decode(const SignCoding& coding, const uint8_t* HWY_RESTRICT codes, int64_t num_elems,
            T* HWY_RESTRICT values) {
  const hn::CappedTag<T, 16> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  const auto one = hn::Set(d, T{1});
  int64_t i = 0;
  for (; i + kWidth <= num_elems; i += kWidth) {
    const auto is_zero = hn::Eq(LoadWide(du, codes + i), hn::Zero(du));
    const auto scale = coding.scales == nullptr ? one : LoadF32(d, coding.scales + i);
    hn::StoreU(hn::IfThenElse(hn::RebindMask(d, is_zero), hn::Neg(scale), scale), d, values + i);
  }
  for (; i < num_elems; ++i) {
    const T scale = coding.scales == nullptr ? T{1} : static_cast<T>(LoadAt(coding.scales, i));
    const T value = codes[i] == 0 ? -scale : scale;
    CopyBytes(values + i, &value, sizeof(value));
  }
}

template <typename T>
int64_t EncodeThirdsImpl(const ThirdCoding& coding, const T* HWY_RESTRICT values,
                         int64_t num_elems, uint8_t* HWY_RESTRICT codes) {
  const hn::CappedTag<T, 16> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  const T threshold = static_cast<T>(coding.threshold);
  const T clip = static_cast<T>(1.5) * static_cast<T>(coding.scale);
  const auto above = hn::Set(d, threshold), below = hn::Set(d, -threshold);
  size_t clipped = 0;
  int64_t i = 0;
  for (; i + kWidth <= num_elems; i += kWidth) {
    const auto x = hn::LoadU(d, values + i);
    const auto plus = hn::VecFromMask(du, hn::RebindMask(du, hn::Gt(x, above)));
    const auto minus = hn::VecFromMask(du, hn::RebindMask(du, hn::Lt(x, below)));
    StoreLow(du, hn::Or(hn::And(plus, hn::Set(du, 1)), hn::And(minus, hn::Set(du, 3))), codes + i);
    const auto far = hn::Ge(hn::Abs(x), hn::Set(d, clip));
    clipped += hn::CountTrue(d, hn::And(far, hn::Ne(x, hn::Zero(d))));
  }
  for (; i < num_elems; ++i) {
    const T x = LoadAt(values, i);
    codes[i] = x > threshold ? 1 : x < -threshold ? 3 : 0;
    clipped += std::fabs(x) >= clip && x != 0;
  }
  return static_cast<int64_t>(clipped);
}

template <typename T>
void DecodeThirdsImpl(const ThirdCoding& coding, const uint8_t* HWY_RESTRICT codes,
                      int64_t num_elems, T* HWY_RESTRICT values) {
  const hn::CappedTag<T, 16> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  const T levels[4] = {0, static_cast<T>(coding.scale), 0, -static_cast<T>(coding.scale)};
  const auto plus = hn::Set(d, levels[1]), minus = hn::Set(d, levels[3]);
  int64_t i = 0;
  for (; i + kWidth <= num_elems; i += kWidth) {
    const auto code = LoadWide(du, codes + i);
    const auto is_plus = hn::RebindMask(d, hn::Eq(code, hn::Set(du, 1)));
    const auto is_minus = hn::RebindMask(d, hn::Eq(code, hn::Set(du, 3)));
    hn::StoreU(hn::IfThenElse(is_plus, plus, hn::IfThenElseZero(is_minus, minus)), d, values + i);
  }
  for (; i < num_elems; ++i) CopyBytes(values + i, &levels[codes[i] & 3], sizeof(T));
}

const KernelTable<SignKernels>& Table() {
  static constexpr KernelTable<SignKernels> kTable = {
      {Encode<float>, Decode<float>, EncodeThirdsImpl<float>, DecodeThirdsImpl<float>},
      {Encode<double>, Decode<double>, EncodeThirdsImpl<double>, DecodeThirdsImpl<double>}};
  return kTable;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd {
namespace {

HWY_EXPORT(Table);

template <typename T>
const SignKernels<T>& KernelsOf() {
  return HWY_DYNAMIC_DISPATCH(Table)().Of<T>();
}

}  // namespace

int64_t EncodeSigns(const SignCoding& coding, const float* values, int64_t num_elems,
                    uint8_t* codes) {
  return KernelsOf<float>().encode(coding, values, num_elems, codes);
}
int64_t EncodeSigns(const SignCoding& coding, const double* values, int64_t num_elems,
                    uint8_t* codes) {
  return KernelsOf<double>().encode(coding, values, num_elems, codes);
}
void DecodeSigns(const SignCoding& coding, const uint8_t* codes, int64_t num_elems, float* values) {
  KernelsOf<float>().decode(coding, codes, num_elems, values);
}
void DecodeSigns(const SignCoding& coding, const uint8_t* codes, int64_t num_elems,
                 double* values) {
  KernelsOf<double>().decode(coding, codes, num_elems, values);
}

int64_t EncodeThirds(const ThirdCoding& coding, const float* values, int64_t num_elems,
                     uint8_t* codes) {
  return KernelsOf<float>().encode_thirds(coding, values, num_elems, codes);
}
int64_t EncodeThirds(const ThirdCoding& coding, const double* values, int64_t num_elems,
                     uint8_t* codes) {
  return KernelsOf<double>().encode_thirds(coding, values, num_elems, codes);
}
void DecodeThirds(const ThirdCoding& coding, const uint8_t* codes, int64_t num_elems,
                  float* values) {
  KernelsOf<float>().decode_thirds(coding, codes, num_elems, values);
}
void DecodeThirds(const ThirdCoding& coding, const uint8_t* codes, int64_t num_elems,
                  double* values) {
  KernelsOf<double>().decode_thirds(coding, codes, num_elems, values);
}

void ReverseBits(int64_t num_bytes, uint8_t* bytes) {
  const auto reversed = [](uint64_t word) {  // eight bytes at once
    word = (word >> 1 & 0x5555555555555555) | (word & 0x5555555555555555) << 1;
    word = (word >> 2 & 0x3333333333333333) | (word & 0x3333333333333333) << 2;
    return (word >> 4 & 0x0F0F0F0F0F0F0F0F) | (word & 0x0F0F0F0F0F0F0F0F) << 4;
  };
  int64_t i = 0;
  for (; i + 8 <= num_bytes; i += 8) {
    uint64_t word;
    std::memcpy(&word, bytes + i, sizeof(word));
    word = reversed(word);
    std::memcpy(bytes + i, &word, sizeof(word));
  }
  for (; i < num_bytes; ++i) bytes[i] = static_cast<uint8_t>(reversed(bytes[i]));
}

}  // namespace quantd
#endif  // HWY_ONCE
