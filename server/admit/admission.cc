// Entries: Wait, Pump, Expire. Tested by tests/server/admit/admission_test.cc, and with calls by
// tests/server/overload_test.cc.
#include "server/admit/admission.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
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

Admission::Admission(MemoryBudget& budget, const AdmissionOptions& options, Post post)
    : budget_(budget), options_(options), post_(std::move(post)) {}

std::unique_ptr<Admission::Place> Admission::Wait(MemoryRequest request, absl::Time now,
                                                  Granted granted) {
  auto waiter = std::make_shared<Waiter>();
  waiter->since = now;
  waiter->expiry =
      std::min(now + options_.max_wait, std::max(request.deadline - kDeadlineMargin, now));
  waiter->request = std::move(request);
  waiter->granted = std::move(granted);
  {
    MutexLock lock(&mutex_);
    if (waiting_ >= options_.max_waiting) {
      Answer(*waiter,
             Refusal(absl::StrCat(waiter->request.bytes, " bytes of memory are not free, and ",
                                  waiting_, " calls wait for some already; at most ",
                                  options_.max_waiting, " may (--max-waiting, --memory)"),
                     budget_.limit_bytes()));
    } else {
      Queue& queue = queues_[waiter->request.caller];
      if (queue.empty()) turns_.push_back(waiter->request.caller);
      queue.push_back(waiter);
      ++waiting_;
    }
  }
  Pump();
  if (listener_) listener_();
  return std::unique_ptr<Place>(new Place(*this, std::move(waiter)));
}

int64_t Admission::waiting() const {
  MutexLock lock(&mutex_);
  return waiting_;
}

void Admission::Answer(Waiter& waiter, absl::StatusOr<MemoryBudget::Reservation> answer) {
  // Not here: whoever is told takes locks of its own.
  struct Told {
    std::shared_ptr<MemoryBudget> share;  // outlives the answer
    Granted granted;
    absl::StatusOr<MemoryBudget::Reservation> answer;
  };
  const auto told = std::make_shared<Told>(
      Told{waiter.request.share, std::exchange(waiter.granted, nullptr), std::move(answer)});
  post_([told] { told->granted(std::move(told->answer)); });
}

absl::StatusOr<MemoryBudget::Reservation> Admission::Take(const Waiter& waiter) {
  const MemoryRequest& request = waiter.request;
  if (request.bytes > budget_.free_bytes() - options_.headroom_bytes) {
    return absl::ResourceExhaustedError("the server's memory is in use");
  }
  return request.share->Reserve(request.bytes, request.what);  // somebody may have been faster
}

void Admission::Pump() {
  MutexLock lock(&mutex_);
  // Callers whose share is used up are passed over; what they wait for is their own to give back.
  // Nobody is passed over for the server's memory, or small calls would starve large ones.
  for (auto turn = turns_.begin(); turn != turns_.end();) {
    Queue& queue = queues_[*turn];
    const std::shared_ptr<Waiter> waiter = queue.front();
    const MemoryBudget& share = *waiter->request.share;
    if (share.limit_bytes() - share.used_bytes() < waiter->request.bytes) {
      ++turn;
      continue;
    }
    absl::StatusOr<MemoryBudget::Reservation> taken = Take(*waiter);
    if (!taken.ok()) return;
    queue.pop_front();
    --waiting_;
    if (queue.empty()) {
      queues_.erase(*turn);
    } else {
      turns_.push_back(*turn);
    }
    turn = turns_.erase(turn);
    Answer(*waiter, std::move(taken));
  }
}

void Admission::Remove(const std::shared_ptr<Waiter>& waiter) {
  const auto found = queues_.find(waiter->request.caller);
  if (found == queues_.end()) return;
  if (std::erase(found->second, waiter) == 0) return;
  --waiting_;
  if (!found->second.empty()) return;
  queues_.erase(found);
  turns_.remove(waiter->request.caller);
}

void Admission::GiveUp(const std::shared_ptr<Waiter>& waiter) {
  Granted unused;  // destroyed after the lock
  {
    MutexLock lock(&mutex_);
    Remove(waiter);
    unused = std::move(waiter->granted);
  }
  Pump();
}

absl::Time Admission::Expire(absl::Time now) {
  MutexLock lock(&mutex_);
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
    const MemoryBudget& share = *waiter->request.share;
    Answer(*waiter,
           Refusal(absl::StrCat(waiter->request.bytes, " bytes of memory did not come free within ",
                                absl::FormatDuration(
                                    absl::Trunc(now - waiter->since, absl::Milliseconds(1))),
                                " (--max-wait); ", std::max<int64_t>(share.free_bytes(), 0),
                                " of the ", share.limit_bytes(), " ", options_.whose, " are free (",
                                options_.settings, ")"),
                   share.limit_bytes()));
  }
  return next;
}

}  // namespace quantd
