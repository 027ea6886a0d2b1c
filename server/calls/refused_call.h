#ifndef QUANTD_SERVER_CALLS_REFUSED_CALL_H_
#define QUANTD_SERVER_CALLS_REFUSED_CALL_H_

#include <grpcpp/server_context.h>

#include "absl/status/status.h"
#include "core/base/mutex.h"
#include "server/calls/grpc_status.h"

namespace quantd {

// The reactor of a call that is not served: ends it with an error, and deletes itself. `Reactor` is
// one of gRPC's.
template <typename Reactor>
class Refused final : public Reactor {
 public:
  Refused(const absl::Status& status, grpc::CallbackServerContext& call) {
    MutexLock lock(&mutex_);  // tells ThreadSanitizer what gRPC's own threads do in which order
    AddRetryTrailer(status, call);
    this->Finish(ToGrpc(status));
  }
  void OnDone() override { delete this; }
  ~Refused() override { MutexLock lock(&mutex_); }

 private:
  Mutex mutex_;
};

}  // namespace quantd

#endif  // QUANTD_SERVER_CALLS_REFUSED_CALL_H_
