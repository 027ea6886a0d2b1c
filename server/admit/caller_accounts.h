#ifndef QUANTD_SERVER_ADMIT_CALLER_ACCOUNTS_H_
#define QUANTD_SERVER_ADMIT_CALLER_ACCOUNTS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "core/base/mutex.h"
#include "core/exec/memory_budget.h"
#include "server/net/caller.h"

namespace quantd {

// What one caller holds: a share of the server's memory. Lives while its calls do. Thread-safe.
class CallerAccount {
 public:
  CallerAccount(int64_t limit_bytes, MemoryBudget& budget) : memory_(limit_bytes, &budget) {}
  MemoryBudget& memory() { return memory_; }
  // Returns the memory of an account, which keeps it alive.
  static std::shared_ptr<MemoryBudget> MemoryOf(const std::shared_ptr<CallerAccount>& account) {
    return {account, &account->memory_};
  }

 private:
  friend class CallerAccounts;
  MemoryBudget memory_;
  int64_t streams_ = 0;  // guarded by the accounts
};

// The accounts of all callers that have calls. Outlives them. Thread-safe.
class CallerAccounts {
 public:
  // What a caller may have whose token says nothing else.
  struct Limits {
    int64_t max_streams = 0;
    int64_t max_memory_bytes = 0;
  };
  // One stream of a caller, which counts until it is destroyed. Movable.
  class Stream;

  CallerAccounts(MemoryBudget& budget, const Limits& limits) : budget_(budget), limits_(limits) {}

  std::shared_ptr<CallerAccount> Of(const Caller& caller);
  // kResourceExhausted: the caller has as many streams as it may have.
  absl::StatusOr<Stream> OpenStream(const Caller& caller);
  // Returns what stands for a unary call, and does not count.
  Stream OpenUnary(const Caller& caller);

 private:
  void CloseStream(CallerAccount& account);

  MemoryBudget& budget_;
  const Limits limits_;
  Mutex mutex_;
  std::map<std::string, std::weak_ptr<CallerAccount>> accounts_ ABSL_GUARDED_BY(mutex_);
};

class CallerAccounts::Stream {
 public:
  Stream(Stream&&) = default;
  Stream& operator=(Stream&&) = delete;
  ~Stream() {
    if (account_ != nullptr && accounts_ != nullptr) accounts_->CloseStream(*account_);
  }
  std::shared_ptr<MemoryBudget> memory() const { return CallerAccount::MemoryOf(account_); }

 private:
  friend class CallerAccounts;
  Stream(CallerAccounts* accounts, std::shared_ptr<CallerAccount> account)
      : accounts_(accounts), account_(std::move(account)) {}

  CallerAccounts* accounts_;  // null: it does not count
  std::shared_ptr<CallerAccount> account_;
};

}  // namespace quantd

#endif  // QUANTD_SERVER_ADMIT_CALLER_ACCOUNTS_H_
