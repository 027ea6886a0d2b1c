#include "server/admit/waiting_room.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <string>
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

}  // namespace
}  // namespace quantd
