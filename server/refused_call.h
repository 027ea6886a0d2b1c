#ifndef QUANTD_SERVER_REFUSED_CALL_H_
#define QUANTD_SERVER_REFUSED_CALL_H_

#include <grpcpp/server_context.h>

#include "absl/status/status.h"
#include "server/grpc_status.h"

namespace quantd {

// The reactor of a call that is not served: ends it with an error, and deletes itself. `Reactor` is
// one of gRPC's.
template <typename Reactor>
class Refused final : public Reactor {
 public:
  Refused(const absl::Status& status, grpc::CallbackServerContext& call) {
    AddRetryTrailer(status, call);
    this->Finish(ToGrpc(status));
  }
  void OnDone() override { delete this; }
};

}  // namespace quantd

#endif  // QUANTD_SERVER_REFUSED_CALL_H_
