// Accounts of bytes within each other: what is taken from a share is taken from all around it.
//
//   server 1,000 -+- caller a 600     a takes 300: 300 of its share are left, 700 of the server's
//                 +- caller b 600     b takes 500: 100 and 200 are left
//                                     a wants 250: its share has them, the server does not: refused
//
// The inner account is asked first, so that who is over his share takes nothing from others; where
// the outer one then refuses, the inner one has its bytes back. Listeners hear of bytes that come
// free when all accounts have them, the outermost first.
//
// Entry: Reserve. Tested by tests/core/exec/memory_budget_test.cc.
#include "core/exec/memory_budget.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_detail.h"
#include "core/base/status_macros.h"

namespace quantd {
namespace {

// When memory that is not free now may be.
constexpr absl::Duration kRetryAfter = absl::Seconds(1);

}  // namespace

absl::StatusOr<MemoryBudget::Reservation> MemoryBudget::Reserve(int64_t bytes,
                                                                absl::string_view what) {
  QUANTD_RETURN_IF_ERROR(Take(bytes, what));
  Reservation reservation;
  if (parent_ != nullptr) {
    absl::StatusOr<Reservation> outer = parent_->Reserve(bytes, what);
    if (!outer.ok()) {
      GiveBack(bytes);
      return outer.status();
    }
    reservation = *std::move(outer);
  }
  reservation.budget_ = this;  // whose Release goes on to the parent
  reservation.bytes_ = bytes;
  return reservation;
}

absl::Status MemoryBudget::Take(int64_t bytes, absl::string_view what) {
  MutexLock lock(&mutex_);
  const int64_t free_bytes = limit_bytes_ - used_bytes_;
  if (bytes < 0 || bytes > free_bytes || (refuses_ && refuses_(bytes))) {
    const absl::Status status =
        WithLimit(absl::ResourceExhaustedError(
                      absl::StrCat(what, " needs ", bytes, " bytes of memory; ", free_bytes,
                                   " of the budget of ", limit_bytes_, " are free")),
                  "memory_bytes", limit_bytes_);
    if (bytes > limit_bytes_) return status;
    return WithRetryAfter(WithShortage(status, bytes), kRetryAfter);
  }
  used_bytes_ += bytes;
  return absl::OkStatus();
}

int64_t MemoryBudget::used_bytes() const {
  MutexLock lock(&mutex_);
  return used_bytes_;
}

int64_t MemoryBudget::free_bytes() const {
  const int64_t here_bytes = limit_bytes_ - used_bytes();
  return parent_ == nullptr ? here_bytes : std::min(here_bytes, parent_->free_bytes());
}

void MemoryBudget::GiveBack(int64_t bytes) {
  MutexLock lock(&mutex_);
  used_bytes_ -= bytes;
}

void MemoryBudget::Release(int64_t bytes) {
  GiveBack(bytes);
  if (parent_ != nullptr) parent_->Release(bytes);
  if (listener_) listener_();
}

}  // namespace quantd
