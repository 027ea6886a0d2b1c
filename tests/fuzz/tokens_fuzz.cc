// Token files. Input: the file.
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/net/tokens.h"
#include "tests/fuzz/fuzz_input.h"

namespace quantd::fuzz {
namespace {

// The line that stands for `entry`, in other words than the file may have.
std::string LineOf(const TokenEntry& entry) {
  const Caller& caller = entry.caller;
  Require(absl::StartsWith(caller.name, "token:"), "a caller of another kind");
  const absl::string_view hash(reinterpret_cast<const char*>(entry.sha256.data()),
                               entry.sha256.size());
  std::string line = absl::StrCat("\t", caller.name.substr(6), "  ",
                                  absl::AsciiStrToUpper(absl::BytesToHexString(hash)));
  Require(caller.max_streams >= 0 && caller.max_in_flight_bytes >= 0, "a limit below 0");
  if (caller.max_streams > 0) absl::StrAppend(&line, " streams=", caller.max_streams);
  if (caller.max_in_flight_bytes > 0) {
    absl::StrAppend(&line, " in_flight=", caller.max_in_flight_bytes);
  }
  return absl::StrCat(line, "\r\n# comment\n");
}

// The message may tell where and what is wrong, but nothing of the file.
void RequireDiscreet(const absl::Status& status, absl::string_view text) {
  Require(absl::IsInvalidArgument(status), "ParseTokens fails with another code");
  for (const char c : status.message()) {
    Require(absl::ascii_isprint(static_cast<unsigned char>(c)), "a message with other characters");
  }
  // A token is long; what it and the message may have in common are words of the message.
  constexpr size_t kTokenBytes = 24;
  for (size_t i = 0; i + kTokenBytes <= text.size(); ++i) {
    const absl::string_view part = text.substr(i, kTokenBytes);
    Require(absl::StrContains(part, ' ') || !absl::StrContains(status.message(), part),
            "the message shows what the file has");
  }
}

void Run(absl::string_view text) {
  const absl::StatusOr<std::vector<TokenEntry>> entries = ParseTokens(text);
  if (!entries.ok()) {
    RequireDiscreet(entries.status(), text);
    return;
  }
  std::string lines;
  for (const TokenEntry& entry : *entries) absl::StrAppend(&lines, LineOf(entry));
  const absl::StatusOr<std::vector<TokenEntry>> again = ParseTokens(lines);
  Require(again.ok() && again->size() == entries->size(), "entries that were read cannot be read");
  for (size_t i = 0; i < entries->size(); ++i) {
    const TokenEntry &a = (*entries)[i], &b = (*again)[i];
    Require(a.sha256 == b.sha256 && a.caller.name == b.caller.name &&
                a.caller.max_streams == b.caller.max_streams &&
                a.caller.max_in_flight_bytes == b.caller.max_in_flight_bytes,
            "an entry reads back as another one");
  }
}

}  // namespace
}  // namespace quantd::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size_bytes) {
  quantd::fuzz::Run(quantd::fuzz::FuzzInput(data, size_bytes).RestText());
  return 0;
}
