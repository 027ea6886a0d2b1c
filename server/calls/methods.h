#ifndef QUANTD_SERVER_CALLS_METHODS_H_
#define QUANTD_SERVER_CALLS_METHODS_H_

#include <memory>

#include "core/exec/cancel_token.h"
#include "server/calls/call.h"
#include "server/service_context.h"

// What each method does with the frames of a call. All arguments outlive the handler.
namespace quantd {

// Unary: they take one frame and send one.
std::unique_ptr<FrameHandler> MakeQuantize(CallContext& context, FrameOutbox& outbox,
                                           const CancelToken& cancel);
std::unique_ptr<FrameHandler> MakeDequantize(CallContext& context, FrameOutbox& outbox,
                                             const CancelToken& cancel);
std::unique_ptr<FrameHandler> MakePlan(CallContext& context, FrameOutbox& outbox,
                                       const CancelToken& cancel);
std::unique_ptr<FrameHandler> MakeListSchemes(CallContext& context, FrameOutbox& outbox,
                                              const CancelToken& cancel);
std::unique_ptr<FrameHandler> MakeGetServerInfo(CallContext& context, FrameOutbox& outbox,
                                                const CancelToken& cancel);

// Of grpc.health.v1; Watch sends one frame, and another one when the server stops.
std::unique_ptr<FrameHandler> MakeHealthCheck(CallContext& context, FrameOutbox& outbox,
                                              const CancelToken& cancel);
std::unique_ptr<FrameHandler> MakeHealthWatch(CallContext& context, FrameOutbox& outbox,
                                              const CancelToken& cancel);

std::unique_ptr<FrameHandler> MakeQuantizeStream(CallContext& context, FrameOutbox& outbox,
                                                 const CancelToken& cancel);
std::unique_ptr<FrameHandler> MakeDequantizeStream(CallContext& context, FrameOutbox& outbox,
                                                   const CancelToken& cancel);
// Sends one frame, the response.
std::unique_ptr<FrameHandler> MakeCalibrateStream(CallContext& context, FrameOutbox& outbox,
                                                  const CancelToken& cancel);

}  // namespace quantd

#endif  // QUANTD_SERVER_CALLS_METHODS_H_
