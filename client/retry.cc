// Entries: RetrySchedule::Next, Retry. Tested by tests/client/retry_test.cc.
#include "client/retry.h"

#include <google/protobuf/duration.pb.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "core/base/status_detail.h"

namespace quantd {
namespace {

constexpr absl::Duration kMaxBackoff = absl::Seconds(1);
constexpr absl::Duration kLeastPause = absl::Milliseconds(10);
// A hint beyond this is none: nobody waits for it.
constexpr absl::Duration kMaxHint = absl::Minutes(10);

absl::Status WithHint(const absl::Status& status, absl::Duration hint) {
  if (status.ok() || hint < absl::ZeroDuration() || hint > kMaxHint) return status;
  return WithRetryAfter(status, hint);
}

// Reads google.rpc.RetryInfo { google.protobuf.Duration retry_delay = 1; } by hand: a program that
// links this library may have that message from elsewhere.
std::optional<absl::Duration> DelayOf(absl::string_view retry_info) {
  constexpr char kDelayTag = 1 << 3 | 2;
  if (retry_info.size() < 2 || retry_info[0] != kDelayTag) return std::nullopt;
  const auto size = static_cast<unsigned char>(retry_info[1]);  // a duration takes few bytes
  google::protobuf::Duration delay;
  const bool is_good = size < 128 && retry_info.size() == size + size_t{2} &&
                       delay.ParseFromArray(retry_info.data() + 2, size);
  if (!is_good) return std::nullopt;
  return absl::Seconds(delay.seconds()) + absl::Nanoseconds(delay.nanos());
}

}  // namespace

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

absl::Status StatusOf(const grpc::Status& status, const grpc::ClientContext& context) {
  const auto& trailers = context.GetServerTrailingMetadata();
  const auto found = trailers.find("grpc-retry-pushback-ms");
  int64_t millis = 0;
  if (found == trailers.end() ||
      !absl::SimpleAtoi(absl::string_view(found->second.data(), found->second.size()), &millis)) {
    return FromGrpc(status);
  }
  return WithHint(FromGrpc(status), absl::Milliseconds(millis));
}

absl::Status StatusOf(const v1::TensorError& error) {
  const absl::Status status(static_cast<absl::StatusCode>(error.code()), error.message());
  for (const auto& detail : error.details()) {
    if (!absl::EndsWith(detail.type_url(), "/google.rpc.RetryInfo")) continue;
    const std::optional<absl::Duration> delay = DelayOf(detail.value());
    if (delay.has_value()) return WithHint(status, *delay);
  }
  return status;
}

void SetDeadline(absl::Time deadline, grpc::ClientContext& context) {
  if (deadline != absl::InfiniteFuture()) context.set_deadline(absl::ToChronoTime(deadline));
}

bool RetrySchedule::IsWorthIt(const absl::Status& status) {
  return absl::IsUnavailable(status) || RetryAfterOf(status).has_value();
}

std::optional<absl::Duration> RetrySchedule::Next(std::span<const absl::Status> errors,
                                                  absl::Time now) {
  bool is_away = false;
  std::optional<absl::Duration> hint;
  for (const absl::Status& error : errors) {
    const std::optional<absl::Duration> own = RetryAfterOf(error);
    if (own.has_value()) {
      hint = std::max(hint.value_or(absl::ZeroDuration()), *own);
    } else {
      is_away = is_away || absl::IsUnavailable(error);
    }
  }
  std::optional<absl::Duration> pause;
  if (hint.has_value()) {
    if (!crowded_since_.has_value()) crowded_since_ = now;
    if (now - *crowded_since_ < options_.crowd_patience) {
      pause = std::max(*hint, kLeastPause) * Between(1, 2);  // a hint of 0 would be a busy loop
    }
  }
  if (is_away && ++failures_ < options_.max_attempts) {
    const absl::Duration backoff =
        std::min(options_.first_backoff * std::exp2(failures_ - 1), kMaxBackoff);
    pause = std::max(pause.value_or(absl::ZeroDuration()), backoff * Between(0.75, 1.25));
  }
  if (!pause.has_value() || now + *pause >= options_.deadline) return std::nullopt;
  return pause;
}

void Pause(absl::Duration duration, const CallOptions& options) {
  if (options.cancellation == nullptr) {
    absl::SleepFor(duration);
  } else {
    options.cancellation->Await(duration);
  }
}

void Retry(const CallOptions& options, absl::FunctionRef<std::vector<absl::Status>()> attempt) {
  RetrySchedule schedule(options, std::random_device()());
  for (;;) {
    const std::vector<absl::Status> errors = attempt();
    const std::optional<absl::Duration> pause = schedule.Next(errors, absl::Now());
    if (!pause.has_value()) return;
    Pause(*pause, options);
  }
}

}  // namespace quantd
