#include "core/base/status_macros.h"

#include <memory>
#include <string>
#include <utility>

#include "gtest/gtest.h"

namespace quantd {
namespace {

absl::StatusOr<std::unique_ptr<int>> Boxed(int value) {
  if (value < 0) return absl::OutOfRangeError("value is negative");
  return std::make_unique<int>(value);
}

absl::StatusOr<int> SumOf(int a, int b) {
  QUANTD_ASSIGN_OR_RETURN(std::unique_ptr<int> first, Boxed(a));
  std::unique_ptr<int> second;
  QUANTD_ASSIGN_OR_RETURN(second, Boxed(b));
  return *first + *second;
}

absl::Status Count(const absl::Status& status, int& passed) {
  QUANTD_RETURN_IF_ERROR(status);
  ++passed;
  return absl::OkStatus();
}

TEST(StatusMacrosTest, AssignsMoveOnlyValuesOrReturnsTheError) {
  EXPECT_EQ(*SumOf(1, 2), 3);
  EXPECT_EQ(SumOf(-1, 2).status(), absl::OutOfRangeError("value is negative"));
  EXPECT_EQ(SumOf(1, -2).status(), absl::OutOfRangeError("value is negative"));
}

TEST(StatusMacrosTest, ReturnsTheErrorAtOnce) {
  int passed = 0;
  EXPECT_TRUE(Count(absl::OkStatus(), passed).ok());
  EXPECT_EQ(passed, 1);
  EXPECT_EQ(Count(absl::DataLossError("truncated"), passed), absl::DataLossError("truncated"));
  EXPECT_EQ(passed, 1);
}

}  // namespace
}  // namespace quantd
