#ifndef QUANTD_CLIENT_RUN_CALLS_H_
#define QUANTD_CLIENT_RUN_CALLS_H_

#include <grpcpp/channel.h>

#include <memory>
#include <span>

#include "client/connect.h"
#include "client/stream_region.h"
#include "client/tensor_call.h"
#include "client/types.h"

namespace quantd {

// How streams get to the server.
struct Route {
  std::shared_ptr<grpc::Channel> channel;
  RegionPool* regions = nullptr;  // null: no shared memory; outlives the calls
  Transport transport = Transport::kAuto;
};

// Brings all calls to their end over streams of `method`; what came of each is its status(). Those
// that fail with what may pass are made again (retry.h). Blocks.
void RunCalls(const Route& route, const StreamMethod& method, std::span<TensorCall* const> calls,
              const CallOptions& options);

}  // namespace quantd

#endif  // QUANTD_CLIENT_RUN_CALLS_H_
