#ifndef QUANTD_CLIENT_RETRY_H_
#define QUANTD_CLIENT_RETRY_H_

#include <grpcpp/client_context.h>
#include <grpcpp/support/status.h>

#include <cstdint>
#include <optional>
#include <random>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/types.h"
#include "quantd/v1/quantization.pb.h"

namespace quantd {

// Returns the gRPC status as ours; codes keep their number.
absl::Status FromGrpc(const grpc::Status& status);
// Likewise, of a call that has ended, with the server's hint when to come again (status_detail.h).
absl::Status StatusOf(const grpc::Status& status, const grpc::ClientContext& context);
// Likewise, of one tensor of a stream.
absl::Status StatusOf(const v1::TensorError& error);

// Sets the deadline that `context`'s call ends by; InfiniteFuture is none.
void SetDeadline(absl::Time deadline, grpc::ClientContext& context);

// When to try again what has failed. Two things are worth it: kUnavailable, the server that is not
// there, some times with pauses that double up to a second; and whatever comes with a hint of the
// server, which is crowded, for as long as the options say and not before the hint does. Pauses
// have jitter, so that those who failed together do not come again together. Has no clock. Not
// thread-safe.
class RetrySchedule {
 public:
  RetrySchedule(const CallOptions& options, uint64_t seed) : options_(options), dice_(seed) {}

  static bool IsWorthIt(const absl::Status& status);
  // Returns how long to wait before what failed at `now`, with such errors, is tried again.
  // Nothing: it is not, since none is worth it, or it would be too late.
  std::optional<absl::Duration> Next(std::span<const absl::Status> errors, absl::Time now);

 private:
  double Between(double low, double high) {
    return std::uniform_real_distribution<double>(low, high)(dice_);
  }

  const CallOptions options_;
  std::mt19937_64 dice_;
  int failures_ = 0;  // that were the server's not being there
  std::optional<absl::Time> crowded_since_;
};

// Sleeps, or until the call is cancelled: what is tried then ends at once.
void Pause(absl::Duration duration, const CallOptions& options);

// Calls `attempt` until there is nothing to try again; it returns the errors of what is to be tried
// next. Sleeps in between.
void Retry(const CallOptions& options, absl::FunctionRef<std::vector<absl::Status>()> attempt);

}  // namespace quantd

#endif  // QUANTD_CLIENT_RETRY_H_
