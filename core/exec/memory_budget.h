#ifndef QUANTD_CORE_EXEC_MEMORY_BUDGET_H_
#define QUANTD_CORE_EXEC_MEMORY_BUDGET_H_

#include <cstdint>
#include <functional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/base/mutex.h"

namespace quantd {

// An account of bytes that sessions hold: the server's, or a share of it. Outlives its
// reservations. Thread-safe.
class MemoryBudget {
 public:
  // A share of the budget; gives it back when it is destroyed. Movable. Thread-compatible.
  class Reservation {
   public:
    Reservation() = default;
    Reservation(Reservation&& other) noexcept
        : budget_(std::exchange(other.budget_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
    // By value, so that what was held goes back at once and not when `other` dies.
    Reservation& operator=(Reservation other) noexcept {
      std::swap(budget_, other.budget_);
      std::swap(bytes_, other.bytes_);
      return *this;
    }
    ~Reservation() {
      if (budget_ != nullptr) budget_->Release(bytes_);
    }
    int64_t bytes() const { return bytes_; }
    // Takes `bytes`, at most bytes(), out into a reservation of their own.
    Reservation Split(int64_t bytes) {
      bytes_ -= bytes;
      return Reservation(budget_, bytes);
    }

   private:
    friend class MemoryBudget;
    Reservation(MemoryBudget* budget, int64_t bytes) : budget_(budget), bytes_(bytes) {}
    MemoryBudget* budget_ = nullptr;
    int64_t bytes_ = 0;
  };

  // What is reserved here is reserved in `parent` too, which may be null and outlives this.
  explicit MemoryBudget(int64_t limit_bytes, MemoryBudget* parent = nullptr)
      : limit_bytes_(limit_bytes), parent_(parent) {}

  // Has `listener` called whenever bytes have come free here, on the thread that gave them back,
  // which may hold any lock of its own. To be set before the first reservation.
  void SetReleaseListener(std::function<void()> listener) { listener_ = std::move(listener); }

  // Has reservations here refused, as if they were not free, for which `refuses` is true: for tests.
  // To be set before the first one.
  void SetRefusal(std::function<bool(int64_t bytes)> refuses) { refuses_ = std::move(refuses); }

  // Returns `bytes` of the budget, or kResourceExhausted naming `what`, the bytes asked for, and
  // those that are free.
  absl::StatusOr<Reservation> Reserve(int64_t bytes, absl::string_view what);

  int64_t limit_bytes() const { return limit_bytes_; }
  int64_t used_bytes() const;
  // Returns what could be reserved now, here and in the parents.
  int64_t free_bytes() const;

 private:
  absl::Status Take(int64_t bytes, absl::string_view what);
  void GiveBack(int64_t bytes);
  void Release(int64_t bytes);

  const int64_t limit_bytes_;
  MemoryBudget* const parent_;
  std::function<void()> listener_;
  std::function<bool(int64_t)> refuses_;
  mutable Mutex mutex_;
  int64_t used_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace quantd

#endif  // QUANTD_CORE_EXEC_MEMORY_BUDGET_H_
