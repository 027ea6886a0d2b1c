#ifndef QUANTD_SERVER_CALLS_REACTORS_H_
#define QUANTD_SERVER_CALLS_REACTORS_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "core/base/mutex.h"
#include "core/base/status_detail.h"
#include "server/calls/call.h"
#include "server/calls/grpc_status.h"
#include "server/net/caller.h"
#include "server/service_context.h"

// The shells of gRPC around calls.
namespace quantd {

// Returns what gRPC tells of a call of `caller`.
CallFacts FactsOf(const grpc::CallbackServerContext& call, const Caller& caller,
                  absl::string_view rpc);

// Ends a call by `finish`, with its trailers.
void AddTrailers(const CallTrailers& trailers, grpc::CallbackServerContext& call);

// The reactor of a call that is not served: ends it with an error, and deletes itself. `Reactor` is
// one of gRPC's.
template <typename Reactor>
class Refused final : public Reactor {
 public:
  Refused(const absl::Status& status, grpc::CallbackServerContext& call) {
    MutexLock lock(&mutex_);  // tells ThreadSanitizer what gRPC's own threads do in which order
    if (const auto delay = RetryAfterOf(status)) AddTrailers({RetryTrailer(*delay)}, call);
    this->Finish(ToGrpc(status));
  }
  void OnDone() override { delete this; }
  ~Refused() override { MutexLock lock(&mutex_); }

 private:
  Mutex mutex_;
};

// Returns the reactor of a bidirectional stream, which deletes itself. Callers that may not make
// calls are told so.
grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* ServeBidi(
    ServiceContext& context, grpc::CallbackServerContext& call, absl::string_view rpc,
    const MakeHandler& make_handler);

// Returns the reactor of a client stream, likewise; the last frame that is written is the response.
grpc::ServerReadReactor<grpc::ByteBuffer>* ServeClientStream(ServiceContext& context,
                                                             grpc::CallbackServerContext& call,
                                                             grpc::ByteBuffer* response,
                                                             absl::string_view rpc,
                                                             const MakeHandler& make_handler);

}  // namespace quantd

#endif  // QUANTD_SERVER_CALLS_REACTORS_H_
