#include "core/base/leaf_hashes.h"

#if defined(__x86_64__)
#include <xxh_x86dispatch.h>  // AVX2 and AVX-512 chosen at run time; the package has it for x86 only
#else
#include <xxhash.h>
#endif

// XXH3-128 of several leaves at once. A leaf is short, and each of its steps waits for the one
// before and loads a key that crosses cache lines; four leaves side by side share the keys, which
// lie aligned, and wait for nothing (43 GB/s become 60 with AVX-512). Where vectors have less than
// four lanes, the library does as well.
//
//   lane i of 8, every 64 bytes p:  acc[i] += lo32(p[i] ^ key[i]) * hi32(p[i] ^ key[i]) + p[i ^ 1]
//   after 16 of them, a block:      acc[i] = (acc[i] ^ acc[i] >> 47 ^ key[i]) * kPrime32_1
//
// Source: xxHash 0.8.1, xxhash.h, XXH3_hashLong_128b_internal, with its default secret.
// The entry is HashLeaves. Tested by tests/core/base/leaf_hashes_test.cc.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/base/leaf_hashes.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#ifndef QUANTD_CORE_BASE_LEAF_HASHES_CONSTANTS
#define QUANTD_CORE_BASE_LEAF_HASHES_CONSTANTS
namespace quantd {

constexpr size_t kSideBySide = 4;
constexpr size_t kLanes = 8, kBlockStripes = 16, kStripeBytes = 64;
constexpr uint64_t kPrime32_1 = 0x9E3779B1u;
constexpr uint64_t kPrime64_1 = 0x9E3779B185EBCA87u, kPrime64_2 = 0xC2B2AE3D27D4EB4Fu;
alignas(64) constexpr uint64_t kFirstAcc[kLanes] = {
    0xC2B2AE3Du,         kPrime64_1,  kPrime64_2,          0x165667B19E3779F9u,
    0x85EBCA77C2B2AE63u, 0x85EBCA77u, 0x27D4EB2F165667C5u, kPrime32_1};

constexpr uint8_t kSecret[192] = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
    0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
    0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
    0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
    0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
    0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
};
constexpr uint64_t SecretAt(size_t offset) {  // little-endian, as are all machines we build for
  uint64_t word = 0;
  for (size_t i = 0; i < 8; ++i) word |= uint64_t{kSecret[offset + i]} << (8 * i);
  return word;
}

// Keys of a block's stripes, of scrambling, which begins where those end, and of the last stripe.
struct Keys {
  alignas(64) uint64_t words[kBlockStripes + 2][kLanes] = {};
  constexpr Keys() {
    for (size_t i = 0; i < kLanes; ++i) {
      for (size_t s = 0; s <= kBlockStripes; ++s) words[s][i] = SecretAt(8 * (s + i));
      words[kBlockStripes + 1][i] = SecretAt(sizeof(kSecret) - kStripeBytes - 7 + 8 * i);
    }
  }
};
inline constexpr Keys kKeys;

}  // namespace quantd
#endif

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace {
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET <= HWY_AVX3
#define QUANTD_HASHES_SIDE_BY_SIDE 1
#else
#define QUANTD_HASHES_SIDE_BY_SIDE 0
#endif

#if QUANTD_HASHES_SIDE_BY_SIDE
namespace hn = hwy::HWY_NAMESPACE;

// Accumulates kSideBySide leaves; acc[leaf] has the lanes of each.
template <size_t kPart = 0>
void Accumulate(const std::byte* leaves, uint64_t (*acc)[kLanes]) {
  const hn::CappedTag<uint64_t, kLanes> d;
  const hn::Repartition<uint32_t, decltype(d)> d32;
  using V = hn::Vec<decltype(d)>;
  constexpr size_t kWidth = hn::MaxLanes(d);
  V a0 = hn::Load(d, kFirstAcc + kPart), a1 = a0, a2 = a0, a3 = a0;
  const auto stripe = [&](size_t offset, const uint64_t* keys) HWY_ATTR {
    const V key = hn::Load(d, keys + kPart);
    const auto add = [&](size_t leaf, V& a) HWY_ATTR {
      const auto* at = reinterpret_cast<const uint8_t*>(leaves) + leaf * kLeafBytes + offset;
      const hn::Repartition<uint8_t, decltype(d)> d8;
      const V data = hn::BitCast(d, hn::LoadU(d8, at + kPart * sizeof(uint64_t)));
      const auto keyed = hn::BitCast(d32, hn::Xor(data, key));
      const V product = hn::MulEven(keyed, hn::Shuffle2301(keyed));
      const V swapped = hn::BitCast(d, hn::Shuffle1032(hn::BitCast(d32, data)));
      a = hn::Add(a, hn::Add(product, swapped));
    };
    add(0, a0), add(1, a1), add(2, a2), add(3, a3);
  };
  const auto scramble = [&](V& a) HWY_ATTR {
    const V mixed = hn::Xor(hn::Xor(a, hn::ShiftRight<47>(a)),
                            hn::Load(d, kKeys.words[kBlockStripes] + kPart));
    const auto prime = hn::Set(d32, static_cast<uint32_t>(kPrime32_1));
    const V low = hn::MulEven(hn::BitCast(d32, mixed), prime);
    const V high = hn::MulEven(hn::BitCast(d32, hn::ShiftRight<32>(mixed)), prime);
    a = hn::Add(low, hn::ShiftLeft<32>(high));
  };
  // The last stripe of a leaf has a key of its own, and no scrambling behind it.
  constexpr size_t kStripes = kLeafBytes / kStripeBytes;
  size_t offset = 0;
  for (size_t block = 0; block < kStripes / kBlockStripes; ++block) {
    const bool last = block + 1 == kStripes / kBlockStripes;
    const size_t stripes = last ? kBlockStripes - 1 : kBlockStripes;
    for (size_t s = 0; s < stripes; ++s, offset += kStripeBytes) stripe(offset, kKeys.words[s]);
    if (last) break;
    scramble(a0), scramble(a1), scramble(a2), scramble(a3);
  }
  stripe(offset, kKeys.words[kBlockStripes + 1]);
  hn::Store(a0, d, acc[0] + kPart), hn::Store(a1, d, acc[1] + kPart);
  hn::Store(a2, d, acc[2] + kPart), hn::Store(a3, d, acc[3] + kPart);
  if constexpr (kPart + kWidth < kLanes) Accumulate<kPart + kWidth>(leaves, acc);
}
#endif

// Of kSideBySide leaves; false: the library does as well.
bool AccumulateLeaves(const std::byte* leaves, uint64_t (*acc)[kLanes]) {
#if QUANTD_HASHES_SIDE_BY_SIDE
  Accumulate(leaves, acc);
  return true;
#else
  (void)leaves, (void)acc;
  return false;
#endif
}
#undef QUANTD_HASHES_SIDE_BY_SIDE

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd {
namespace {

HWY_EXPORT(AccumulateLeaves);

uint64_t MergeLanes(const uint64_t* acc, size_t secret_offset, uint64_t start) {
  uint64_t sum = start;
  for (size_t i = 0; i < kLanes; i += 2) {
    const auto product =
        static_cast<unsigned __int128>(acc[i] ^ SecretAt(secret_offset + 8 * i)) *
        (acc[i + 1] ^ SecretAt(secret_offset + 8 * i + 8));
    sum += static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  }
  sum ^= sum >> 37;
  sum *= 0x165667919E3779F9u;
  return sum ^ sum >> 32;
}

LeafHash Canonical(XXH128_hash_t hash) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, hash);
  return std::to_array(canonical.digest);
}

}  // namespace

void HashLeaves(const std::byte* leaves, size_t num_leaves, LeafHash* hashes) {
  alignas(64) uint64_t acc[kSideBySide][kLanes];
  while (num_leaves >= kSideBySide && HWY_DYNAMIC_DISPATCH(AccumulateLeaves)(leaves, acc)) {
    for (size_t i = 0; i < kSideBySide; ++i) {
      hashes[i] = Canonical(
          {MergeLanes(acc[i], 11, kLeafBytes * kPrime64_1),
           MergeLanes(acc[i], sizeof(kSecret) - sizeof(acc[i]) - 11, ~(kLeafBytes * kPrime64_2))});
    }
    leaves += kSideBySide * kLeafBytes;
    hashes += kSideBySide;
    num_leaves -= kSideBySide;
  }
  for (size_t i = 0; i < num_leaves; ++i) {
    hashes[i] = Canonical(XXH3_128bits(leaves + i * kLeafBytes, kLeafBytes));
  }
}

}  // namespace quantd
#endif  // HWY_ONCE
