#include "server/observe/failed_logins.h"

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace quantd {
namespace {

constexpr absl::Duration kLogEvery = absl::Seconds(1);

}  // namespace

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
  ++tally.unlogged;
  tally.last = absl::StrCat(peer, ": ", reason);
  MaybeLog(kind, tally);
}

void FailedLogins::LogRest() {
  MutexLock lock(&mutex_);
  for (const Kind kind : kKinds) MaybeLog(kind, tallies_[static_cast<size_t>(kind)]);
}

int64_t FailedLogins::count(Kind kind) const {
  MutexLock lock(&mutex_);
  return tallies_[static_cast<size_t>(kind)].count;
}

void FailedLogins::MaybeLog(Kind kind, Tally& tally) {
  const absl::Time now = absl::Now();
  if (tally.unlogged == 0 || now - tally.logged_at < kLogEvery) return;
  if (logger_ != nullptr) {
    const int64_t others = tally.unlogged - 1;
    logger_->warn("failed login by {}, from {}{}", NameOf(kind).data(),
                  absl::Utf8SafeCHexEscape(tally.last),
                  others == 0 ? "" : absl::StrCat("; ", others, " more since the last line"));
  }
  tally.logged_at = now;
  tally.unlogged = 0;
}

}  // namespace quantd
