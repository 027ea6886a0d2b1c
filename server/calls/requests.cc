// Entries: ReadHead, of each kind of start message. Tested by tests/server/bad_input_test.cc.
#include "server/calls/requests.h"

#include <google/protobuf/message_lite.h>
#include <google/protobuf/util/time_util.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/checked_math.h"
#include "core/base/status_detail.h"
#include "core/base/status_macros.h"
#include "proto/convert.h"

namespace quantd {

absl::StatusOr<Plan> PlanFor(const QuantSpec& spec, const TensorDesc& tensor,
                             const ServiceContext& context, PlanInputs inputs) {
  inputs.threads = std::max(context.worker_threads, 1);
  absl::StatusOr<Plan> plan =
      MakePlan(spec, tensor, context.limits.session_budget_bytes, inputs);
  if (plan.ok() || absl::IsResourceExhausted(plan.status())) return plan;
  return WithField(plan.status(), IsQuantizable(tensor.dtype) ? "spec" : "tensor.data_type");
}

absl::StatusOr<QuantizeHead> ReadHead(const v1::QuantizeStart& start,
                                      const ServiceContext& context) {
  QuantizeHead head;
  QUANTD_ASSIGN_OR_RETURN(const TensorDesc tensor, FromProto(start.tensor()));
  QUANTD_ASSIGN_OR_RETURN(const QuantSpec spec, FromProto(start.spec()));
  QUANTD_ASSIGN_OR_RETURN(head.chunks,
                          ChunkOptionsOf(start.max_chunk_bytes(), start.max_message_bytes(),
                                         start.omit_crc()));
  head.options.figures = !start.omit_figures();
  CalibratedRanges ranges;
  if (start.has_ranges()) {
    QUANTD_ASSIGN_OR_RETURN(ranges, FromProto(start.ranges()));
  }
  head.options.importance.assign(start.importance().begin(), start.importance().end());
  head.options.codebook.assign(start.codebook().begin(), start.codebook().end());
  PlanInputs inputs;
  inputs.has_ranges = start.has_ranges();
  inputs.importance_elems = start.importance_size();
  inputs.codebook_levels = start.codebook_size();
  QUANTD_ASSIGN_OR_RETURN(head.plan, PlanFor(spec, tensor, context, inputs));
  if (start.has_ranges()) {
    const absl::Status fit = CheckRangesFit(ranges, head.plan);
    if (!fit.ok()) return WithField(fit, "ranges");
    head.options.ranges = std::move(ranges.groups);
    if (start.ranges().has_tensor()) head.options.tensor_range = ranges.tensor;
    head.options.histogram = std::move(ranges.histogram);
  }
  return head;
}

absl::StatusOr<DequantizeHead> ReadHead(const v1::DequantizeStart& start,
                                        const ServiceContext& context) {
  DequantizeHead head;
  QUANTD_ASSIGN_OR_RETURN(TensorDesc tensor, FromProto(start.tensor()));
  QUANTD_ASSIGN_OR_RETURN(const QuantSpec spec, FromProto(start.spec()));
  QUANTD_ASSIGN_OR_RETURN(head.chunks,
                          ChunkOptionsOf(start.max_chunk_bytes(), start.max_message_bytes(),
                                         start.omit_crc()));
  head.output_dtype = DType::kF32;
  if (start.output_data_type() != v1::DATA_TYPE_UNSPECIFIED) {
    QUANTD_ASSIGN_OR_RETURN(head.output_dtype,
                            FromProto(start.output_data_type(), "output_data_type"));
  }
  // Whoever dequantizes has the parameters, so no pass over the values is needed.
  QUANTD_ASSIGN_OR_RETURN(head.plan, PlanFor(spec, tensor, context, {.has_ranges = true}));
  tensor.dtype = head.output_dtype;
  QUANTD_ASSIGN_OR_RETURN(head.output_bytes, SizeBytes(tensor));
  return head;
}

absl::StatusOr<CalibrateHead> ReadHead(const v1::CalibrateStart& start,
                                       const ServiceContext& context) {
  CalibrateHead head;
  QUANTD_ASSIGN_OR_RETURN(const TensorDesc tensor, FromProto(start.tensor()));
  QUANTD_ASSIGN_OR_RETURN(const QuantSpec spec, FromProto(start.spec()));
  QUANTD_ASSIGN_OR_RETURN(head.plan, PlanFor(spec, tensor, context, {}));
  head.options = {.histogram = start.histogram(),
                  .column_moments = start.column_moments(),
                  .gram = start.gram()};
  for (const v1::CalibrationState& state : start.merge()) {
    QUANTD_ASSIGN_OR_RETURN(head.merge.emplace_back(), FromProto(state, "merge"));
  }
  return head;
}

absl::Status ParseMessage(absl::string_view bytes, absl::string_view what,
                          google::protobuf::MessageLite& message) {
  if (message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(what, " is not a well-formed message"));
}

absl::Status ParseRequest(grpc::ByteBuffer frame, google::protobuf::MessageLite& request) {
  if (!frame.Valid()) return absl::OkStatus();  // a message without bytes
  grpc::ProtoBufferReader reader(&frame);
  if (request.ParseFromZeroCopyStream(&reader) && reader.status().ok()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the request is not a well-formed ", request.GetTypeName()));
}

v1::QuantizeStarted StartedMessage(const Plan& plan) {
  v1::QuantizeStarted started;
  *started.mutable_tensor() = ToProto(plan.resolved.tensor);
  *started.mutable_plan() = ToProto(plan);
  return started;
}

v1::DequantizeStarted StartedMessage(const DequantizeHead& head) {
  v1::DequantizeStarted started;
  TensorDesc tensor = head.plan.resolved.tensor;
  tensor.dtype = head.output_dtype;
  *started.mutable_tensor() = ToProto(tensor);
  for (const PlaneDesc& plane : head.plan.resolved.layout.planes) {
    *started.add_planes() = ToProto(plane);
  }
  return started;
}

absl::Status CheckMessageSize(absl::string_view rpc, size_t message_bytes, int64_t max_bytes) {
  if (message_bytes <= static_cast<size_t>(max_bytes)) return absl::OkStatus();
  const auto* const service = v1::QuantizeRequest::descriptor()->file()->service(0);
  const auto* const method = service->FindMethodByName(std::string(rpc));
  std::string way_out;
  if (const std::string stream = absl::StrCat("Streaming", rpc);
      service->FindMethodByName(stream) != nullptr) {
    way_out = absl::StrCat("; use ", stream, ", which takes tensors of any size");
  } else if (method != nullptr && method->client_streaming()) {
    way_out = "; cut the tensor into chunks, each a message of its own";
  }
  return WithLimit(absl::ResourceExhaustedError(
                       absl::StrCat("a message of ", rpc, " has ", message_bytes,
                                    " bytes; at most ", max_bytes, " are allowed (--max-message)",
                                    way_out)),
                   "message_bytes", max_bytes);
}

absl::Status NoRequestError() {
  return absl::UnimplementedError("the call was closed without its request message");
}

google::protobuf::Duration DurationMessage(std::chrono::nanoseconds time) {
  return google::protobuf::util::TimeUtil::NanosecondsToDuration(time.count());
}

std::vector<PayloadFrames::PlaneSize> PlaneSizes(const Plan& plan) {
  std::vector<PayloadFrames::PlaneSize> sizes;
  for (const PlaneDesc& plane : plan.resolved.layout.planes) {
    sizes.push_back({plane.name, plane.size_bytes});
  }
  return sizes;
}

std::span<std::byte> WritableBytes(std::string& bytes) {
  return std::as_writable_bytes(std::span(bytes.data(), bytes.size()));
}

absl::StatusOr<int64_t> UnaryBytes(const ServiceContext& context, absl::string_view method,
                                   int64_t input_bytes, int64_t output_bytes,
                                   int64_t session_bytes) {
  if (output_bytes > context.limits.max_unary_bytes) {
    return WithLimit(absl::ResourceExhaustedError(absl::StrCat(
                         "the response of ", method, " would have ", output_bytes,
                         " bytes; a unary one may have ", context.limits.max_unary_bytes,
                         "; use Streaming", method)),
                     "unary_response_bytes", context.limits.max_unary_bytes);
  }
  // The response lies there twice: as the message, and serialized.
  QUANTD_ASSIGN_OR_RETURN(const int64_t bytes, CheckedAdd(input_bytes, 2 * output_bytes));
  return CheckedAdd(bytes, session_bytes);
}

}  // namespace quantd
