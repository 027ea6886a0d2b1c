#include "server/admit/caller_accounts.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_detail.h"

namespace quantd {
namespace {

// When a caller at its limit may find a stream ended.
constexpr absl::Duration kRetryAfter = absl::Seconds(1);

}  // namespace

std::shared_ptr<CallerAccount> CallerAccounts::Of(const Caller& caller) {
  MutexLock lock(&mutex_);
  std::weak_ptr<CallerAccount>& known = accounts_[caller.name];
  std::shared_ptr<CallerAccount> account = known.lock();
  if (account == nullptr) {
    const int64_t max_bytes =
        caller.max_in_flight_bytes != 0 ? caller.max_in_flight_bytes : limits_.max_memory_bytes;
    account = std::make_shared<CallerAccount>(std::min(max_bytes, budget_.limit_bytes()), budget_);
    std::erase_if(accounts_, [](const auto& entry) { return entry.second.expired(); });
    accounts_[caller.name] = account;
  }
  return account;
}

absl::StatusOr<CallerAccounts::Stream> CallerAccounts::OpenStream(const Caller& caller) {
  std::shared_ptr<CallerAccount> account = Of(caller);
  const int64_t max_streams = caller.max_streams != 0 ? caller.max_streams : limits_.max_streams;
  {
    MutexLock lock(&mutex_);
    if (account->streams_ < max_streams) {
      ++account->streams_;
      return Stream(this, std::move(account));
    }
  }
  return WithRetryAfter(
      WithLimit(absl::ResourceExhaustedError(absl::StrCat(
                    "the caller has ", max_streams, " streams, which is as many as it may have (",
                    caller.max_streams != 0 ? "streams= of its token" : "--caller-streams", ")")),
                "caller_streams", max_streams),
      kRetryAfter);
}

CallerAccounts::Stream CallerAccounts::OpenUnary(const Caller& caller) {
  return Stream(nullptr, Of(caller));
}

void CallerAccounts::CloseStream(CallerAccount& account) {
  MutexLock lock(&mutex_);
  --account.streams_;
}

}  // namespace quantd
