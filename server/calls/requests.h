#ifndef QUANTD_SERVER_CALLS_REQUESTS_H_
#define QUANTD_SERVER_CALLS_REQUESTS_H_

#include <grpcpp/support/byte_buffer.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
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
// Likewise, of a unary call's frame.
absl::Status ParseRequest(grpc::ByteBuffer frame, google::protobuf::MessageLite& request);
// kResourceExhausted, with what to do: a message of `rpc` that is larger than messages may be.
absl::Status CheckMessageSize(absl::string_view rpc, size_t message_bytes, int64_t max_bytes);
// Returns what ends a unary call whose peer has closed it without a request: the code that gRPC has
// for another number of requests than the method takes (its doc/statuscodes.md).
absl::Status NoRequestError();

// Answers to the heads, and parts of answers.
v1::QuantizeStarted StartedMessage(const Plan& plan);
v1::DequantizeStarted StartedMessage(const DequantizeHead& head);
google::protobuf::Duration DurationMessage(std::chrono::nanoseconds time);
std::vector<PayloadFrames::PlaneSize> PlaneSizes(const Plan& plan);
std::span<std::byte> WritableBytes(std::string& bytes);

// What a unary call and its session hold. kResourceExhausted: the response would be larger than a
// unary one may be.
absl::StatusOr<int64_t> UnaryBytes(const ServiceContext& context, absl::string_view method,
                                   int64_t input_bytes, int64_t output_bytes,
                                   int64_t session_bytes);

}  // namespace quantd

#endif  // QUANTD_SERVER_CALLS_REQUESTS_H_
