#ifndef QUANTD_CORE_SESSION_QUANTIZE_SESSION_H_
#define QUANTD_CORE_SESSION_QUANTIZE_SESSION_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "core/exec/piece.h"
#include "core/session/planner.h"
#include "core/session/quantize_options.h"
#include "core/session/report.h"
#include "core/session/session_context.h"
#include "core/session/sink.h"
#include "core/session/stripe_session.h"

namespace quantd {

// Quantizes one tensor that arrives in pieces. Payload, parameters and report depend on the values
// and the resolved spec alone, not on the cuts, the executor or the budget.
class QuantizeSession : public StripeSession {
 public:
  // Reserves plan.resident_bytes. `sink` outlives the session. kResourceExhausted: the budget has no
  // room. kFailedPrecondition: the plan is kTwoPass. kInvalidArgument: ranges, a histogram or weights
  // that do not fit.
  static absl::StatusOr<std::unique_ptr<QuantizeSession>> Create(
      Plan plan, QuantizeOptions options, PayloadSink& sink, const SessionContext& context,
      std::function<void()> on_event = {});

  // Hands the next bytes over. Bytes past the tensor's end are kOutOfRange; a value that is not finite
  // under nonfinite=reject is kInvalidArgument, with its coordinates.
  virtual void Push(Piece piece) = 0;
  // Returns the report; the status where that is an error; kFailedPrecondition: not ended.
  virtual absl::StatusOr<EncodingReport> Finish() = 0;

  virtual const Plan& plan() const = 0;

 protected:
  using StripeSession::StripeSession;
};

// One tensor in memory, quantized: all planes and the report.
struct QuantizedTensor {
  Plan plan;
  std::vector<std::vector<std::byte>> planes;
  EncodingReport report;
};

// Quantizes a tensor that is in memory as a whole, on this thread and the executor's workers.
absl::StatusOr<QuantizedTensor> QuantizeAll(const QuantSpec& spec, const TensorDesc& tensor,
                                            std::span<const std::byte> values,
                                            const QuantizeOptions& options,
                                            const SessionContext& context);

}  // namespace quantd

#endif  // QUANTD_CORE_SESSION_QUANTIZE_SESSION_H_
