#ifndef QUANTD_CORE_BASE_DIGEST_H_
#define QUANTD_CORE_BASE_DIGEST_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

struct XXH3_state_s;

namespace quantd {

// XXH3-128 in canonical form: big-endian, high half first.
using LeafHash = std::array<uint8_t, 16>;

// What a contiguous part of a plane adds to its digest, made apart from the others: the hashes of
// the leaves that lie in the part, and the bytes at its two ends that share a leaf with its
// neighbours. Feeds on the part's bytes in order, in any pieces. May be used again. Not
// thread-safe.
class DigestPart {
 public:
  // Begins the part at byte `offset_bytes` of the plane; it will have about `size_bytes`.
  void Begin(int64_t offset_bytes, int64_t size_bytes = 0);
  void Update(std::span<const std::byte> bytes);

 private:
  friend class PlaneDigest;
  size_t head_wanted_ = 0;        // bytes before the first leaf's beginning
  std::vector<std::byte> head_;   // of those
  std::vector<LeafHash> hashes_;  // of whole leaves
  std::vector<std::byte> tail_;   // of a leaf that is not whole
};

// The digest of one plane: XXH3-128 over the concatenated XXH3-128 hashes (canonical, big-endian)
// of the plane's 4 KiB leaves, so that parts can be hashed in parallel. An empty plane has no leaf.
// Text form: "xxh3_4k:" and 32 hex digits. (Files may name the former form, "xxh3:", of 1 MiB
// leaves.)
//
// Feeds on the plane's bytes in order, in any pieces or parts. Not thread-safe.
class PlaneDigest {
 public:
  static constexpr size_t kLeafBytes = 4096;
  static constexpr absl::string_view kForm = "xxh3_4k:";
  static constexpr absl::string_view kFormerForm = "xxh3:";

  // Appends `bytes` to the plane.
  void Update(std::span<const std::byte> bytes);

  // Appends a part, which begins where the plane so far ends.
  void Append(const DigestPart& part);

  // Returns the digest of all bytes so far; more may follow.
  std::string Text() const;

 private:
  struct FreeState {
    void operator()(XXH3_state_s* state) const;
  };
  void AddHashes(std::span<const LeafHash> hashes);

  // Over the hashes of whole leaves; null: none yet.
  std::unique_ptr<XXH3_state_s, FreeState> root_;
  std::vector<std::byte> open_;                    // the leaf that is being filled
};

// Returns the digest text of one plane that is in memory as a whole.
std::string DigestOf(std::span<const std::byte> plane);

// Returns the lower-case hex SHA-256 of `bytes`.
std::string Sha256Hex(std::span<const std::byte> bytes);

// Returns XXH3-64 of `text`: the hash of a tensor's name that keys stochastic rounding.
uint64_t HashName(absl::string_view text);

}  // namespace quantd

#endif  // QUANTD_CORE_BASE_DIGEST_H_
