#include "core/base/checked_math.h"

#include <cstdint>
#include <limits>

#include "gtest/gtest.h"

namespace quantd {
namespace {

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
constexpr int64_t kMin = std::numeric_limits<int64_t>::min();

TEST(CheckedMathTest, GivesResultsThatFit) {
  EXPECT_EQ(*CheckedMul(3, -4), -12);
  EXPECT_EQ(*CheckedMul(0, kMax), 0);
  EXPECT_EQ(*CheckedMul(kMax, 1), kMax);
  EXPECT_EQ(*CheckedMul(int64_t{1} << 31, int64_t{1} << 31), int64_t{1} << 62);
  EXPECT_EQ(*CheckedMul(int64_t{1} << 32, -(int64_t{1} << 31)), kMin);
  EXPECT_EQ(*CheckedAdd(kMax - 1, 1), kMax);
  EXPECT_EQ(*CheckedAdd(kMin, kMax), -1);
}

TEST(CheckedMathTest, NamesBothNumbersOfAnOverflow) {
  const absl::Status product = CheckedMul(int64_t{1} << 32, int64_t{1} << 31).status();
  EXPECT_EQ(product.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(product.message(), "4294967296 x 2147483648 overflows 64 bits");
  EXPECT_FALSE(CheckedMul(kMin, -1).ok());
  const absl::Status sum = CheckedAdd(kMax, 1).status();
  EXPECT_EQ(sum.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(sum.message(), "9223372036854775807 + 1 overflows 64 bits");
  EXPECT_FALSE(CheckedAdd(kMin, -1).ok());
}

TEST(CheckedMathTest, CeilDivDoesNotOverflow) {
  EXPECT_EQ(CeilDiv(0, 7), 0);
  EXPECT_EQ(CeilDiv(1, 7), 1);
  EXPECT_EQ(CeilDiv(7, 7), 1);
  EXPECT_EQ(CeilDiv(8, 7), 2);
  EXPECT_EQ(CeilDiv(kMax, 2), int64_t{1} << 62);
  EXPECT_EQ(CeilDiv(kMax, 1), kMax);
}

TEST(CheckedMathTest, RoundUpGivesTheNextMultiple) {
  EXPECT_EQ(RoundUp(0, 32), 0);
  EXPECT_EQ(RoundUp(1, 32), 32);
  EXPECT_EQ(RoundUp(32, 32), 32);
  EXPECT_EQ(RoundUp(33, 32), 64);
}

}  // namespace
}  // namespace quantd
