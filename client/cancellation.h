#ifndef QUANTD_CLIENT_CANCELLATION_H_
#define QUANTD_CLIENT_CANCELLATION_H_

#include <cstdint>
#include <functional>
#include <map>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "core/base/mutex.h"

namespace quantd {

// Ends calls from another thread: those that have it in their options end with kCancelled, soon
// after Cancel or at once where it came first. A source that waits for its own bytes (a pipe) is
// not woken. It outlives the calls. Thread-safe.
class Cancellation {
 public:
  Cancellation() = default;
  Cancellation(const Cancellation&) = delete;
  Cancellation& operator=(const Cancellation&) = delete;

  void Cancel() ABSL_LOCKS_EXCLUDED(mutex_);
  bool cancelled() const ABSL_LOCKS_EXCLUDED(mutex_);

  // Waits for `timeout`, or until Cancel, and returns whether that came.
  bool Await(absl::Duration timeout) const ABSL_LOCKS_EXCLUDED(mutex_);

  // Has `action` run on Cancel for as long as this lives, at once if that was before. The action
  // does not block. Thread-compatible.
  class Scope {
   public:
    // `cancellation` may be null.
    Scope(Cancellation* cancellation, std::function<void()> action);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Cancellation* const cancellation_;
    uint64_t id_ = 0;
  };

 private:
  mutable Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<uint64_t, std::function<void()>> actions_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace quantd

#endif  // QUANTD_CLIENT_CANCELLATION_H_
