#ifndef QUANTD_CORE_SESSION_QUANTIZE_SESSION_H_
#define QUANTD_CORE_SESSION_QUANTIZE_SESSION_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "core/exec/piece.h"
#include "core/session/planner.h"
#include "core/session/report.h"
#include "core/session/session_context.h"
#include "core/session/sink.h"
#include "core/session/stripe_session.h"
#include "core/stats/histogram.h"

namespace quantd {

struct QuantizeOptions {
  bool figures = true;
  // From Calibrate: one range for each group, in group order; empty where the session finds them.
  std::vector<Range> ranges;
  std::optional<Range> tensor_range;     // where the layout needs it
  std::optional<Histogram> histogram;    // likewise
  std::vector<float> importance;         // weights: [columns] or [batch, columns]; none: all the same
};

// Quantizes one tensor that arrives in pieces. Payload, parameters and report depend on the values
// and the resolved spec alone, not on the cuts, the executor or the budget.
class QuantizeSession final : public StripeSession {
 public:
  // Reserves plan.resident_bytes. `sink` outlives the session. kResourceExhausted: the budget has no
  // room. kFailedPrecondition: the plan is kTwoPass. kInvalidArgument: ranges, a histogram or weights
  // that do not fit.
  static absl::StatusOr<std::unique_ptr<QuantizeSession>> Create(
      Plan plan, QuantizeOptions options, PayloadSink& sink, const SessionContext& context,
      std::function<void()> on_event = {});
  ~QuantizeSession() override;

  // Hands the next bytes over. Bytes past the tensor's end are
  // kOutOfRange; a value that is not finite under nonfinite=reject is kInvalidArgument, with its
  // coordinates.
  void Push(Piece piece);
  void EndInput() override;
  void FailInput(const absl::Status& status) override;
  void Ready() override;
  SessionWork work() override;

  // Returns the report; the status where that is an error; kFailedPrecondition: not ended.
  absl::StatusOr<EncodingReport> Finish();

  const Plan& plan() const;

 private:
  class Impl;
  explicit QuantizeSession(std::unique_ptr<Impl> impl);
  OrderedJobs& jobs() override;
  std::unique_ptr<Impl> impl_;
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
