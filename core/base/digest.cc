// The digest of a plane, hashed in parts by whoever makes its bytes and put together in order. A
// plane is cut into leaves of 4 KiB, counted from its first byte; its digest is the hash of the
// hashes of its leaves:
//
//   bytes   |  leaf 0  |  leaf 1  |  leaf 2  |  leaf 3  |     digest = XXH3-128(h0 h1 h2 h3)
//   parts   |     part 0    |        part 1        |part2|     cut anywhere
//   kept    |    h0    |tail|head |    h2    |tail |head |     h: 16 bytes, canonical
//
// A part hashes the leaves that it has all of, and keeps the bytes of those that its ends cut: of
// 10,000 bytes from byte 6,000 on, 2,192 that end leaf 1, the hash of leaf 2, and 3,712 that begin
// leaf 3. PlaneDigest, which has both sides of a cut, hashes the rest: at most a leaf for each cut.
//
// One XXH3 over the plane would hash 0.4 % less, and in order only. Leaves are much shorter than
// the codes of a stripe (64 KiB of int8), so that a job hashes nearly all of them itself.
//
// Source: xxHash, XXH3_128bits and its canonical form, which is big-endian.
//
// Entries: DigestPart::Update and PlaneDigest::Append. Tested by tests/core/base/digest_test.cc.
#include "core/base/digest.h"

#include <openssl/sha.h>
#define XXH_STATIC_LINKING_ONLY  // states on the stack
#if defined(__x86_64__)
// AVX2 and AVX-512 chosen at run time; the package has it for x86 only.
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace quantd {
namespace {

constexpr size_t kLeafBytes = PlaneDigest::kLeafBytes;

// Writes the hash to where it stays: a copy of bytes just written waits for them to be stored.
void HashLeaf(std::span<const std::byte> leaf, LeafHash& hash) {
  static_assert(sizeof(LeafHash) == sizeof(XXH128_canonical_t));
  XXH128_canonicalFromHash(reinterpret_cast<XXH128_canonical_t*>(hash.data()),
                           XXH3_128bits(leaf.data(), leaf.size()));
}

// Goes over `bytes` leaf by leaf; `open` are those of a leaf that has begun. The hashes of leaves
// that become whole go to where fn(their number) says.
template <typename Fn>
void HashWhole(std::span<const std::byte> bytes, std::vector<std::byte>& open, Fn fn) {
  if (!open.empty()) {
    const size_t step = std::min(bytes.size(), kLeafBytes - open.size());
    open.insert(open.end(), bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(step));
    bytes = bytes.subspan(step);
    if (open.size() < kLeafBytes) return;
    HashLeaf(open, *fn(1));
    open.clear();
  }
  if (const size_t leaves = bytes.size() / kLeafBytes; leaves > 0) {
    LeafHash* const hashes = fn(leaves);
    for (size_t i = 0; i < leaves; ++i, bytes = bytes.subspan(kLeafBytes)) {
      HashLeaf(bytes.first(kLeafBytes), hashes[i]);
    }
  }
  open.insert(open.end(), bytes.begin(), bytes.end());
}

}  // namespace

void DigestPart::Begin(int64_t offset_bytes, int64_t size_bytes) {
  const size_t in_leaf = static_cast<size_t>(offset_bytes) % kLeafBytes;
  head_wanted_ = in_leaf == 0 ? 0 : kLeafBytes - in_leaf;
  head_.clear();
  hashes_.clear();
  tail_.clear();
  hashes_.reserve(static_cast<size_t>(size_bytes) / kLeafBytes);
}

void DigestPart::Update(std::span<const std::byte> bytes) {
  const size_t head = std::min(bytes.size(), head_wanted_ - head_.size());
  head_.insert(head_.end(), bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(head));
  HashWhole(bytes.subspan(head), tail_, [this](size_t leaves) {
    hashes_.resize(hashes_.size() + leaves);
    return hashes_.data() + hashes_.size() - leaves;
  });
}

void PlaneDigest::FreeState::operator()(XXH3_state_s* state) const { XXH3_freeState(state); }

void PlaneDigest::AddHashes(std::span<const LeafHash> hashes) {
  if (hashes.empty()) return;
  if (root_ == nullptr) {
    root_.reset(XXH3_createState());
    XXH3_128bits_reset(root_.get());
  }
  XXH3_128bits_update(root_.get(), hashes.data(), hashes.size_bytes());
}

void PlaneDigest::Update(std::span<const std::byte> bytes) {
  constexpr size_t kBatchLeaves = 16;
  while (!bytes.empty()) {
    const auto batch = bytes.first(std::min(bytes.size(), kBatchLeaves * kLeafBytes));
    bytes = bytes.subspan(batch.size());
    LeafHash hashes[kBatchLeaves + 1];  // and one that had begun
    size_t count = 0;
    HashWhole(batch, open_, [&](size_t leaves) {
      count += leaves;
      return hashes + count - leaves;
    });
    AddHashes({hashes, count});
  }
}

void PlaneDigest::Append(const DigestPart& part) {
  Update(part.head_);
  AddHashes(part.hashes_);
  Update(part.tail_);
}

std::string PlaneDigest::Text() const {
  XXH3_state_t whole;
  if (root_ == nullptr) {
    XXH3_128bits_reset(&whole);
  } else {
    XXH3_copyState(&whole, root_.get());
  }
  if (!open_.empty()) {
    LeafHash last;
    HashLeaf(open_, last);
    XXH3_128bits_update(&whole, last.data(), last.size());
  }
  const XXH128_hash_t hash = XXH3_128bits_digest(&whole);
  return absl::StrCat(kForm, absl::Hex(hash.high64, absl::kZeroPad16),
                      absl::Hex(hash.low64, absl::kZeroPad16));
}

std::string DigestOf(std::span<const std::byte> plane) {
  PlaneDigest digest;
  digest.Update(plane);
  return digest.Text();
}

std::string Sha256Hex(std::span<const std::byte> bytes) {
  std::array<uint8_t, SHA256_DIGEST_LENGTH> hash;
  SHA256(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(), hash.data());
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(hash.data()), hash.size()));
}

uint64_t HashName(absl::string_view text) { return XXH3_64bits(text.data(), text.size()); }

}  // namespace quantd
