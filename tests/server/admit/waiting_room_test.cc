#include "server/admit/waiting_room.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <iterator>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/base/status_detail.h"

namespace quantd {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kMiB = int64_t{1} << 20;

TEST(WaitingRoomSizeTest, FollowsFromMaxWaitingWithinTheMemory) {
  EXPECT_EQ(WaitingRoom::BytesFor(64 * kMiB, 1024), 32 * kMiB);  // not more than half
  EXPECT_EQ(WaitingRoom::LengthFor(64 * kMiB, 1024), 102);
  EXPECT_EQ(WaitingRoom::BytesFor(64 * kMiB, 80), 25 * kMiB);
  EXPECT_EQ(WaitingRoom::LengthFor(64 * kMiB, 80), 80);
  EXPECT_EQ(WaitingRoom::BytesFor(64 * kMiB, 0), 16 * kMiB);  // those who need not wait come in too
  EXPECT_EQ(WaitingRoom::LengthFor(64 * kMiB, 0), 0);
  EXPECT_EQ(WaitingRoom::LengthFor(8192 * kMiB, 1024), 1024);
}

// A room of 12 places of one byte, and who is in it.
class WaitingRoomTest : public ::testing::Test {
 protected:
  absl::Status Enter(const std::string& caller) {
    absl::StatusOr<WaitingRoom::Place> place = room_.Enter(caller, 1, "a stream", now_);
    if (place.ok()) places_[caller].push_back(*std::move(place));
    return place.status();
  }
  int EnterAll(const std::string& caller, int count) {
    int entered = 0;
    for (int i = 0; i < count; ++i) entered += Enter(caller).ok() ? 1 : 0;
    return entered;
  }
  bool Leave(const std::string& caller) {
    if (!room_.MustLeave(caller, now_)) return false;
    places_[caller].pop_back();
    return true;
  }

  MemoryBudget memory_{100};
  WaitingRoom room_{memory_, 12};
  absl::Time now_ = absl::UnixEpoch();
  std::map<std::string, std::vector<WaitingRoom::Place>> places_;
};

TEST_F(WaitingRoomTest, ACallerAloneHasAllOfIt) {
  EXPECT_EQ(EnterAll("a", 20), 12);
  EXPECT_TRUE(room_.crowded());
  EXPECT_FALSE(Leave("a"));
  const absl::Status refusal = Enter("a");
  EXPECT_TRUE(absl::IsResourceExhausted(refusal)) << refusal;
  EXPECT_TRUE(RetryAfterOf(refusal).has_value());
  EXPECT_THAT(std::string(refusal.message()), HasSubstr("--max-waiting"));
  EXPECT_EQ(memory_.used_bytes(), 12);
  places_.clear();
  EXPECT_EQ(memory_.used_bytes(), 0);
  EXPECT_FALSE(room_.crowded());
}

TEST_F(WaitingRoomTest, WhoHasMoreThanItsShareMakesPlaceForOthers) {
  EXPECT_EQ(EnterAll("a", 12), 12);
  EXPECT_FALSE(Enter("b").ok());
  EXPECT_TRUE(Leave("a"));
  EXPECT_FALSE(Leave("a"));      // one for each that has found none
  EXPECT_FALSE(Enter("a").ok());  // the place is for b
  EXPECT_TRUE(Enter("b").ok());
  for (int i = 1; i < 6; ++i) {
    EXPECT_FALSE(Enter("b").ok());
    EXPECT_TRUE(Leave("a"));
    EXPECT_TRUE(Enter("b").ok());
  }
  EXPECT_FALSE(Enter("b").ok());  // who has half of it
  EXPECT_FALSE(Leave("a"));
}

TEST_F(WaitingRoomTest, SharesAreOfAllWhoWantOne) {
  EXPECT_EQ(EnterAll("a", 6), 6);
  EXPECT_EQ(EnterAll("b", 6), 6);
  EXPECT_FALSE(Enter("c").ok());
  EXPECT_TRUE(Leave("b"));  // shares are 4 now
  EXPECT_FALSE(Enter("a").ok());
  EXPECT_FALSE(Enter("b").ok());
  EXPECT_TRUE(Enter("c").ok());
}

TEST_F(WaitingRoomTest, WhoDoesNotComeAgainIsForgotten) {
  EXPECT_EQ(EnterAll("a", 12), 12);
  EXPECT_FALSE(Enter("b").ok());
  now_ += absl::Seconds(5);
  EXPECT_FALSE(Leave("a"));
  places_["a"].pop_back();
  EXPECT_TRUE(Enter("a").ok());
}

TEST_F(WaitingRoomTest, MemoryThatIsInUseElsewhereIsNotIt) {
  const auto held = memory_.Reserve(95, "a tensor");
  EXPECT_EQ(EnterAll("a", 12), 5);
  EXPECT_FALSE(Enter("b").ok());
  EXPECT_TRUE(Leave("a"));
  EXPECT_TRUE(Enter("b").ok());
}

// The rule as one would write it down, walking all demands each time.
class PlainRoom {
 public:
  bool Enter(const std::string& caller, absl::Time now) {
    Forget(now);
    const bool is_over = Held(caller) + 1 > Share(caller);
    if (is_over && !demands_.empty()) return false;
    if (used_ == kPlaces) {
      if (!is_over) demands_[caller] = {now + absl::Seconds(5), false};
      return false;
    }
    ++used_;
    ++held_[caller];
    demands_.erase(caller);
    return true;
  }
  bool MustLeave(const std::string& caller, absl::Time now) {
    Forget(now);
    if (Held(caller) <= Share(caller)) return false;
    for (auto& [demander, demand] : demands_) {
      if (!std::exchange(demand.second, true)) return true;
    }
    return false;
  }
  void Leave(const std::string& caller) {
    --used_;
    if (--held_[caller] == 0) held_.erase(caller);
  }

 private:
  static constexpr int64_t kPlaces = 12;
  int64_t Held(const std::string& caller) { return held_.contains(caller) ? held_[caller] : 0; }
  int64_t Share(const std::string& caller) {
    std::set<std::string> callers = {caller};
    for (const auto& [holder, count] : held_) callers.insert(holder);
    for (const auto& [demander, demand] : demands_) callers.insert(demander);
    return kPlaces / std::ssize(callers);
  }
  void Forget(absl::Time now) {
    std::erase_if(demands_, [now](const auto& entry) { return entry.second.first <= now; });
  }

  int64_t used_ = 0;
  std::map<std::string, int64_t> held_;
  std::map<std::string, std::pair<absl::Time, bool>> demands_;  // until when, answered
};

TEST_F(WaitingRoomTest, IsThePlainRuleWhateverComes) {
  PlainRoom plain;
  std::mt19937 rng(20240611);
  int entered = 0, refused = 0, left = 0;
  for (int i = 0; i < 50000; ++i) {
    const std::string caller(1, static_cast<char>('a' + rng() % 7));
    switch (rng() % 8) {
      case 0:  // a place is given back
        if (places_[caller].empty()) break;
        places_[caller].pop_back();
        plain.Leave(caller);
        break;
      case 1: {
        const bool must_leave = plain.MustLeave(caller, now_);
        ASSERT_EQ(room_.MustLeave(caller, now_), must_leave) << i;
        if (!must_leave) break;
        ++left;
        places_[caller].pop_back();
        plain.Leave(caller);
        break;
      }
      case 2:
        now_ += absl::Milliseconds(rng() % 2000);
        break;
      default: {
        const bool enters = plain.Enter(caller, now_);
        ASSERT_EQ(Enter(caller).ok(), enters) << i;
        ++(enters ? entered : refused);
      }
    }
  }
  EXPECT_GT(entered, 1000);
  EXPECT_GT(refused, 1000);
  EXPECT_GT(left, 100);
}

}  // namespace
}  // namespace quantd
