// Who may be in the room when it is full. A caller's share is the room divided by those who are in
// it or want to be:
//
//   room of 12 places   a has 12, b wants 1: shares are 6. b finds none and is told to come again;
//   a a a a a a         of a, who has more than 6, one call leaves, and none comes in while b may
//   a a a a a a         come again. b comes again, and finds a place.
//
// So a caller alone has all of it, which a fixed share would not give; and whoever fills it with
// calls that say nothing keeps others waiting for about a second, which is how often calls are
// asked whether they must leave. Only calls that hold nothing but their place leave: those that
// have not said anything, and those that wait for memory. A caller who is refused and has its share
// already moves nobody, and who does not come again within kDemandTime is forgotten.
//
// Entries: Enter, MustLeave. Tested by tests/server/admit/waiting_room_test.cc.
#include "server/admit/waiting_room.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "core/base/status_detail.h"

namespace quantd {
namespace {

constexpr absl::Duration kRetryAfter = absl::Seconds(1);
// Longer than clients take to come again.
constexpr absl::Duration kDemandTime = absl::Seconds(5);
constexpr size_t kMaxDemands = 1024;

absl::Status Refusal(absl::string_view message, int64_t limit_bytes) {
  return WithRetryAfter(
      WithLimit(absl::ResourceExhaustedError(message), "waiting_room_bytes", limit_bytes),
      kRetryAfter);
}

}  // namespace

int64_t WaitingRoom::BytesFor(int64_t memory_bytes, int64_t max_waiting) {
  return std::clamp(max_waiting * kStreamBytes, memory_bytes / 4, memory_bytes / 2);
}

int64_t WaitingRoom::LengthFor(int64_t memory_bytes, int64_t max_waiting) {
  return std::min(max_waiting, BytesFor(memory_bytes, max_waiting) / kStreamBytes);
}

absl::StatusOr<WaitingRoom::Place> WaitingRoom::Enter(const std::string& caller, int64_t bytes,
                                                      absl::string_view what, absl::Time now) {
  bool is_over = false, is_wanted = false;
  {
    MutexLock lock(&mutex_);
    Forget(now);
    is_over = Held(caller) + bytes > ShareOf(caller);
    is_wanted = is_over && !demands_.empty();
  }
  const int64_t limit_bytes = memory_.limit_bytes();
  if (is_wanted) {
    return Refusal(absl::StrCat("the caller has its share of the waiting room of ", limit_bytes,
                                " bytes (--max-waiting, --memory), which others want too"),
                   limit_bytes);
  }
  absl::StatusOr<MemoryBudget::Reservation> reserved = memory_.Reserve(bytes, what);
  if (!reserved.ok()) return Refuse(caller, is_over, reserved.status(), now);
  MutexLock lock(&mutex_);
  EndDemand(caller);
  held_[caller] += bytes;
  return Place(*this, caller, *std::move(reserved));
}

absl::Status WaitingRoom::Refuse(const std::string& caller, bool is_over,
                                 const absl::Status& status, absl::Time now) {
  {
    MutexLock lock(&mutex_);
    if (!is_over && (demands_.size() < kMaxDemands || demands_.contains(caller))) {
      Demand(caller, now + kDemandTime);
    }
  }
  return Refusal(absl::StrCat(status.message(),
                              "; calls are let into a waiting room that follows from --max-waiting "
                              "and --memory"),
                 memory_.limit_bytes());
}

bool WaitingRoom::MustLeave(const std::string& caller, absl::Time now) {
  MutexLock lock(&mutex_);
  Forget(now);
  if (unanswered_.empty() || Held(caller) <= ShareOf(caller)) return false;
  unanswered_.erase(unanswered_.begin());
  return true;
}

bool WaitingRoom::crowded() const { return memory_.used_bytes() > memory_.limit_bytes() / 8 * 7; }

absl::Status WaitingRoom::Dismissal() const {
  const int64_t limit_bytes = memory_.limit_bytes();
  return Refusal(absl::StrCat("the caller has more than its share of the waiting room of ",
                              limit_bytes, " bytes (--max-waiting, --memory), which others want; ",
                              "this call held nothing else yet"),
                 limit_bytes);
}

int64_t WaitingRoom::Held(const std::string& caller) const {
  const auto found = held_.find(caller);
  return found == held_.end() ? 0 : found->second;
}

int64_t WaitingRoom::ShareOf(const std::string& caller) const {
  const bool is_counted = held_.contains(caller) || demands_.contains(caller);
  const int64_t callers = std::ssize(held_) + demanders_outside_ + (is_counted ? 0 : 1);
  // Where the memory around it is in use, that much less is to be shared.
  const int64_t bytes = memory_.used_bytes() + std::max<int64_t>(memory_.free_bytes(), 0);
  return bytes / callers;
}

void WaitingRoom::Demand(const std::string& caller, absl::Time until) {
  EndDemand(caller);
  demands_.emplace(caller, until);
  demands_by_time_.emplace(until, caller);
  unanswered_.insert(caller);
  if (!held_.contains(caller)) ++demanders_outside_;
}

void WaitingRoom::EndDemand(const std::string& caller) {
  const auto found = demands_.find(caller);
  if (found == demands_.end()) return;
  demands_by_time_.erase({found->second, caller});
  unanswered_.erase(caller);
  demands_.erase(found);
  if (!held_.contains(caller)) --demanders_outside_;
}

void WaitingRoom::Forget(absl::Time now) {
  while (!demands_by_time_.empty() && demands_by_time_.begin()->first <= now) {
    EndDemand(std::string(demands_by_time_.begin()->second));
  }
}

void WaitingRoom::Leave(const std::string& caller, int64_t bytes) {
  MutexLock lock(&mutex_);
  const auto found = held_.find(caller);
  found->second -= bytes;
  if (found->second > 0) return;
  held_.erase(found);
  if (demands_.contains(caller)) ++demanders_outside_;
}

}  // namespace quantd
