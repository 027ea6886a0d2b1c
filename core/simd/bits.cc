// Entries: those of bits.h. Tested by tests/core/simd/bits_test.cc.
//
// Bit streams go by 8 codes, which are `width` bytes, in a word: neighbours move together in three
// steps, by pairs, fours and eights. All steps are the same for all words, so nothing waits. CPUs
// with AVX-512 have one fast instruction for the three.
//
//   width 3:  .....ccc .....bbb .....aaa  ->  ..........bbbaaa  ->  ....dddcccbbbaaa  -> ...
#include "core/simd/bits.h"

#include <algorithm>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/simd/bits.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#ifndef QUANTD_CORE_SIMD_BITS_TABLE
#define QUANTD_CORE_SIMD_BITS_TABLE
namespace quantd {

struct BitKernels {
  void (*pack)(const uint8_t*, int64_t, bool, uint8_t*);
  void (*unpack)(const uint8_t*, int64_t, bool, uint8_t*);
  void (*unpack_signed)(const uint8_t*, int64_t, bool, uint8_t*);
  void (*pack_bits)(const uint8_t*, int64_t, int width, uint8_t*);
  void (*unpack_bits)(const uint8_t*, int64_t, int width, uint8_t*);
  void (*unpack_signed_bits)(const uint8_t*, int64_t, int width, uint8_t*);
};

}  // namespace quantd
#endif

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace {

#undef QUANTD_GATHERS_BITS
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86_64
#define QUANTD_GATHERS_BITS 1
#else
#define QUANTD_GATHERS_BITS 0
#endif

void PackNibblesImpl(const uint8_t* HWY_RESTRICT codes, int64_t num_codes, bool first_high,
                     uint8_t* HWY_RESTRICT packed) {
  int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR  // which has no vectors of pairs
  const hn::ScalableTag<uint16_t> d;
  const hn::Rebind<uint8_t, decltype(d)> d8;
  const int64_t pairs_per_vec = static_cast<int64_t>(hn::Lanes(d));
  const auto nibble = hn::Set(d, 0x0F);
  for (; i + 2 * pairs_per_vec <= num_codes; i += 2 * pairs_per_vec) {
    const auto pair = hn::BitCast(d, hn::LoadU(hn::Repartition<uint8_t, decltype(d)>(), codes + i));
    const auto first = hn::And(pair, nibble);
    const auto second = hn::And(hn::ShiftRight<8>(pair), nibble);
    const auto byte = first_high ? hn::Or(hn::ShiftLeft<4>(first), second)
                                 : hn::Or(first, hn::ShiftLeft<4>(second));
    hn::StoreU(hn::TruncateTo(d8, byte), d8, packed + i / 2);
  }
#endif
  for (; i < num_codes; i += 2) {
    const unsigned first = codes[i] & 0x0F, second = i + 1 < num_codes ? codes[i + 1] & 0x0F : 0;
    packed[i / 2] = static_cast<uint8_t>(first_high ? first << 4 | second : first | second << 4);
  }
}

// kSign is 0, or 8, the sign bit of a nibble.
template <uint8_t kSign>
void UnpackNibblesImpl(const uint8_t* HWY_RESTRICT packed, int64_t num_codes, bool first_high,
                       uint8_t* HWY_RESTRICT codes) {
  int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR  // which has no vectors of pairs
  const hn::ScalableTag<uint16_t> d;
  const hn::Rebind<uint8_t, decltype(d)> d8;
  const int64_t pairs_per_vec = static_cast<int64_t>(hn::Lanes(d));
  const auto nibble = hn::Set(d, 0x0F);
  for (; i + 2 * pairs_per_vec <= num_codes; i += 2 * pairs_per_vec) {
    const auto byte = hn::PromoteTo(d, hn::LoadU(d8, packed + i / 2));
    const auto low = hn::And(byte, nibble), high = hn::ShiftRight<4>(byte);
    const auto pair =
        first_high ? hn::Or(high, hn::ShiftLeft<8>(low)) : hn::Or(low, hn::ShiftLeft<8>(high));
    const hn::Repartition<uint8_t, decltype(d)> d_out;
    const auto sign = hn::Set(d_out, kSign);
    hn::StoreU(hn::Sub(hn::Xor(hn::BitCast(d_out, pair), sign), sign), d_out, codes + i);
  }
#endif
  for (; i < num_codes; ++i) {
    const bool high = (i % 2 == 0) == first_high;
    const int nibble = high ? packed[i / 2] >> 4 : packed[i / 2] & 0x0F;
    codes[i] = static_cast<uint8_t>((nibble ^ kSign) - kSign);
  }
}

// How 8 codes of a width move within a word.
struct BitSteps {
  explicit BitSteps(int width)
      : width(width),
        codes(Low(width) * 0x0101010101010101),
        pairs(Low(2 * width) * 0x0001000100010001),
        signs(codes & ~(codes >> 1)),
        above(0xFF & ~Low(width)) {}
  static uint64_t Low(int bits) { return bits >= 64 ? ~uint64_t{0} : (uint64_t{1} << bits) - 1; }

  // Returns 8 codes, a byte each, next to each other.
  HWY_INLINE uint64_t Pack(uint64_t x) const {
#if QUANTD_GATHERS_BITS
    return _pext_u64(x, codes);
#else
    x &= codes;
    x = (x & 0x00FF00FF00FF00FF) | ((x & 0xFF00FF00FF00FF00) >> (8 - width));
    x = (x & 0x0000FFFF0000FFFF) | ((x & 0xFFFF0000FFFF0000) >> (16 - 2 * width));
    return (x & 0x00000000FFFFFFFF) | ((x & 0xFFFFFFFF00000000) >> (32 - 4 * width));
#endif
  }
  // The reverse; upper bits do not count.
  HWY_INLINE uint64_t Unpack(uint64_t x) const {
#if QUANTD_GATHERS_BITS
    return _pdep_u64(x, codes);
#else
    x = (x & Low(4 * width)) | ((x << (32 - 4 * width)) & (Low(4 * width) << 32));
    x = (x & pairs & 0x0000FFFF0000FFFF) | ((x << (16 - 2 * width)) & pairs & 0xFFFF0000FFFF0000);
    return (x & codes & 0x00FF00FF00FF00FF) | ((x << (8 - width)) & codes & 0xFF00FF00FF00FF00);
#endif
  }
  // The reverse, codes in two's complement: a byte with its sign bit set gets those above, too.
  HWY_INLINE uint64_t UnpackSigned(uint64_t x) const {
    x = Unpack(x);
    return x | ((x & signs) >> (width - 1)) * above;
  }

  const int width;
  const uint64_t codes, pairs;  // where their bits are
  const uint64_t signs, above;  // their upper bits; what is above them in a byte
};

void PackBitsImpl(const uint8_t* HWY_RESTRICT codes, int64_t num_codes, int width,
                  uint8_t* HWY_RESTRICT packed) {
  const BitSteps steps(width);
  // A word is stored whole, and what is beyond its codes by the next one, as long as that fits.
  int64_t i = 0;
  for (; i + 64 <= num_codes; i += 8, packed += width) {
    uint64_t word;
    std::memcpy(&word, codes + i, 8);
    word = steps.Pack(word);
    std::memcpy(packed, &word, 8);
  }
  for (; i < num_codes; i += 8, packed += width) {
    const int64_t count = std::min<int64_t>(8, num_codes - i);
    uint64_t word = 0;
    std::memcpy(&word, codes + i, static_cast<size_t>(count));
    word = steps.Pack(word);
    std::memcpy(packed, &word, static_cast<size_t>((count * width + 7) / 8));
  }
}

template <bool kSigned>
void UnpackBitsImpl(const uint8_t* HWY_RESTRICT packed, int64_t num_codes, int width,
                    uint8_t* HWY_RESTRICT codes) {
  const BitSteps steps(width);
  const auto unpack = [&steps](uint64_t word) HWY_ATTR {
    return kSigned ? steps.UnpackSigned(word) : steps.Unpack(word);
  };
  int64_t i = 0;
  for (; i + 64 <= num_codes; i += 8, packed += width) {  // there are 8 bytes and more to read
    uint64_t word;
    std::memcpy(&word, packed, 8);
    word = unpack(word);
    std::memcpy(codes + i, &word, 8);
  }
  for (; i < num_codes; i += 8, packed += width) {
    const int64_t count = std::min<int64_t>(8, num_codes - i);
    uint64_t word = 0;
    std::memcpy(&word, packed, static_cast<size_t>((count * width + 7) / 8));
    word = unpack(word);
    std::memcpy(codes + i, &word, static_cast<size_t>(count));
  }
}

const BitKernels& Kernels() {
  static constexpr BitKernels kKernels = {PackNibblesImpl, UnpackNibblesImpl<0>,
                                          UnpackNibblesImpl<8>, PackBitsImpl,
                                          UnpackBitsImpl<false>, UnpackBitsImpl<true>};
  return kKernels;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd {

HWY_EXPORT(Kernels);

void PackNibbles(const uint8_t* codes, int64_t num_codes, bool first_high, uint8_t* packed) {
  HWY_DYNAMIC_DISPATCH(Kernels)().pack(codes, num_codes, first_high, packed);
}
void UnpackNibbles(const uint8_t* packed, int64_t num_codes, bool first_high, uint8_t* codes) {
  HWY_DYNAMIC_DISPATCH(Kernels)().unpack(packed, num_codes, first_high, codes);
}
void UnpackSignedNibbles(const uint8_t* packed, int64_t num_codes, bool first_high,
                         int8_t* codes) {
  HWY_DYNAMIC_DISPATCH(Kernels)().unpack_signed(packed, num_codes, first_high,
                                                reinterpret_cast<uint8_t*>(codes));
}

void PackBits(const uint8_t* codes, int64_t num_codes, int width, uint8_t* packed) {
  if (width == 4) return PackNibbles(codes, num_codes, /*first_high=*/false, packed);
  if (width == 8) {
    std::copy_n(codes, num_codes, packed);
    return;
  }
  HWY_DYNAMIC_DISPATCH(Kernels)().pack_bits(codes, num_codes, width, packed);
}
void UnpackBits(const uint8_t* packed, int64_t num_codes, int width, uint8_t* codes) {
  if (width == 4) return UnpackNibbles(packed, num_codes, /*first_high=*/false, codes);
  if (width == 8) {
    std::copy_n(packed, num_codes, codes);
    return;
  }
  HWY_DYNAMIC_DISPATCH(Kernels)().unpack_bits(packed, num_codes, width, codes);
}
void UnpackSignedBits(const uint8_t* packed, int64_t num_codes, int width, int8_t* codes) {
  if (width == 4) return UnpackSignedNibbles(packed, num_codes, /*first_high=*/false, codes);
  HWY_DYNAMIC_DISPATCH(Kernels)().unpack_signed_bits(packed, num_codes, width,
                                                     reinterpret_cast<uint8_t*>(codes));
}

}  // namespace quantd
#endif  // HWY_ONCE
