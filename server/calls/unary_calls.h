#ifndef QUANTD_SERVER_CALLS_UNARY_CALLS_H_
#define QUANTD_SERVER_CALLS_UNARY_CALLS_H_

#include <optional>

#include "absl/status/status.h"
#include "core/exec/cancel_token.h"
#include "quantd/v1/quantization.pb.h"
#include "server/observe/metrics.h"
#include "server/service_context.h"

// The unary calls: each fills `response` from `request`, and says in `outcome` what became of its
// tensor. Thread-safe.
namespace quantd {

using UnaryOutcome =
    std::optional<TensorOutcome>;  // nothing: the call is not about a tensor's values

// kResourceExhausted: the response would be larger than a unary one may be; or the memory is not
// free, and then ShortageOf says how much the whole call needs.
absl::Status Quantize(CallContext& context, const v1::QuantizeRequest& request,
                      v1::QuantizeResponse& response, const CancelToken& cancel,
                      UnaryOutcome& outcome);
absl::Status Dequantize(CallContext& context, const v1::DequantizeRequest& request,
                        v1::DequantizeResponse& response, const CancelToken& cancel,
                        UnaryOutcome& outcome);

absl::Status PlanTensor(CallContext& context, const v1::PlanRequest& request,
                        v1::PlanResponse& response, const CancelToken& cancel,
                        UnaryOutcome& outcome);
// kInvalidArgument: a page size or token that is not ours.
absl::Status ListSchemes(CallContext& context, const v1::ListSchemesRequest& request,
                         v1::ListSchemesResponse& response, const CancelToken& cancel,
                         UnaryOutcome& outcome);
absl::Status GetServerInfo(CallContext& context, const v1::GetServerInfoRequest& request,
                           v1::GetServerInfoResponse& response, const CancelToken& cancel,
                           UnaryOutcome& outcome);

}  // namespace quantd

#endif  // QUANTD_SERVER_CALLS_UNARY_CALLS_H_
