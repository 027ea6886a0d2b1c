#include "core/base/status_detail.h"

#include <gtest/gtest.h>

namespace quantd {
namespace {

TEST(StatusDetail, ComesBack) {
  const absl::Status bad = absl::InvalidArgumentError("bad");
  EXPECT_EQ(FieldOf(WithField(bad, "spec.scheme")), "spec.scheme");
  const auto limit = LimitOf(WithLimit(bad, "memory_bytes", int64_t{1} << 40));
  ASSERT_TRUE(limit.has_value());
  EXPECT_EQ(limit->name, "memory_bytes");
  EXPECT_EQ(limit->allowed, int64_t{1} << 40);
  EXPECT_EQ(RetryAfterOf(WithRetryAfter(bad, absl::Seconds(2))), absl::Seconds(2));
  EXPECT_EQ(WithField(bad, "x").message(), "bad");
}

TEST(StatusDetail, IsAbsentUnlessGiven) {
  const absl::Status bad = absl::InvalidArgumentError("bad");
  EXPECT_FALSE(FieldOf(bad).has_value());
  EXPECT_FALSE(LimitOf(bad).has_value());
  EXPECT_FALSE(RetryAfterOf(bad).has_value());
  EXPECT_TRUE(WithField(absl::OkStatus(), "x").ok());
  EXPECT_FALSE(FieldOf(WithField(absl::OkStatus(), "x")).has_value());
}

TEST(StatusDetail, TheInnermostFieldStays) {
  const absl::Status status = WithField(absl::InvalidArgumentError("bad"), "spec.scheme");
  EXPECT_EQ(FieldOf(WithField(status, "spec")), "spec.scheme");
}

}  // namespace
}  // namespace quantd
