#include "server/admit/admission.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"

namespace quantd {
namespace {

// Calls that wait, and what they were told, in order.
class AdmissionTest : public ::testing::Test {
 protected:
  struct Call {
    std::string name;
    std::unique_ptr<Admission::Place> place;
  };

  std::unique_ptr<Admission::Place> Wait(Admission& admission, const std::string& caller,
                                         MemoryBudget& share, int64_t bytes,
                                         const std::string& name, bool again = false,
                                         absl::Time deadline = absl::InfiniteFuture()) {
    return admission.Wait(caller, share, bytes, deadline, again,
                          [this, name](const absl::Status& status) {
                            MutexLock lock(&mutex_);
                            told_.push_back(status.ok() ? name : "refused " + name);
                            last_ = status;
                          });
  }
  std::vector<std::string> Told(size_t count) {
    const auto enough = [&] { return told_.size() >= count; };
    mutex_.LockWhen(absl::Condition(&enough));
    std::vector<std::string> told = told_;
    mutex_.Unlock();
    return told;
  }

  MemoryBudget budget_{100};
  Mutex mutex_;
  std::vector<std::string> told_;
  absl::Status last_;
  Executor executor_{1};  // ends first: what it runs uses the rest
};

using Names = std::vector<std::string>;

TEST_F(AdmissionTest, CallersTakeTurns) {
  Admission admission(budget_, executor_, {});
  budget_.SetReleaseListener([&] { admission.Pump(); });
  MemoryBudget a(100, &budget_), b(100, &budget_);
  auto held = *budget_.Reserve(100, "everything");
  auto a1 = Wait(admission, "a", a, 60, "a1");
  auto a2 = Wait(admission, "a", a, 60, "a2");
  auto b1 = Wait(admission, "b", b, 60, "b1");
  EXPECT_EQ(admission.waiting(), 3);
  held = MemoryBudget::Reservation();
  EXPECT_EQ(Told(1), (Names{"a1"}));
  a1.reset();
  EXPECT_EQ(Told(2), (Names{"a1", "b1"}));
  b1.reset();
  EXPECT_EQ(Told(3), (Names{"a1", "b1", "a2"}));
  EXPECT_FALSE(admission.crowded());
}

TEST_F(AdmissionTest, SmallCallsDoNotOvertakeLargeOnes) {
  Admission admission(budget_, executor_, {});
  budget_.SetReleaseListener([&] { admission.Pump(); });
  MemoryBudget a(100, &budget_), b(100, &budget_);
  auto held = *budget_.Reserve(50, "half");
  auto large = Wait(admission, "a", a, 80, "large");
  auto small = Wait(admission, "b", b, 10, "small");
  EXPECT_EQ(admission.waiting(), 2);
  held = MemoryBudget::Reservation();
  EXPECT_EQ(Told(2), (Names{"large", "small"}));
}

TEST_F(AdmissionTest, AShareThatIsUsedUpHoldsUpNobodyElse) {
  Admission admission(budget_, executor_, {});
  budget_.SetReleaseListener([&] { admission.Pump(); });
  MemoryBudget a(50, &budget_), b(50, &budget_);
  auto held = *a.Reserve(50, "the whole share");
  auto a1 = Wait(admission, "a", a, 40, "a1");
  auto b1 = Wait(admission, "b", b, 40, "b1");
  EXPECT_EQ(Told(1), (Names{"b1"}));
  b1.reset();
  held = MemoryBudget::Reservation();
  EXPECT_EQ(Told(2), (Names{"b1", "a1"}));
}

TEST_F(AdmissionTest, WhoComesAgainGoesFirst) {
  Admission admission(budget_, executor_, {});
  budget_.SetReleaseListener([&] { admission.Pump(); });
  auto held = *budget_.Reserve(100, "everything");
  auto first = Wait(admission, "a", budget_, 60, "first");
  auto again = Wait(admission, "a", budget_, 60, "again", /*again=*/true);
  held = MemoryBudget::Reservation();
  EXPECT_EQ(Told(1), (Names{"again"}));
}

TEST_F(AdmissionTest, LeavesTheHeadroomFree) {
  Admission admission(budget_, executor_, {.headroom_bytes = 10});
  budget_.SetReleaseListener([&] { admission.Pump(); });
  auto held = *budget_.Reserve(5, "something");
  auto call = Wait(admission, "a", budget_, 90, "call");
  EXPECT_EQ(admission.waiting(), 1);
  held = MemoryBudget::Reservation();
  EXPECT_EQ(Told(1), (Names{"call"}));
}

TEST_F(AdmissionTest, RefusesWithTheNumberBeforeTheDeadline) {
  Admission admission(budget_, executor_, {});
  auto held = *budget_.Reserve(90, "most");
  const absl::Time deadline = absl::Now() + absl::Milliseconds(300);
  auto call = Wait(admission, "a", budget_, 60, "call", false, deadline);
  EXPECT_EQ(Told(1), (Names{"refused call"}));
  EXPECT_TRUE(absl::IsResourceExhausted(last_)) << last_;
  EXPECT_EQ(last_.message().substr(0, 19), "60 bytes of memory ") << last_;
  EXPECT_EQ(admission.waiting(), 0);
}

TEST_F(AdmissionTest, RefusesWhereTooManyWait) {
  Admission admission(budget_, executor_, {.max_waiting = 1});
  auto held = *budget_.Reserve(90, "most");
  auto first = Wait(admission, "a", budget_, 60, "first");
  auto second = Wait(admission, "b", budget_, 60, "second");
  EXPECT_EQ(Told(1), (Names{"refused second"}));
  EXPECT_EQ(admission.waiting(), 1);
}

TEST_F(AdmissionTest, AGivenUpPlaceIsNobodysTurn) {
  Admission admission(budget_, executor_, {});
  budget_.SetReleaseListener([&] { admission.Pump(); });
  auto held = *budget_.Reserve(100, "everything");
  auto first = Wait(admission, "a", budget_, 60, "first");
  auto second = Wait(admission, "a", budget_, 60, "second");
  first.reset();
  held = MemoryBudget::Reservation();
  EXPECT_EQ(Told(1), (Names{"second"}));
}

}  // namespace
}  // namespace quantd
