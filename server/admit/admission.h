#ifndef QUANTD_SERVER_ADMIT_ADMISSION_H_
#define QUANTD_SERVER_ADMIT_ADMISSION_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/base/mutex.h"
#include "core/exec/memory_budget.h"

namespace quantd {

// Who may wait for memory, and how long.
struct AdmissionOptions {
  int max_waiting = 1024;
  absl::Duration max_wait = absl::Seconds(30);
  // Left free for small calls, which do not wait.
  int64_t headroom_bytes = 0;
  // For messages: whose the shares are, and which settings bound them.
  absl::string_view whose = "that the caller may hold";
  absl::string_view settings = "--caller-memory, --memory";
};

// Memory that a call asks for.
struct MemoryRequest {
  std::string caller;
  std::shared_ptr<MemoryBudget> share;  // of the server's budget, that is the caller's
  int64_t bytes = 0;
  absl::string_view what;  // for messages: what it is for
  absl::Time deadline = absl::InfiniteFuture();  // of the call
};

// Grants memory to calls: at once, or when their turn in the queue comes. Callers take turns,
// whoever has more calls waiting; a call of one caller waits behind the earlier ones of the same. A
// call that waits holds nothing but what it has in the waiting room, so that those that hold memory
// come to their end.
//
//   caller a: a1 a2 a3      the turn goes a1 b1 a2 a3, each when its bytes are free in its caller's
//   caller b: b1            share and in the server's budget, but for the headroom
//
// Has no clock and no thread: times come in, and what happens is said by `post`. Thread-safe.
class Admission {
 public:
  // Called once: with the bytes, or with the refusal and its numbers.
  using Granted = absl::AnyInvocable<void(absl::StatusOr<MemoryBudget::Reservation>)>;
  // Runs a function soon, on a thread that holds no lock.
  using Post = std::function<void(std::function<void()>)>;

  // The place of one call in the queue; given up when destroyed, and then `granted` is not called,
  // but where it is about to be. Outlived by the queue. Not thread-safe.
  class Place;

  // Watches `budget`, which outlives this.
  Admission(MemoryBudget& budget, const AdmissionOptions& options, Post post);
  // There are no places left.
  ~Admission() = default;
  Admission(const Admission&) = delete;
  Admission& operator=(const Admission&) = delete;

  // Queues a request that its caller's share could hold.
  std::unique_ptr<Place> Wait(MemoryRequest request, absl::Time now, Granted granted);

  // True if somebody waits: whoever comes then queues too.
  bool crowded() const { return waiting() > 0; }
  int64_t waiting() const;

  // Grants what can be; called when memory comes free.
  void Pump();
  // Refuses those whose time is up; returns when the next one's is.
  absl::Time Expire(absl::Time now);
  // Has `listener` called when somebody begins to wait, under no lock. To be set before that.
  void SetListener(std::function<void()> listener) { listener_ = std::move(listener); }

 private:
  struct Waiter {
    MemoryRequest request;
    absl::Time since, expiry;
    Granted granted;  // null once called, or given up
  };
  using Queue = std::deque<std::shared_ptr<Waiter>>;

  // Takes the waiter's bytes, if it may have them.
  absl::StatusOr<MemoryBudget::Reservation> Take(const Waiter& waiter)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Answer(Waiter& waiter, absl::StatusOr<MemoryBudget::Reservation> answer)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Remove(const std::shared_ptr<Waiter>& waiter) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void GiveUp(const std::shared_ptr<Waiter>& waiter);

  MemoryBudget& budget_;
  const AdmissionOptions options_;
  const Post post_;
  std::function<void()> listener_;
  mutable Mutex mutex_;
  std::map<std::string, Queue> queues_ ABSL_GUARDED_BY(mutex_);  // none is empty
  std::list<std::string> turns_ ABSL_GUARDED_BY(mutex_);         // callers, the next one first
  int64_t waiting_ ABSL_GUARDED_BY(mutex_) = 0;
};

class Admission::Place {
 public:
  ~Place() { admission_.GiveUp(waiter_); }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
  absl::Time since() const { return waiter_->since; }

 private:
  friend class Admission;
  Place(Admission& admission, std::shared_ptr<Waiter> waiter)
      : admission_(admission), waiter_(std::move(waiter)) {}

  Admission& admission_;
  const std::shared_ptr<Waiter> waiter_;
};

}  // namespace quantd

#endif  // QUANTD_SERVER_ADMIT_ADMISSION_H_
