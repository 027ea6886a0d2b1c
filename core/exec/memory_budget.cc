#include "core/exec/memory_budget.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_detail.h"

namespace quantd {

absl::StatusOr<MemoryBudget::Reservation> MemoryBudget::Reserve(int64_t bytes,
                                                                absl::string_view what) {
  MutexLock lock(&mutex_);
  const int64_t free_bytes = limit_bytes_ - used_bytes_;
  if (bytes < 0 || bytes > free_bytes) {
    return WithLimit(absl::ResourceExhaustedError(
                         absl::StrCat(what, " needs ", bytes, " bytes of memory; ", free_bytes,
                                      " of the budget of ", limit_bytes_, " are free")),
                     "memory_bytes", limit_bytes_);
  }
  used_bytes_ += bytes;
  Reservation reservation;
  reservation.budget_ = this;
  reservation.bytes_ = bytes;
  return reservation;
}

int64_t MemoryBudget::used_bytes() const {
  MutexLock lock(&mutex_);
  return used_bytes_;
}

void MemoryBudget::Release(int64_t bytes) {
  MutexLock lock(&mutex_);
  used_bytes_ -= bytes;
}

}  // namespace quantd
