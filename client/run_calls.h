#ifndef QUANTD_CLIENT_RUN_CALLS_H_
#define QUANTD_CLIENT_RUN_CALLS_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/connect.h"
#include "client/stream_region.h"
#include "client/tensor_call.h"
#include "client/types.h"

namespace quantd {

// Returns the gRPC status as ours; codes keep their number.
absl::Status FromGrpc(const grpc::Status& status);

// Sets the deadline that `context`'s call ends by; InfiniteFuture is none.
void SetDeadline(absl::Time deadline, grpc::ClientContext& context);

// Sleeps; false: the call was cancelled meanwhile, or before.
bool Pause(absl::Duration duration, const CallOptions& options);

// Returns what a call comes to that was cancelled while nothing was on the way.
absl::Status CancelledByCaller();

// How streams get to the server.
struct Route {
  std::shared_ptr<grpc::Channel> channel;
  RegionPool* regions = nullptr;  // null: no shared memory; outlives the calls
  Transport transport = Transport::kAuto;
};

// Brings all calls to their end over streams of `method`; what came of each is its status(). Those
// that fail with kUnavailable are made again, as the options say. Blocks.
void RunCalls(const Route& route, const StreamMethod& method, std::span<TensorCall* const> calls,
              const CallOptions& options);

}  // namespace quantd

#endif  // QUANTD_CLIENT_RUN_CALLS_H_
