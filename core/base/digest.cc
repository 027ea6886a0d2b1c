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

void AppendCanonical(XXH128_hash_t hash, std::vector<uint8_t>& out) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, hash);
  out.insert(out.end(), std::begin(canonical.digest), std::end(canonical.digest));
}

std::string HexOf(const uint8_t* bytes, size_t size) {
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(bytes), size));
}

}  // namespace

struct PlaneDigest::State {
  State() : leaf(XXH3_createState()) { XXH3_128bits_reset(leaf); }
  ~State() { XXH3_freeState(leaf); }

  XXH3_state_t* leaf;           // the leaf that is being filled
  size_t leaf_bytes = 0;        // bytes in it, less than kLeafBytes
  std::vector<uint8_t> hashes;  // canonical hashes of the full leaves
};

PlaneDigest::PlaneDigest() : state_(std::make_unique<State>()) {}
PlaneDigest::~PlaneDigest() = default;
PlaneDigest::PlaneDigest(PlaneDigest&&) noexcept = default;
PlaneDigest& PlaneDigest::operator=(PlaneDigest&&) noexcept = default;

void PlaneDigest::Update(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const size_t step = std::min(bytes.size(), kLeafBytes - state_->leaf_bytes);
    if (step == kLeafBytes) {  // a whole leaf at once needs no streaming state
      AppendCanonical(XXH3_128bits(bytes.data(), step), state_->hashes);
    } else {
      XXH3_128bits_update(state_->leaf, bytes.data(), step);
      state_->leaf_bytes += step;
      if (state_->leaf_bytes == kLeafBytes) {
        AppendCanonical(XXH3_128bits_digest(state_->leaf), state_->hashes);
        XXH3_128bits_reset(state_->leaf);
        state_->leaf_bytes = 0;
      }
    }
    bytes = bytes.subspan(step);
  }
}

void PlaneDigest::Append(PlaneDigest next) {
  std::vector<uint8_t> hashes = std::move(state_->hashes);
  hashes.insert(hashes.end(), next.state_->hashes.begin(), next.state_->hashes.end());
  state_ = std::move(next.state_);
  state_->hashes = std::move(hashes);
}

std::string PlaneDigest::Text() const {
  std::vector<uint8_t> hashes = state_->hashes;
  if (state_->leaf_bytes > 0) AppendCanonical(XXH3_128bits_digest(state_->leaf), hashes);
  XXH128_canonical_t root;
  XXH128_canonicalFromHash(&root, XXH3_128bits(hashes.data(), hashes.size()));
  return absl::StrCat("xxh3:", HexOf(root.digest, sizeof(root.digest)));
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
