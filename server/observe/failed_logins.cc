#include "server/observe/failed_logins.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace quantd {

absl::string_view FailedLogins::NameOf(Kind kind) {
  switch (kind) {
    case Kind::kToken:
      return "token";
    case Kind::kCertificate:
      return "certificate";
    case Kind::kTls:
      return "tls";
    case Kind::kUid:
      return "uid";
  }
  return "";
}

void FailedLogins::Add(Kind kind, absl::string_view peer, absl::string_view reason) {
  MutexLock lock(&mutex_);
  Tally& tally = tallies_[static_cast<size_t>(kind)];
  ++tally.count;
  tally.log.Add(
      absl::StrCat(peer, ": ", reason), absl::Now(),
      [&](const std::string& last, int64_t events) { Write(kind, last, events); });
}

void FailedLogins::LogRest() {
  MutexLock lock(&mutex_);
  for (const Kind kind : kKinds) {
    tallies_[static_cast<size_t>(kind)].log.Rest(
        absl::Now(), [&](const std::string& last, int64_t events) { Write(kind, last, events); });
  }
}

int64_t FailedLogins::count(Kind kind) const {
  MutexLock lock(&mutex_);
  return tallies_[static_cast<size_t>(kind)].count;
}

void FailedLogins::Write(Kind kind, const std::string& last, int64_t events) const {
  if (logger_ == nullptr) return;
  logger_->warn("failed login by {}, from {}{}", NameOf(kind).data(),
                absl::Utf8SafeCHexEscape(last),
                events == 1 ? "" : absl::StrCat("; ", events - 1, " more since the last line"));
}

}  // namespace quantd
