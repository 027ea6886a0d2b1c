#include "server/admit/admission.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "core/base/status_detail.h"

namespace quantd {
namespace {

// A refusal shall reach the peer before its own deadline does.
constexpr absl::Duration kDeadlineMargin = absl::Milliseconds(200);
// When whoever is refused may find memory.
constexpr absl::Duration kRetryAfter = absl::Seconds(1);

absl::Status Refusal(absl::string_view message, int64_t limit_bytes) {
  return WithRetryAfter(
      WithLimit(absl::ResourceExhaustedError(message), "memory_bytes", limit_bytes), kRetryAfter);
}

}  // namespace

Admission::Admission(MemoryBudget& budget, Executor& executor, const AdmissionOptions& options)
    : budget_(budget), executor_(executor), options_(options), timer_([this] { TimerMain(); }) {}

Admission::~Admission() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
  }
  timer_.join();
}

std::unique_ptr<Admission::Place> Admission::Wait(const std::string& caller, MemoryBudget& share,
                                                  int64_t bytes, absl::Time deadline, bool again,
                                                  Ready ready) {
  auto waiter = std::make_shared<Waiter>();
  waiter->caller = caller;
  waiter->share = &share;
  waiter->bytes = bytes;
  waiter->since = absl::Now();
  waiter->expiry = std::min(waiter->since + options_.max_wait,
                            std::max(deadline - kDeadlineMargin, waiter->since));
  waiter->ready = std::move(ready);
  {
    MutexLock lock(&mutex_);
    if (waiting_ >= options_.max_waiting) {
      Answer(*waiter, Refusal(absl::StrCat(bytes, " bytes of memory are not free, and ", waiting_,
                                           " calls wait for some already; at most ",
                                           options_.max_waiting, " may"),
                              budget_.limit_bytes()));
    } else {
      Queue& queue = queues_[caller];
      if (queue.empty()) turns_.push_back(caller);
      again ? queue.push_front(waiter) : queue.push_back(waiter);
      ++waiting_;
      timer_changed_ = true;
    }
  }
  Pump();
  return std::unique_ptr<Place>(new Place(*this, std::move(waiter)));
}

int64_t Admission::waiting() const {
  MutexLock lock(&mutex_);
  return waiting_;
}

bool Admission::Fits(const Waiter& waiter) const {
  const int64_t free_bytes = budget_.free_bytes() - promised_bytes_;
  return waiter.bytes <= free_bytes - options_.headroom_bytes;
}

void Admission::Answer(Waiter& waiter, absl::Status status) {
  // Not here: whoever is told takes locks of its own.
  executor_.Submit([ready = std::exchange(waiter.ready, nullptr), status = std::move(status)] {
    ready(status);
  });
}

void Admission::Pump() {
  MutexLock lock(&mutex_);
  // Callers whose share is used up are passed over; what they wait for is their own to give back.
  // Nobody is passed over for the server's memory, or small calls would starve large ones.
  for (auto turn = turns_.begin(); turn != turns_.end();) {
    Queue& queue = queues_[*turn];
    const std::shared_ptr<Waiter> waiter = queue.front();
    if (waiter->share->limit_bytes() - waiter->share->used_bytes() < waiter->bytes) {
      ++turn;
      continue;
    }
    if (!Fits(*waiter)) return;
    queue.pop_front();
    --waiting_;
    if (queue.empty()) {
      queues_.erase(*turn);
    } else {
      turns_.push_back(*turn);
    }
    turn = turns_.erase(turn);
    waiter->has_turn = true;
    promised_bytes_ += waiter->bytes;
    Answer(*waiter, absl::OkStatus());
  }
}

void Admission::Remove(const std::shared_ptr<Waiter>& waiter) {
  const auto found = queues_.find(waiter->caller);
  if (found == queues_.end()) return;
  if (std::erase(found->second, waiter) == 0) return;
  --waiting_;
  if (!found->second.empty()) return;
  queues_.erase(found);
  turns_.remove(waiter->caller);
}

void Admission::GiveUp(const std::shared_ptr<Waiter>& waiter) {
  Ready unused;  // destroyed after the lock
  {
    MutexLock lock(&mutex_);
    if (waiter->has_turn) {
      waiter->has_turn = false;
      promised_bytes_ -= waiter->bytes;
    } else {
      Remove(waiter);
    }
    unused = std::move(waiter->ready);
  }
  Pump();
}

absl::Time Admission::Expire() {
  const absl::Time now = absl::Now();
  absl::Time next = absl::InfiniteFuture();
  Queue late;
  for (const auto& [caller, queue] : queues_) {
    for (const std::shared_ptr<Waiter>& waiter : queue) {
      if (waiter->expiry <= now) {
        late.push_back(waiter);
      } else {
        next = std::min(next, waiter->expiry);
      }
    }
  }
  for (const std::shared_ptr<Waiter>& waiter : late) {
    Remove(waiter);
    Answer(*waiter,
           Refusal(absl::StrCat(waiter->bytes, " bytes of memory did not come free within ",
                                absl::FormatDuration(
                                    absl::Trunc(now - waiter->since, absl::Milliseconds(1))),
                                "; ", std::max<int64_t>(waiter->share->free_bytes(), 0), " of the ",
                                waiter->share->limit_bytes(), " that the caller may hold are free"),
                   waiter->share->limit_bytes()));
  }
  return next;
}

void Admission::TimerMain() {
  const auto woken = [this]()
                         ABSL_NO_THREAD_SAFETY_ANALYSIS { return stopping_ || timer_changed_; };
  MutexLock lock(&mutex_);
  while (!stopping_) {
    timer_changed_ = false;
    const absl::Time next = Expire();
    mutex_.AwaitWithDeadline(absl::Condition(&woken), next);
  }
}

}  // namespace quantd
