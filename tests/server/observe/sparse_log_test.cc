#include "server/observe/sparse_log.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace quantd {
namespace {

class SparseLogTest : public ::testing::Test {
 protected:
  void Add(const std::string& what) { log_.Add(what, now_, write_); }
  void Rest() { log_.Rest(now_, write_); }

  std::vector<std::string> lines_;
  const std::function<void(const std::string&, int64_t)> write_ =
      [this](const std::string& last, int64_t events) {
        lines_.push_back(absl::StrCat(events, " ", last));
      };
  SparseLog log_;
  absl::Time now_ = absl::UnixEpoch();
};

using Lines = std::vector<std::string>;

TEST_F(SparseLogTest, SaysTheFirstAtOnceAndOthersOnceASecond) {
  Add("a");
  EXPECT_EQ(lines_, Lines{"1 a"});
  for (const char* what : {"b", "c", "d"}) Add(what);
  EXPECT_EQ(lines_, Lines{"1 a"});
  now_ += absl::Seconds(1);
  Add("e");
  EXPECT_EQ(lines_, (Lines{"1 a", "4 e"}));
}

TEST_F(SparseLogTest, SaysTheLastOnesOfABurstToo) {
  Add("a");
  Add("b");
  Add("c");
  now_ += absl::Milliseconds(999);
  Rest();
  EXPECT_EQ(lines_, Lines{"1 a"});
  now_ += absl::Milliseconds(1);
  Rest();
  EXPECT_EQ(lines_, (Lines{"1 a", "2 c"}));
  now_ += absl::Seconds(10);
  Rest();
  EXPECT_EQ(lines_, (Lines{"1 a", "2 c"}));
}

TEST_F(SparseLogTest, GoesOnWhereTheClockIsSetBack) {
  Add("a");
  now_ -= absl::Hours(1);
  Add("b");
  EXPECT_EQ(lines_, (Lines{"1 a", "1 b"}));
}

}  // namespace
}  // namespace quantd
