#ifndef QUANTD_SERVER_CALLS_REQUESTS_H_
#define QUANTD_SERVER_CALLS_REQUESTS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/session/calibration.h"
#include "core/session/planner.h"
#include "core/session/quantize_session.h"
#include "quantd/v1/quantization.pb.h"
#include "server/calls/payload_frames.h"
#include "server/calls/tensor_stream.h"
#include "server/observe/metrics.h"
#include "server/service_context.h"

// Heads of requests, checked and planned. Errors: those of FromProto and MakePlan.
namespace quantd {

// Plans within the limits; where the spec is unknown, bad, or bad for the tensor, the error says
// that it is the field `spec`.
absl::StatusOr<Plan> PlanFor(const QuantSpec& spec, const TensorDesc& tensor,
                             const ServiceContext& context, PlanInputs inputs);

struct QuantizeHead {
  Plan plan;
  QuantizeOptions options;
  ChunkOptions chunks;
};
absl::StatusOr<QuantizeHead> ReadHead(const v1::QuantizeStart& start,
                                      const ServiceContext& context);

struct DequantizeHead {
  Plan plan;
  DType output_dtype;
  int64_t output_bytes;  // size of the values
  ChunkOptions chunks;
};
absl::StatusOr<DequantizeHead> ReadHead(const v1::DequantizeStart& start,
                                        const ServiceContext& context);

struct CalibrateHead {
  Plan plan;
  CalibrationOptions options;
  std::vector<CalibrationState> merge;
};
absl::StatusOr<CalibrateHead> ReadHead(const v1::CalibrateStart& start,
                                       const ServiceContext& context);

// Parses `bytes`; kInvalidArgument that names `what` where they are no such message.
absl::Status ParseMessage(absl::string_view bytes, absl::string_view what,
                          google::protobuf::MessageLite& message);

// Answers to the heads.
v1::QuantizeStarted StartedMessage(const Plan& plan);
v1::DequantizeStarted StartedMessage(const DequantizeHead& head);

// Returns the planes of the packed form as they come in.
std::vector<IncomingPlane> IncomingPlanes(const Plan& plan);

// Returns what metrics count of a session so far; AddReport adds what its good end has shown.
TensorOutcome OutcomeOf(QuantizeSession& session);
void AddReport(const Plan& plan, const EncodingReport& report, TensorOutcome& outcome);

// Returns the place of the plane called `name`; kNotFound lists those that there are.
absl::StatusOr<int> FindPlane(const std::vector<IncomingPlane>& planes, absl::string_view name);


// CountChunk, where `values` is the only plane; kNotFound: the chunk is of another one.
absl::Status CountValues(const ReceivedChunk& chunk, IncomingPlane& values);

}  // namespace quantd

#endif  // QUANTD_SERVER_CALLS_REQUESTS_H_
