// Tested by tests/client/cancellation_test.cc.
#include "client/cancellation.h"

#include <utility>

#include "absl/time/clock.h"

namespace quantd {

// Actions run under the lock, so that none runs after the end of its scope.
void Cancellation::Cancel() {
  MutexLock lock(&mutex_);
  if (std::exchange(cancelled_, true)) return;
  for (const auto& [id, action] : actions_) action();
}

bool Cancellation::cancelled() const {
  MutexLock lock(&mutex_);
  return cancelled_;
}

bool Cancellation::Await(absl::Duration timeout) const {
  const auto is_cancelled = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return cancelled_; };
  mutex_.Lock();
  mutex_.AwaitWithDeadline(absl::Condition(&is_cancelled), absl::Now() + timeout);
  const bool result = cancelled_;
  mutex_.Unlock();
  return result;
}

Cancellation::Scope::Scope(Cancellation* cancellation, std::function<void()> action)
    : cancellation_(cancellation) {
  if (cancellation_ == nullptr) return;
  MutexLock lock(&cancellation_->mutex_);
  if (cancellation_->cancelled_) action();
  id_ = cancellation_->next_id_++;
  cancellation_->actions_.emplace(id_, std::move(action));
}

Cancellation::Scope::~Scope() {
  if (cancellation_ == nullptr) return;
  MutexLock lock(&cancellation_->mutex_);
  cancellation_->actions_.erase(id_);
}

}  // namespace quantd
