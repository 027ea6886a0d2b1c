#ifndef QUANTD_SERVER_CALLS_GRPC_STATUS_H_
#define QUANTD_SERVER_CALLS_GRPC_STATUS_H_

#include <grpcpp/support/status.h>

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "quantd/v1/quantization.pb.h"

// The one place that turns a status into what peers get. The code keeps its number, the message its
// text; what core/base/status_detail.h has attached becomes messages of google.rpc, of which every
// error has an ErrorInfo. Details that would not fit into the trailers are left out.
namespace quantd {

// Returns `status` as gRPC sends it, with a google.rpc.Status.
grpc::Status ToGrpc(const absl::Status& status);

// Returns the trailer that tells gRPC clients when the same call may succeed.
std::pair<std::string, std::string> RetryTrailer(absl::Duration delay);

// Returns `status`, which is not OK, as the error of one tensor.
v1::TensorError ToTensorError(const absl::Status& status);

}  // namespace quantd

#endif  // QUANTD_SERVER_CALLS_GRPC_STATUS_H_
