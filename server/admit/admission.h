#ifndef QUANTD_SERVER_ADMIT_ADMISSION_H_
#define QUANTD_SERVER_ADMIT_ADMISSION_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "core/base/mutex.h"
#include "core/exec/executor.h"
#include "core/exec/memory_budget.h"

namespace quantd {

// Who may wait for memory, and how long.
struct AdmissionOptions {
  int max_waiting = 1024;
  absl::Duration max_wait = absl::Seconds(30);
  // Left free for small calls, which do not wait.
  int64_t headroom_bytes = 0;
};

// The queue of the calls whose memory is not there yet. Callers take turns, whoever has more calls
// waiting; a call of one caller waits behind the earlier ones of the same. A call that waits holds
// nothing but what it has in the waiting room, so that those that hold memory come to their end.
//
// A turn is no reservation: who has it tries again, and queues again at the front if somebody took
// the memory meanwhile. Thread-safe.
class Admission {
 public:
  // OK: the memory may be there now. Else the refusal, with the numbers.
  using Ready = std::function<void(const absl::Status&)>;

  // The place of one call in the queue, then its turn; given up when destroyed. Outlived by the
  // queue. Not thread-safe.
  class Place;

  // Watches `budget`; calls back on `executor`. Both outlive this.
  Admission(MemoryBudget& budget, Executor& executor, const AdmissionOptions& options);
  // There are no places left.
  ~Admission();
  Admission(const Admission&) = delete;
  Admission& operator=(const Admission&) = delete;

  // Queues a call of `caller` that needs `bytes`, which `share`, a share of the budget, could hold.
  // Calls `ready` once, unless the place is given up before: with the turn, or with
  // kResourceExhausted when the wait has lasted too long, `deadline` comes near, or too many wait.
  // `again`: the call has had its turn and goes before all others of its caller.
  std::unique_ptr<Place> Wait(const std::string& caller, MemoryBudget& share, int64_t bytes,
                              absl::Time deadline, bool again, Ready ready);

  // True if somebody waits: whoever comes then queues too.
  bool crowded() const { return waiting() > 0; }
  int64_t waiting() const;

  // Looks whether somebody can have a turn; called when memory comes free.
  void Pump();

 private:
  struct Waiter {
    std::string caller;
    MemoryBudget* share = nullptr;
    int64_t bytes = 0;
    absl::Time since, expiry;
    Ready ready;  // null once called
    bool has_turn = false;
  };
  using Queue = std::deque<std::shared_ptr<Waiter>>;

  bool Fits(const Waiter& waiter) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Answer(Waiter& waiter, absl::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Remove(const std::shared_ptr<Waiter>& waiter) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void GiveUp(const std::shared_ptr<Waiter>& waiter);
  // Refuses those whose time is up; returns when the next one's is.
  absl::Time Expire() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TimerMain();

  MemoryBudget& budget_;
  Executor& executor_;
  const AdmissionOptions options_;
  mutable Mutex mutex_;
  std::map<std::string, Queue> queues_ ABSL_GUARDED_BY(mutex_);  // none is empty
  std::list<std::string> turns_ ABSL_GUARDED_BY(mutex_);         // callers, the next one first
  int64_t waiting_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t promised_bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // to those that have a turn
  bool timer_changed_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread timer_;
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
