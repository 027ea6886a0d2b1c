// The file of tokens: lines of NAME SHA256 [streams=N] [in_flight=SIZE]. It has hashes, so that who
// reads it cannot call; no message shows anything of a line. A token that comes is hashed and
// compared with all entries in constant time. When the file is read again, an entry of a token that
// was there keeps its `revoked`, which running calls look at, and that of one that is gone is set.
//
// Entries: ParseTokens, TokenTable::Reload, Find. Tested by tests/server/net/tokens_test.cc,
// tests/e2e/test_tokens.py and tokens_fuzz.
#include "server/net/tokens.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>
#include <limits>
#include <map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "core/base/status_macros.h"
#include "core/io/small_file.h"

namespace quantd {
namespace {

// Every entry is compared with each token that comes.
constexpr size_t kMaxEntries = 10'000;
constexpr size_t kMaxNameBytes = 64;

bool IsName(absl::string_view text) {
  return !text.empty() && text.size() <= kMaxNameBytes &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-' ||
                  c == '.' || c == '@';
         });
}

bool ParseHash(absl::string_view text, std::array<uint8_t, 32>& hash) {
  if (text.size() != 2 * hash.size() || !std::all_of(text.begin(), text.end(), [](char c) {
        return absl::ascii_isxdigit(static_cast<unsigned char>(c));
      })) {
    return false;
  }
  const std::string bytes = absl::HexStringToBytes(text);
  std::copy(bytes.begin(), bytes.end(), hash.begin());
  return true;
}

// Reads a count or a size such as 64MiB: at least 1.
bool ParseAmount(absl::string_view text, bool is_size, int64_t& amount) {
  int64_t unit = 1;
  if (is_size) {
    for (const auto& [suffix, bytes] :
         {std::pair("KiB", int64_t{1} << 10), std::pair("MiB", int64_t{1} << 20),
          std::pair("GiB", int64_t{1} << 30)}) {
      if (absl::ConsumeSuffix(&text, suffix)) unit = bytes;
    }
  }
  // SimpleAtoi would take signs and spaces too.
  if (text.empty() || !absl::ascii_isdigit(static_cast<unsigned char>(text[0])) ||
      !absl::SimpleAtoi(text, &amount) || amount < 1 ||
      amount > std::numeric_limits<int64_t>::max() / unit) {
    return false;
  }
  amount *= unit;
  return true;
}

absl::Status ParseLimit(absl::string_view text, Caller& caller) {
  if (absl::ConsumePrefix(&text, "streams=")) {
    if (ParseAmount(text, /*is_size=*/false, caller.max_streams)) return absl::OkStatus();
    return absl::InvalidArgumentError("streams= needs a whole number from 1");
  }
  if (absl::ConsumePrefix(&text, "in_flight=")) {
    if (ParseAmount(text, /*is_size=*/true, caller.max_in_flight_bytes)) return absl::OkStatus();
    return absl::InvalidArgumentError("in_flight= needs bytes, or KiB, MiB or GiB, from 1");
  }
  return absl::InvalidArgumentError("a limit is neither streams=N nor in_flight=SIZE");
}

absl::StatusOr<TokenEntry> ParseLine(absl::string_view line) {
  TokenEntry entry;
  const std::vector<absl::string_view> words =
      absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
  if (!IsName(words[0])) {
    return absl::InvalidArgumentError(
        absl::StrCat("the name needs 1 to ", kMaxNameBytes, " letters, digits or _ - . @"));
  }
  if (words.size() < 2 || !ParseHash(words[1], entry.sha256)) {
    return absl::InvalidArgumentError(
        "after the name comes the SHA-256 of the token in 64 hexadecimal digits");
  }
  entry.caller.name = absl::StrCat("token:", words[0]);
  for (size_t i = 2; i < words.size(); ++i) {
    QUANTD_RETURN_IF_ERROR(ParseLimit(words[i], entry.caller));
  }
  return entry;
}

}  // namespace

absl::StatusOr<std::vector<TokenEntry>> ParseTokens(absl::string_view text) {
  std::vector<TokenEntry> entries;
  int number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line[0] == '#') continue;
    const absl::StatusOr<TokenEntry> entry = ParseLine(line);
    if (!entry.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("line ", number, ": ", entry.status().message()));
    }
    if (entries.size() == kMaxEntries) {
      return absl::InvalidArgumentError(
          absl::StrCat("line ", number, ": more than ", kMaxEntries, " tokens"));
    }
    entries.push_back(*entry);
  }
  std::vector<std::array<uint8_t, 32>> hashes;
  for (const TokenEntry& entry : entries) hashes.push_back(entry.sha256);
  std::sort(hashes.begin(), hashes.end());
  if (std::adjacent_find(hashes.begin(), hashes.end()) != hashes.end()) {
    return absl::InvalidArgumentError("one token stands on two lines");
  }
  return entries;
}

absl::StatusOr<std::unique_ptr<TokenTable>> TokenTable::Load(const std::string& path) {
  std::unique_ptr<TokenTable> table(new TokenTable(path));
  QUANTD_RETURN_IF_ERROR(table->Reload());
  return table;
}

absl::Status TokenTable::Reload() {
  QUANTD_ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path_));
  absl::StatusOr<std::vector<TokenEntry>> entries = ParseTokens(text);
  if (!entries.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": ", entries.status().message()));
  }
  MutexLock lock(&mutex_);
  std::map<std::array<uint8_t, 32>, std::shared_ptr<std::atomic<bool>>> old;
  for (TokenEntry& entry : entries_) old[entry.sha256] = std::move(entry.revoked);
  for (TokenEntry& entry : *entries) {
    const auto found = old.find(entry.sha256);
    entry.revoked = found == old.end() ? std::make_shared<std::atomic<bool>>(false) : found->second;
    entry.caller.revoked = entry.revoked;
    if (found != old.end()) old.erase(found);
  }
  for (const auto& [hash, revoked] : old) revoked->store(true);
  entries_ = *std::move(entries);
  return absl::OkStatus();
}

bool TokenTable::empty() const {
  MutexLock lock(&mutex_);
  return entries_.empty();
}

std::optional<Caller> TokenTable::Find(absl::string_view token) const {
  std::array<uint8_t, 32> hash;
  SHA256(reinterpret_cast<const unsigned char*>(token.data()), token.size(), hash.data());
  std::optional<Caller> found;
  ReaderMutexLock lock(&mutex_);
  for (const TokenEntry& entry : entries_) {
    if (CRYPTO_memcmp(entry.sha256.data(), hash.data(), hash.size()) == 0) found = entry.caller;
  }
  return found;
}

}  // namespace quantd
