#ifndef QUANTD_SERVER_NET_TOKENS_H_
#define QUANTD_SERVER_NET_TOKENS_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/base/mutex.h"
#include "server/net/caller.h"

namespace quantd {

// One line of a token file: `name sha256-of-token [streams=N] [in_flight=SIZE]`.
struct TokenEntry {
  Caller caller;
  std::array<uint8_t, 32> sha256;
  std::shared_ptr<std::atomic<bool>> revoked = nullptr;  // what `caller` knows; set by a TokenTable
};

// Returns the entries of a token file; lines that are empty or begin with # have none. A name may
// come several times, so that a token can be replaced without a gap. kInvalidArgument names the
// line and what is wrong, but shows nothing of it: somebody may have written a token there.
absl::StatusOr<std::vector<TokenEntry>> ParseTokens(absl::string_view text);

// The tokens of a file. Thread-safe.
class TokenTable {
 public:
  // Errors: those of ReadSmallFile and ParseTokens, with the path.
  static absl::StatusOr<std::unique_ptr<TokenTable>> Load(const std::string& path);

  // Reads the file again; on an error, as above, the tokens stay as they are. Callers of tokens
  // that are no longer there find theirs revoked.
  absl::Status Reload();

  bool empty() const;

  // Returns whose token it is, or nothing. Takes the same time whichever it is.
  std::optional<Caller> Find(absl::string_view token) const;

 private:
  explicit TokenTable(std::string path) : path_(std::move(path)) {}
  const std::string path_;
  mutable Mutex mutex_;
  std::vector<TokenEntry> entries_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace quantd

#endif  // QUANTD_SERVER_NET_TOKENS_H_
