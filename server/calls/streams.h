#ifndef QUANTD_SERVER_CALLS_STREAMS_H_
#define QUANTD_SERVER_CALLS_STREAMS_H_

#include <memory>

#include "core/exec/cancel_token.h"
#include "server/calls/call.h"
#include "server/service_context.h"

// What each streaming call does with its frames. All arguments outlive the handler.
namespace quantd {

std::unique_ptr<FrameHandler> MakeQuantizeStream(CallContext& context, FrameOutbox& outbox,
                                                 const CancelToken& cancel);
std::unique_ptr<FrameHandler> MakeDequantizeStream(CallContext& context, FrameOutbox& outbox,
                                                   const CancelToken& cancel);
// Sends one frame, the response.
std::unique_ptr<FrameHandler> MakeCalibrateStream(CallContext& context, FrameOutbox& outbox,
                                                  const CancelToken& cancel);

}  // namespace quantd

#endif  // QUANTD_SERVER_CALLS_STREAMS_H_
