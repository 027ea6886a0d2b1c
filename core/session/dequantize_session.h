#ifndef QUANTD_CORE_SESSION_DEQUANTIZE_SESSION_H_
#define QUANTD_CORE_SESSION_DEQUANTIZE_SESSION_H_

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/session/planner.h"
#include "core/session/session_context.h"
#include "core/session/sink.h"

namespace quantd {

// What is said of one dequantized tensor.
struct DecodingReport {
  std::vector<std::string> plane_digests;  // of the planes that came in
  std::string values_digest;               // of the values that went out
};

// Turns the planes of one tensor back into values. `plan.resolved` tells the scheme and the
// original tensor. Not thread-safe.
class DequantizeSession {
 public:
  // Gives values of `output_dtype` (f64, f32, f16, bf16). Reserves what it holds: the parameter
  // planes and a window. kInvalidArgument: another dtype. kResourceExhausted: no room.
  static absl::StatusOr<std::unique_ptr<DequantizeSession>> Create(Plan plan, DType output_dtype,
                                                                   const SessionContext& context);
  ~DequantizeSession();

  // Consumes some of `in`, the next bytes of plane `plane`, and decodes at most one window into
  // plane 0 of `sink`. Parameters of a window come before its codes (kFailedPrecondition
  // otherwise). kOutOfRange: bytes past the plane's end. kCancelled.
  absl::StatusOr<StepResult> Step(int plane, std::span<const std::byte> in, PayloadSink& sink,
                                  const CancelToken& cancel);

  // Returns how many bytes of plane `plane` have been consumed.
  int64_t consumed_bytes(int plane) const;

  // Returns the report; kDataLoss if bytes of a plane are missing, with their number.
  absl::StatusOr<DecodingReport> Finish();

  const Plan& plan() const;

 private:
  class Impl;
  explicit DequantizeSession(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace quantd

#endif  // QUANTD_CORE_SESSION_DEQUANTIZE_SESSION_H_
