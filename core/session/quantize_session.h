#ifndef QUANTD_CORE_SESSION_QUANTIZE_SESSION_H_
#define QUANTD_CORE_SESSION_QUANTIZE_SESSION_H_

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "core/session/planner.h"
#include "core/session/report.h"
#include "core/session/session_context.h"
#include "core/session/sink.h"
#include "core/session/work.h"

namespace quantd {

struct QuantizeOptions {
  bool figures = true;
  // From Calibrate: one range for each group, in group order; empty where the session finds them.
  std::vector<Range> ranges;
  std::optional<Range> tensor_range;  // where the layout needs it
};

// Quantizes one tensor that arrives in pieces. Payload, parameters and report depend on the values
// and the resolved spec alone, not on the cuts, the executor or the budget. Spreads its own work
// over the executor. Not thread-safe.
class QuantizeSession {
 public:
  // Reserves plan.resident_bytes. kResourceExhausted: the budget has no room. kFailedPrecondition:
  // the plan is kTwoPass. kInvalidArgument: the number of ranges is wrong.
  static absl::StatusOr<std::unique_ptr<QuantizeSession>> Create(Plan plan, QuantizeOptions options,
                                                                 const SessionContext& context);
  ~QuantizeSession();

  // Consumes some of `in`, the next bytes of the tensor, and encodes at most one window into
  // `sink`. Call until everything is consumed and the result wants input; after the last byte until
  // `done()`. Never blocks. kOutOfRange: bytes past the tensor's end. kCancelled.
  // kInvalidArgument: a non-finite value under nonfinite=reject, with its coordinates.
  // After an error the session is of no more use.
  absl::StatusOr<StepResult> Step(std::span<const std::byte> in, PayloadSink& sink,
                                  const CancelToken& cancel);

  // True when all output has been given to the sink.
  bool done() const;

  // Returns the report; kDataLoss if input is missing, with the number of bytes.
  absl::StatusOr<EncodingReport> Finish();

  const Plan& plan() const;
  const SessionWork& work() const;

 private:
  class Impl;
  explicit QuantizeSession(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// One tensor in memory, quantized: all planes and the report.
struct QuantizedTensor {
  Plan plan;
  std::vector<std::vector<std::byte>> planes;
  EncodingReport report;
};

// Quantizes a tensor that is in memory as a whole.
absl::StatusOr<QuantizedTensor> QuantizeAll(const QuantSpec& spec, const TensorDesc& tensor,
                                            std::span<const std::byte> values,
                                            const QuantizeOptions& options,
                                            const SessionContext& context);

}  // namespace quantd

#endif  // QUANTD_CORE_SESSION_QUANTIZE_SESSION_H_
