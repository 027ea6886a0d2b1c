#ifndef QUANTD_SERVER_GRPC_STATUS_H_
#define QUANTD_SERVER_GRPC_STATUS_H_

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace quantd {

// Returns `status` as gRPC sends it; the code keeps its number.
grpc::Status ToGrpc(const absl::Status& status);

}  // namespace quantd

#endif  // QUANTD_SERVER_GRPC_STATUS_H_
