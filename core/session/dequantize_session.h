#ifndef QUANTD_CORE_SESSION_DEQUANTIZE_SESSION_H_
#define QUANTD_CORE_SESSION_DEQUANTIZE_SESSION_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/exec/piece.h"
#include "core/session/planner.h"
#include "core/session/session_context.h"
#include "core/session/sink.h"
#include "core/session/stripe_session.h"

namespace quantd {

// What is said of one dequantized tensor.
struct DecodingReport {
  std::vector<std::string> plane_digests;  // of the planes that came in
  std::string values_digest;               // of the values that went out
  int64_t saturated = 0;  // finite values that the output type does not hold: its largest instead
};

// Turns the planes of one tensor back into values, which are plane 0 of the sink. `plan.resolved`
// tells the scheme and the original tensor.
class DequantizeSession : public StripeSession {
 public:
  // Gives values of `output_dtype` (f64, f32, f16, bf16). `sink` outlives the session. Reserves what
  // it holds: the parameter planes and the stripes in flight. kInvalidArgument: another dtype.
  // kResourceExhausted: no room.
  static absl::StatusOr<std::unique_ptr<DequantizeSession>> Create(
      Plan plan, DType output_dtype, PayloadSink& sink, const SessionContext& context,
      std::function<void()> on_event = {});

  // Hands over the next bytes of plane `plane`. kFailedPrecondition where codes come before the
  // parameters of their stripe, kOutOfRange for bytes past the plane's end, kInvalidArgument for
  // another plane.
  virtual void Push(int plane, Piece piece) = 0;
  // Returns the report; the status where that is an error; kFailedPrecondition: not ended.
  virtual absl::StatusOr<DecodingReport> Finish() = 0;

  virtual const Plan& plan() const = 0;

 protected:
  using StripeSession::StripeSession;
};

// Returns what a session of `plan` that gives values of `output_dtype` holds.
int64_t DequantizeResidentBytes(const Plan& plan, DType output_dtype);

}  // namespace quantd

#endif  // QUANTD_CORE_SESSION_DEQUANTIZE_SESSION_H_
