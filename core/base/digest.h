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

namespace quantd {

// The digest of one plane: XXH3-128 over the concatenated XXH3-128 hashes (canonical, big-endian)
// of the plane's 1 MiB leaves, so that leaves can be hashed in parallel. An empty plane has no
// leaf. Text form: "xxh3:" and 32 hex digits.
//
// Feeds on the plane's bytes in order, in any pieces. Not thread-safe.
class PlaneDigest {
 public:
  static constexpr size_t kLeafBytes = size_t{1} << 20;

  PlaneDigest();
  ~PlaneDigest();
  PlaneDigest(PlaneDigest&&) noexcept;
  PlaneDigest& operator=(PlaneDigest&&) noexcept;

  // Appends `bytes` to the plane.
  void Update(std::span<const std::byte> bytes);

  // Appends what `next` was fed with. The plane so far is a whole number of leaves.
  void Append(PlaneDigest next);

  // Returns the digest of all bytes so far; more may follow.
  std::string Text() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Returns the digest text of one plane that is in memory as a whole.
std::string DigestOf(std::span<const std::byte> plane);

// Returns the lower-case hex SHA-256 of `bytes`.
std::string Sha256Hex(std::span<const std::byte> bytes);

// Returns XXH3-64 of `text`: the hash of a tensor's name that keys stochastic rounding.
uint64_t HashName(absl::string_view text);

}  // namespace quantd

#endif  // QUANTD_CORE_BASE_DIGEST_H_
