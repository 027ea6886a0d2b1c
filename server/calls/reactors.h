#ifndef QUANTD_SERVER_CALLS_REACTORS_H_
#define QUANTD_SERVER_CALLS_REACTORS_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include "absl/strings/string_view.h"
#include "server/calls/call.h"
#include "server/observe/call_record.h"
#include "server/service_context.h"

// The shell of gRPC around calls.
namespace quantd {

using CallReactor = grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>;

// Returns the reactor of a call of `rpc` whose headers have come, and nothing else of it; it
// deletes itself. Callers that may not make calls are told so.
CallReactor* Serve(ServiceContext& context, grpc::CallbackServerContext& call,
                   absl::string_view rpc, CallKind kind, MakeHandler make_handler);

}  // namespace quantd

#endif  // QUANTD_SERVER_CALLS_REACTORS_H_
