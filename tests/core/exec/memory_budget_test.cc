#include "core/exec/memory_budget.h"

#include <atomic>
#include <cstdint>
#include <limits>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace quantd {
namespace {

TEST(MemoryBudgetTest, ReservationsAddUpToTheLimit) {
  MemoryBudget budget(100);
  const absl::StatusOr<MemoryBudget::Reservation> first = budget.Reserve(60, "window");
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(first->bytes(), 60);
  EXPECT_EQ(budget.used_bytes(), 60);
  const absl::StatusOr<MemoryBudget::Reservation> second = budget.Reserve(40, "window");
  EXPECT_TRUE(second.ok());
  EXPECT_EQ(budget.used_bytes(), 100);
  EXPECT_EQ(budget.limit_bytes(), 100);
  EXPECT_TRUE(budget.Reserve(0, "nothing").ok());
}

TEST(MemoryBudgetTest, ErrorHasTheNumbers) {
  MemoryBudget budget(100);
  const absl::StatusOr<MemoryBudget::Reservation> held = budget.Reserve(70, "window");
  const absl::Status status = budget.Reserve(31, "tensor \"x\"").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(status.message(),
            "tensor \"x\" needs 31 bytes of memory; 30 of the budget of 100 are free");
  EXPECT_EQ(budget.used_bytes(), 70);
}

TEST(MemoryBudgetTest, SizesThatOverflowAreRefused) {
  MemoryBudget budget(100);
  const absl::StatusOr<MemoryBudget::Reservation> held = budget.Reserve(70, "window");
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  EXPECT_FALSE(budget.Reserve(kMax, "tensor").ok());
  EXPECT_FALSE(budget.Reserve(-1, "tensor").ok());
  EXPECT_FALSE(budget.Reserve(std::numeric_limits<int64_t>::min(), "tensor").ok());
  EXPECT_EQ(budget.used_bytes(), 70);
}

TEST(MemoryBudgetTest, ReservationsGiveBackOnceHoweverTheyMove) {
  MemoryBudget budget(100);
  {
    absl::StatusOr<MemoryBudget::Reservation> reserved = budget.Reserve(30, "window");
    ASSERT_TRUE(reserved.ok());
    MemoryBudget::Reservation held = *std::move(reserved);
    MemoryBudget::Reservation moved = std::move(held);
    EXPECT_EQ(moved.bytes(), 30);
    EXPECT_EQ(budget.used_bytes(), 30);
    moved = *budget.Reserve(50, "window");  // the old one goes back at once
    EXPECT_EQ(budget.used_bytes(), 50);
    moved = MemoryBudget::Reservation();
    EXPECT_EQ(budget.used_bytes(), 0);
    moved = *budget.Reserve(10, "window");
  }
  EXPECT_EQ(budget.used_bytes(), 0);
}

TEST(MemoryBudgetTest, AssigningGivesBackWhatWasHeld) {
  MemoryBudget budget(100);
  MemoryBudget::Reservation target = *budget.Reserve(30, "window");
  MemoryBudget::Reservation source = *budget.Reserve(5, "window");
  target = std::move(source);  // `source` still lives
  EXPECT_EQ(target.bytes(), 5);
  EXPECT_EQ(budget.used_bytes(), 5);
}

TEST(MemoryBudgetTest, AShareCountsInItsParentToo) {
  MemoryBudget whole(100);
  MemoryBudget share(60, &whole), other(60, &whole);
  const MemoryBudget::Reservation held = *share.Reserve(50, "window");
  EXPECT_EQ(whole.used_bytes(), 50);
  EXPECT_EQ(share.free_bytes(), 10);
  EXPECT_EQ(other.free_bytes(), 50);
  EXPECT_FALSE(other.Reserve(51, "window").ok());  // the parent has no room
  EXPECT_EQ(other.used_bytes(), 0);
  EXPECT_FALSE(share.Reserve(11, "window").ok());  // the share has none
  EXPECT_EQ(whole.used_bytes(), 50);
  { const MemoryBudget::Reservation all = *other.Reserve(50, "window"); }
  EXPECT_EQ(whole.used_bytes(), 50);
}

TEST(MemoryBudgetTest, TellsWhenBytesHaveComeFree) {
  MemoryBudget whole(100);
  int64_t free_bytes = -1;
  whole.SetReleaseListener([&] { free_bytes = whole.free_bytes(); });
  MemoryBudget share(60, &whole);
  { const MemoryBudget::Reservation held = *share.Reserve(50, "window"); }
  EXPECT_EQ(free_bytes, 100);
}

TEST(MemoryBudgetTest, AShareWithoutRoomTakesNothingFromItsParent) {
  MemoryBudget parent(100);
  int freed = 0;
  parent.SetReleaseListener([&freed] { ++freed; });
  MemoryBudget share(30, &parent);
  const absl::Status status = share.Reserve(31, "tensor").status();
  EXPECT_EQ(status.message(), "tensor needs 31 bytes of memory; 30 of the budget of 30 are free");
  EXPECT_EQ(freed, 0);
  const absl::StatusOr<MemoryBudget::Reservation> held = parent.Reserve(90, "others");
  EXPECT_FALSE(share.Reserve(20, "tensor").ok());
  EXPECT_EQ(share.used_bytes(), 0);
  EXPECT_EQ(parent.used_bytes(), 90);
}

TEST(MemoryBudgetTest, IsNeverExceededUnderContention) {
  constexpr int64_t kLimit = 1000;
  MemoryBudget budget(kLimit);
  std::atomic<int64_t> held = 0;
  std::atomic<int> granted = 0, refused = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 2000; ++i) {
        const int64_t bytes = (t * 131 + i * 17) % 600;
        const absl::StatusOr<MemoryBudget::Reservation> reservation = budget.Reserve(bytes, "x");
        if (!reservation.ok()) {
          ++refused;
          continue;
        }
        ++granted;
        EXPECT_LE(held += bytes, kLimit);
        held -= bytes;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(granted + refused, 16000);
  EXPECT_EQ(budget.used_bytes(), 0);
}

}  // namespace
}  // namespace quantd
