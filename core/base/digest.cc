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
#if defined(__x86_64__)
#include <xxh_x86dispatch.h>  // AVX2 and AVX-512 chosen at run time; the package has it for x86 only
#else
#include <xxhash.h>
#endif

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace quantd {
namespace {

constexpr size_t kHashBytes = sizeof(XXH128_canonical_t);

XXH128_canonical_t Canonical(XXH128_hash_t hash) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, hash);
  return canonical;
}

// Goes over `bytes` leaf by leaf; `open` are those of a leaf that has begun. Calls fn(hash) of each
// leaf that becomes whole.
template <typename Fn>
void ForEachLeaf(std::span<const std::byte> bytes, std::vector<std::byte>& open, Fn fn) {
  constexpr size_t kLeafBytes = PlaneDigest::kLeafBytes;
  while (!bytes.empty()) {
    if (open.empty() && bytes.size() >= kLeafBytes) {
      fn(Canonical(XXH3_128bits(bytes.data(), kLeafBytes)));
      bytes = bytes.subspan(kLeafBytes);
      continue;
    }
    const size_t step = std::min(bytes.size(), kLeafBytes - open.size());
    open.insert(open.end(), bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(step));
    bytes = bytes.subspan(step);
    if (open.size() < kLeafBytes) return;
    fn(Canonical(XXH3_128bits(open.data(), kLeafBytes)));
    open.clear();
  }
}

std::string HexOf(const uint8_t* bytes, size_t size) {
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(bytes), size));
}

}  // namespace

struct PlaneDigest::State {
  State() : root(XXH3_createState()) { XXH3_128bits_reset(root); }
  ~State() { XXH3_freeState(root); }

  XXH3_state_t* root;            // over the hashes of the whole leaves
  std::vector<std::byte> open;   // the leaf that is being filled
};

void DigestPart::Begin(int64_t offset_bytes) {
  const size_t in_leaf = static_cast<size_t>(offset_bytes) % PlaneDigest::kLeafBytes;
  head_wanted_ = in_leaf == 0 ? 0 : PlaneDigest::kLeafBytes - in_leaf;
  head_.clear();
  hashes_.clear();
  tail_.clear();
}

void DigestPart::Update(std::span<const std::byte> bytes) {
  const size_t head = std::min(bytes.size(), head_wanted_ - head_.size());
  hashes_.reserve(hashes_.size() + (bytes.size() / PlaneDigest::kLeafBytes + 1) * kHashBytes);
  head_.insert(head_.end(), bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(head));
  ForEachLeaf(bytes.subspan(head), tail_, [this](const XXH128_canonical_t& hash) {
    hashes_.insert(hashes_.end(), hash.digest, hash.digest + kHashBytes);
  });
}

PlaneDigest::PlaneDigest() : state_(std::make_unique<State>()) {}
PlaneDigest::~PlaneDigest() = default;
PlaneDigest::PlaneDigest(PlaneDigest&&) noexcept = default;
PlaneDigest& PlaneDigest::operator=(PlaneDigest&&) noexcept = default;

void PlaneDigest::Update(std::span<const std::byte> bytes) {
  ForEachLeaf(bytes, state_->open, [this](const XXH128_canonical_t& hash) {
    XXH3_128bits_update(state_->root, hash.digest, kHashBytes);
  });
}

void PlaneDigest::Append(const DigestPart& part) {
  Update(part.head_);
  if (!part.hashes_.empty()) {
    XXH3_128bits_update(state_->root, part.hashes_.data(), part.hashes_.size());
  }
  Update(part.tail_);
}

std::string PlaneDigest::Text() const {
  XXH128_hash_t hash = XXH3_128bits_digest(state_->root);
  if (!state_->open.empty()) {
    XXH3_state_t* whole = XXH3_createState();
    XXH3_copyState(whole, state_->root);
    const XXH128_canonical_t last =
        Canonical(XXH3_128bits(state_->open.data(), state_->open.size()));
    XXH3_128bits_update(whole, last.digest, kHashBytes);
    hash = XXH3_128bits_digest(whole);
    XXH3_freeState(whole);
  }
  return absl::StrCat(kForm, HexOf(Canonical(hash).digest, kHashBytes));
}

std::string DigestOf(std::span<const std::byte> plane) {
  PlaneDigest digest;
  digest.Update(plane);
  return digest.Text();
}

std::string Sha256Hex(std::span<const std::byte> bytes) {
  std::array<uint8_t, SHA256_DIGEST_LENGTH> hash;
  SHA256(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(), hash.data());
  return HexOf(hash.data(), hash.size());
}

uint64_t HashName(absl::string_view text) { return XXH3_64bits(text.data(), text.size()); }

}  // namespace quantd
