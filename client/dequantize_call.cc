#include "client/dequantize_call.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/wire.h"
#include "core/base/status_macros.h"
#include "proto/convert.h"

namespace quantd {

DequantizeCall::DequantizeCall(DequantizeJob job, const CallOptions& options)
    : job_(std::move(job)), options_(options), receiver_(job_.sink) {
  for (size_t i = 1; i <= job_.planes.size(); ++i) {
    const PlaneInput& plane = job_.planes[i % job_.planes.size()];
    senders_.emplace_back(plane.name, plane.source, &lease_);
  }
}

grpc::ByteBuffer DequantizeCall::StartFrame(uint64_t tensor_id, const StreamRegion* region) const {
  v1::StreamingDequantizeRequest request;
  request.set_tensor_id(tensor_id);
  v1::DequantizeStart& start = *request.mutable_start();
  *start.mutable_tensor() = ToProto(job_.tensor);
  *start.mutable_spec() = ToProto(job_.spec);
  start.set_output_data_type(ToProto(job_.output_dtype));
  start.set_omit_crc(!options_.checksums);
  start.set_max_chunk_bytes(ResponseChunkBytes(options_, region));
  if (region != nullptr) *start.mutable_output_slots() = region->output_slots();
  return SerializeFrame(request);
}

absl::StatusOr<std::optional<grpc::ByteBuffer>> DequantizeCall::NextRequest(uint64_t tensor_id,
                                                                            FrameSize& frame_size,
                                                                            StreamRegion* region) {
  if (!start_sent_) {
    start_sent_ = true;
    return StartFrame(tensor_id, region);
  }
  for (; sending_ < senders_.size(); ++sending_) {
    QUANTD_ASSIGN_OR_RETURN(
        std::optional<grpc::ByteBuffer> frame,
        senders_[sending_].Next(kRequestFrame, tensor_id, frame_size, options_.checksums, region));
    if (frame.has_value()) return frame;
  }
  return std::nullopt;
}

absl::StatusOr<bool> DequantizeCall::TakeResponse(const ParsedFrame& frame) {
  switch (frame.kind) {
    case FrameKind::kStart: {
      QUANTD_ASSIGN_OR_RETURN(const auto started, ParseMessage<v1::DequantizeStarted>(frame));
      QUANTD_RETURN_IF_ERROR(TakeStarted(started));
      return false;
    }
    case FrameKind::kChunk:
      QUANTD_RETURN_IF_ERROR(receiver_.Take(frame));
      return false;
    case FrameKind::kEnd: {
      QUANTD_ASSIGN_OR_RETURN(const auto finished, ParseMessage<v1::DequantizeFinished>(frame));
      QUANTD_RETURN_IF_ERROR(TakeFinished(finished));
      complete_ = true;
      return true;
    }
    case FrameKind::kNone:
    case FrameKind::kError:
    case FrameKind::kReleased:
      break;
  }
  return absl::DataLossError("the server sent a frame of no known kind");
}

absl::Status DequantizeCall::TakeStarted(const v1::DequantizeStarted& started) {
  TensorDesc values = job_.tensor;
  values.dtype = job_.output_dtype;
  QUANTD_RETURN_IF_ERROR(CheckEcho(started.tensor(), values));
  const auto& planes = started.planes();
  const bool same = std::equal(planes.begin(), planes.end(), job_.planes.begin(), job_.planes.end(),
                               [](const v1::Plane& expected, const PlaneInput& given) {
                                 return expected.name() == given.name &&
                                        expected.size_bytes() == given.source->size_bytes();
                               });
  if (!same) {
    std::string text;
    for (const v1::Plane& plane : planes) {
      absl::StrAppend(&text, " ", plane.name(), " (", plane.size_bytes(), " bytes)");
    }
    return absl::InvalidArgumentError(
        absl::StrCat("spec ", FormatSpec(job_.spec), " has other planes than were given:", text));
  }
  QUANTD_ASSIGN_OR_RETURN(const int64_t size_bytes, SizeBytes(values));
  return receiver_.Begin({PlaneDesc{
      .name = "values", .dtype = values.dtype, .shape = values.shape, .size_bytes = size_bytes}});
}

absl::Status DequantizeCall::TakeFinished(const v1::DequantizeFinished& finished) {
  QUANTD_RETURN_IF_ERROR(
      receiver_.End([&finished](const std::string&) { return finished.values_digest(); }));
  info_.values_digest = finished.values_digest();
  for (const PlaneInput& plane : job_.planes) {
    const auto found = finished.plane_digests().find(plane.name);
    info_.plane_digests.push_back(found == finished.plane_digests().end() ? "" : found->second);
  }
  return absl::OkStatus();
}

absl::Status DequantizeCall::Restart() {
  for (PlaneSender& sender : senders_) QUANTD_RETURN_IF_ERROR(sender.Rewind());
  QUANTD_RETURN_IF_ERROR(receiver_.Restart());
  start_sent_ = false;
  sending_ = 0;
  return absl::OkStatus();
}

absl::StatusOr<DequantizedInfo> DequantizeCall::Result() const {
  QUANTD_RETURN_IF_ERROR(status());
  if (!complete_) return absl::InternalError("the call ended without a result");
  return info_;
}

}  // namespace quantd
