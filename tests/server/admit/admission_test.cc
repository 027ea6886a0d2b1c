#include "server/admit/admission.h"

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace quantd {
namespace {

// Calls that wait, and what they were told, in order. What is posted runs in Run.
class AdmissionTest : public ::testing::Test {
 protected:
  using Places = std::vector<std::unique_ptr<Admission::Place>>;

  Admission Make(const AdmissionOptions& options = {}) {
    return Admission(budget_, options,
                     [this](std::function<void()> task) { posted_.push_back(std::move(task)); });
  }
  std::shared_ptr<MemoryBudget> Share(int64_t bytes) {
    return std::make_shared<MemoryBudget>(bytes, &budget_);
  }
  std::unique_ptr<Admission::Place> Wait(Admission& admission, const std::string& caller,
                                         std::shared_ptr<MemoryBudget> share, int64_t bytes,
                                         const std::string& name,
                                         absl::Time deadline = absl::InfiniteFuture()) {
    return admission.Wait({caller, std::move(share), bytes, "a call", deadline}, now_,
                          [this, name](absl::StatusOr<MemoryBudget::Reservation> answer) {
                            told_.push_back(answer.ok() ? name : "refused " + name);
                            last_ = answer.status();
                            if (answer.ok()) granted_[name] = *std::move(answer);
                          });
  }
  void Run() {
    while (!posted_.empty()) {
      std::vector<std::function<void()>> posted;
      std::swap(posted, posted_);
      for (const std::function<void()>& task : posted) task();
    }
  }
  std::vector<std::string> Told() {
    Run();
    return told_;
  }

  MemoryBudget budget_{100};
  absl::Time now_ = absl::UnixEpoch();
  std::vector<std::function<void()>> posted_;
  std::vector<std::string> told_;
  std::map<std::string, MemoryBudget::Reservation> granted_;
  absl::Status last_;
};

using Names = std::vector<std::string>;

TEST_F(AdmissionTest, CallersTakeTurns) {
  Admission admission = Make();
  budget_.SetReleaseListener([&] { admission.Pump(); });
  const auto a = Share(100), b = Share(100);
  auto held = *budget_.Reserve(100, "everything");
  const auto a1 = Wait(admission, "a", a, 60, "a1");
  const auto a2 = Wait(admission, "a", a, 60, "a2");
  const auto b1 = Wait(admission, "b", b, 60, "b1");
  EXPECT_EQ(admission.waiting(), 3);
  held = MemoryBudget::Reservation();
  EXPECT_EQ(Told(), (Names{"a1"}));
  EXPECT_EQ(a->used_bytes(), 60);
  granted_.erase("a1");
  EXPECT_EQ(Told(), (Names{"a1", "b1"}));
  granted_.erase("b1");
  EXPECT_EQ(Told(), (Names{"a1", "b1", "a2"}));
  EXPECT_FALSE(admission.crowded());
  granted_.clear();
  EXPECT_EQ(budget_.used_bytes(), 0);
}

TEST_F(AdmissionTest, SmallCallsDoNotOvertakeLargeOnes) {
  Admission admission = Make();
  budget_.SetReleaseListener([&] { admission.Pump(); });
  auto held = *budget_.Reserve(50, "half");
  const auto large = Wait(admission, "a", Share(100), 80, "large");
  const auto small = Wait(admission, "b", Share(100), 10, "small");
  EXPECT_EQ(admission.waiting(), 2);
  EXPECT_EQ(Told(), Names());
  held = MemoryBudget::Reservation();
  EXPECT_EQ(Told(), (Names{"large", "small"}));
  granted_.clear();
}

TEST_F(AdmissionTest, AShareThatIsUsedUpHoldsUpNobodyElse) {
  Admission admission = Make();
  budget_.SetReleaseListener([&] { admission.Pump(); });
  const auto a = Share(50), b = Share(50);
  auto held = *a->Reserve(50, "the whole share");
  const auto a1 = Wait(admission, "a", a, 40, "a1");
  const auto b1 = Wait(admission, "b", b, 40, "b1");
  EXPECT_EQ(Told(), (Names{"b1"}));
  held = MemoryBudget::Reservation();
  EXPECT_EQ(Told(), (Names{"b1", "a1"}));
  granted_.clear();
}

TEST_F(AdmissionTest, LeavesTheHeadroomFree) {
  Admission admission = Make({.headroom_bytes = 10});
  budget_.SetReleaseListener([&] { admission.Pump(); });
  auto held = *budget_.Reserve(5, "something");
  const auto call = Wait(admission, "a", Share(100), 90, "call");
  EXPECT_EQ(Told(), Names());
  held = MemoryBudget::Reservation();
  EXPECT_EQ(Told(), (Names{"call"}));
  granted_.clear();
}

TEST_F(AdmissionTest, RefusesWithTheNumberBeforeTheDeadline) {
  Admission admission = Make();
  auto held = *budget_.Reserve(90, "most");
  const auto share = Share(100);
  const auto call =
      Wait(admission, "a", share, 60, "call", now_ + absl::Milliseconds(300));
  const auto other = Wait(admission, "a", share, 60, "other");
  EXPECT_EQ(admission.Expire(now_), now_ + absl::Milliseconds(100));
  EXPECT_EQ(Told(), Names());
  EXPECT_EQ(admission.Expire(now_ + absl::Milliseconds(100)), now_ + absl::Seconds(30));
  EXPECT_EQ(Told(), (Names{"refused call"}));
  EXPECT_TRUE(absl::IsResourceExhausted(last_)) << last_;
  EXPECT_EQ(
      last_.message(),
      "60 bytes of memory did not come free within 100ms (--max-wait); 10 of the 100 that the "
      "caller may hold are free (--caller-memory, --memory)");
  EXPECT_EQ(admission.waiting(), 1);
}

TEST_F(AdmissionTest, RefusesWhereTooManyWait) {
  Admission admission = Make({.max_waiting = 1});
  auto held = *budget_.Reserve(90, "most");
  const auto first = Wait(admission, "a", Share(100), 60, "first");
  const auto second = Wait(admission, "b", Share(100), 60, "second");
  EXPECT_EQ(Told(), (Names{"refused second"}));
  EXPECT_EQ(admission.waiting(), 1);
}

TEST_F(AdmissionTest, APlaceThatIsGivenUpIsGrantedNothing) {
  Admission admission = Make();
  budget_.SetReleaseListener([&] { admission.Pump(); });
  auto held = *budget_.Reserve(100, "everything");
  const auto share = Share(100);
  auto first = Wait(admission, "a", share, 60, "first");
  const auto second = Wait(admission, "a", share, 60, "second");
  first.reset();
  held = MemoryBudget::Reservation();
  EXPECT_EQ(Told(), (Names{"second"}));
  granted_.clear();
}

// The answer is on its way when the call ends, and when its share has nobody else.
TEST_F(AdmissionTest, AnAnswerThatComesTooLateGivesItsBytesBack) {
  Admission admission = Make();
  budget_.SetReleaseListener([&] { admission.Pump(); });
  const auto share = Share(100);
  auto call = Wait(admission, "a", share, 60, "call");
  EXPECT_EQ(budget_.used_bytes(), 60);
  call.reset();
  EXPECT_EQ(Told(), (Names{"call"}));
  granted_.clear();
  EXPECT_EQ(budget_.used_bytes(), 0);
  call = Wait(admission, "a", Share(100), 60, "call");
  call.reset();
  posted_.clear();  // nobody listens any more
  EXPECT_EQ(budget_.used_bytes(), 0);
}

}  // namespace
}  // namespace quantd
