#include "client/retry.h"

#include <google/protobuf/duration.pb.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "core/base/status_detail.h"

namespace quantd {
namespace {

absl::Status Crowded(absl::Duration hint) {
  return WithRetryAfter(absl::ResourceExhaustedError("full"), hint);
}

// Returns how long a server may be away until the last try, which comes at the end of that.
absl::Duration LastTry(uint64_t seed, const CallOptions& options = {}) {
  RetrySchedule schedule(options, seed);
  const std::vector<absl::Status> errors = {absl::UnavailableError("away")};
  absl::Duration passed;
  while (const auto pause = schedule.Next(errors, absl::UnixEpoch() + passed)) passed += *pause;
  return passed;
}

TEST(RetryTest, AServerMayBeAwayForThreeSecondsWhateverTheJitter) {
  std::set<absl::Duration> all;
  for (uint64_t seed = 0; seed < 1000; ++seed) {
    const absl::Duration last = LastTry(seed);
    EXPECT_GE(last, absl::Seconds(4)) << seed;
    EXPECT_LE(last, absl::Seconds(7)) << seed;
    all.insert(last);
  }
  EXPECT_GT(all.size(), 900u);  // they do not come together
}

TEST(RetryTest, TriesAsOftenAsItMayAndNotBeyondTheDeadline) {
  CallOptions options;
  options.max_attempts = 1;
  EXPECT_EQ(LastTry(0, options), absl::ZeroDuration());
  options.max_attempts = 100;
  options.deadline = absl::UnixEpoch() + absl::Seconds(10);
  EXPECT_LT(LastTry(0, options), absl::Seconds(10));
  EXPECT_GT(LastTry(0, options), absl::Seconds(8));
}

TEST(RetryTest, ComesAgainToACrowdedServerWhenItSays) {
  CallOptions options;
  options.max_attempts = 1;
  RetrySchedule schedule(options, 3);
  const std::vector<absl::Status> errors = {Crowded(absl::Seconds(2)), Crowded(absl::Seconds(1))};
  absl::Time now = absl::UnixEpoch();
  int tries = 0;
  while (const auto pause = schedule.Next(errors, now)) {
    EXPECT_GE(*pause, absl::Seconds(2));
    EXPECT_LE(*pause, absl::Seconds(4));
    now += *pause;
    ++tries;
  }
  EXPECT_GE(now, absl::UnixEpoch() + options.crowd_patience);
  EXPECT_GE(tries, 30);
}

TEST(RetryTest, OtherErrorsAreNotWorthIt) {
  EXPECT_FALSE(RetrySchedule::IsWorthIt(absl::OkStatus()));
  EXPECT_FALSE(RetrySchedule::IsWorthIt(absl::ResourceExhaustedError("disk full")));
  EXPECT_FALSE(RetrySchedule::IsWorthIt(absl::DeadlineExceededError("late")));
  RetrySchedule schedule({}, 0);
  EXPECT_FALSE(schedule.Next({}, absl::UnixEpoch()).has_value());
  const std::vector<absl::Status> errors = {absl::InvalidArgumentError("no")};
  EXPECT_FALSE(schedule.Next(errors, absl::UnixEpoch()).has_value());
}

v1::TensorError ErrorWith(const std::string& type, const std::string& value) {
  v1::TensorError error;
  error.set_code(static_cast<int>(absl::StatusCode::kResourceExhausted));
  error.add_details()->set_type_url("type.googleapis.com/" + type);
  error.mutable_details(0)->set_value(value);
  return error;
}

TEST(RetryTest, ReadsTheHintOfATensorsError) {
  google::protobuf::Duration delay;
  delay.set_seconds(1);
  delay.set_nanos(500'000'000);
  const std::string bytes = delay.SerializeAsString();
  const std::string info = std::string("\x0a") + static_cast<char>(bytes.size()) + bytes;
  EXPECT_EQ(RetryAfterOf(StatusOf(ErrorWith("google.rpc.RetryInfo", info))),
            absl::Milliseconds(1500));
  EXPECT_FALSE(RetryAfterOf(StatusOf(ErrorWith("google.rpc.ErrorInfo", info))).has_value());
  for (const std::string& bad : {std::string(), info + "x", info.substr(0, 3), std::string("\x0a"),
                                 std::string("\x0a\xff\xff"), std::string("\x0a\x01\x08")}) {
    EXPECT_FALSE(RetryAfterOf(StatusOf(ErrorWith("google.rpc.RetryInfo", bad))).has_value());
  }
}

TEST(RetryTest, AnAbsurdHintIsNone) {
  for (const int64_t seconds : {int64_t{-1}, int64_t{3600}, INT64_MAX}) {
    google::protobuf::Duration delay;
    delay.set_seconds(seconds);
    const std::string bytes = delay.SerializeAsString();
    const std::string info = std::string("\x0a") + static_cast<char>(bytes.size()) + bytes;
    EXPECT_FALSE(RetryAfterOf(StatusOf(ErrorWith("google.rpc.RetryInfo", info))).has_value());
  }
}

}  // namespace
}  // namespace quantd
