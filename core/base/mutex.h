#ifndef QUANTD_CORE_BASE_MUTEX_H_
#define QUANTD_CORE_BASE_MUTEX_H_

#include "absl/synchronization/mutex.h"

#if defined(__SANITIZE_THREAD__)
#include <algorithm>
#include <condition_variable>
#include <mutex>

#include "absl/base/thread_annotations.h"
#include "absl/time/clock.h"
#endif

namespace quantd {

// Leaves out the search for deadlocks that packaged Abseil is built with, for which each lock of the
// process, gRPC's too, takes one that all share. Builds for development keep it. To be called at the
// beginning of main.
inline void SkipDeadlockSearch() {
#ifdef NDEBUG
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
#endif
}

// Mutex, MutexLock and ReaderMutexLock are Abseil's, and our code uses them by these names:
// packaged Abseil is not instrumented, so that ThreadSanitizer would take everything behind an
// absl::Mutex for a race. Its builds get the same interface over std::mutex, which it understands.
#if !defined(__SANITIZE_THREAD__)

using Mutex = absl::Mutex;
using MutexLock = absl::MutexLock;
using ReaderMutexLock = absl::ReaderMutexLock;

#else

class ABSL_LOCKABLE Mutex {
 public:
  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { mutex_.lock(); }
  void Unlock() ABSL_UNLOCK_FUNCTION() {
    // Before unlocking: whoever waits may destroy the mutex as soon as it is free.
    if (waiters_ > 0) changed_.notify_all();
    mutex_.unlock();
  }
  void Await(const absl::Condition& condition) {
    if (condition.Eval()) return;
    std::unique_lock<std::mutex> lock(mutex_, std::adopt_lock);
    if (waiters_ > 0) changed_.notify_all();  // waiting unlocks too
    ++waiters_;
    changed_.wait(lock, [&condition] { return condition.Eval(); });
    --waiters_;
    lock.release();
  }
  bool AwaitWithDeadline(const absl::Condition& condition, absl::Time deadline) {
    if (condition.Eval()) return true;
    std::unique_lock<std::mutex> lock(mutex_, std::adopt_lock);
    if (waiters_ > 0) changed_.notify_all();
    ++waiters_;
    // Far deadlines overflow within the library; waking early is always allowed.
    const absl::Time near = std::min(deadline, absl::Now() + absl::Hours(1));
    const bool met = changed_.wait_until(lock, absl::ToChronoTime(near),
                                         [&condition] { return condition.Eval(); });
    --waiters_;
    lock.release();
    return met;
  }
  void LockWhen(const absl::Condition& condition) ABSL_EXCLUSIVE_LOCK_FUNCTION() {
    Lock();
    Await(condition);
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int waiters_ = 0;
};

class ABSL_SCOPED_LOCKABLE MutexLock {
 public:
  explicit MutexLock(Mutex* mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex) : mutex_(mutex) {
    mutex_->Lock();
  }
  MutexLock(Mutex* mutex, const absl::Condition& condition) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex)
      : mutex_(mutex) {
    mutex_->LockWhen(condition);
  }
  ~MutexLock() ABSL_UNLOCK_FUNCTION() { mutex_->Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex* const mutex_;
};
using ReaderMutexLock = MutexLock;

#endif

}  // namespace quantd

#endif  // QUANTD_CORE_BASE_MUTEX_H_
