#ifndef QUANTD_SERVER_CALLS_UNARY_CALLS_H_
#define QUANTD_SERVER_CALLS_UNARY_CALLS_H_

#include <optional>

#include "absl/status/status.h"
#include "core/exec/cancel_token.h"
#include "core/exec/memory_budget.h"
#include "quantd/v1/quantization.pb.h"
#include "server/observe/metrics.h"
#include "server/service_context.h"

// The unary calls: each fills `response` from `request`. Thread-safe.
namespace quantd {

// What a unary call has beside its request.
struct UnaryState {
  const CancelToken& cancel;
  MemoryBudget::Reservation memory;      // that it waited for; none at first
  std::optional<TensorOutcome> outcome;  // of its tensor; nothing: it is not about one's values
};

// Takes all that it holds out of `call.memory` if that has been granted, or else from the caller's
// share. kResourceExhausted: the response would be larger than a unary one may be; or the memory is
// not free, and then ShortageOf says how much is to be granted.
absl::Status Quantize(CallContext& context, const v1::QuantizeRequest& request,
                      v1::QuantizeResponse& response, UnaryState& call);
absl::Status Dequantize(CallContext& context, const v1::DequantizeRequest& request,
                        v1::DequantizeResponse& response, UnaryState& call);

absl::Status PlanTensor(CallContext& context, const v1::PlanRequest& request,
                        v1::PlanResponse& response, UnaryState& call);
// kInvalidArgument: a page size or token that is not ours.
absl::Status ListSchemes(CallContext& context, const v1::ListSchemesRequest& request,
                         v1::ListSchemesResponse& response, UnaryState& call);
absl::Status GetServerInfo(CallContext& context, const v1::GetServerInfoRequest& request,
                           v1::GetServerInfoResponse& response, UnaryState& call);

}  // namespace quantd

#endif  // QUANTD_SERVER_CALLS_UNARY_CALLS_H_
