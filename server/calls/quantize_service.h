#ifndef QUANTD_SERVER_CALLS_QUANTIZE_SERVICE_H_
#define QUANTD_SERVER_CALLS_QUANTIZE_SERVICE_H_

#include <memory>

#include "quantd/v1/quantization.grpc.pb.h"
#include "server/service_context.h"

namespace quantd {

// Returns the service that answers all calls of quantd.v1. `context` outlives it and its calls.
// Thread-safe.
std::unique_ptr<grpc::Service> MakeQuantizeService(ServiceContext& context);
// Likewise, of grpc.health.v1. gRPC's own has no bound for its calls, and reads their requests
// before anybody is asked.
std::unique_ptr<grpc::Service> MakeHealthService(ServiceContext& context);

}  // namespace quantd

#endif  // QUANTD_SERVER_CALLS_QUANTIZE_SERVICE_H_
