#include "client/quantize_call.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/wire.h"
#include "core/base/status_macros.h"
#include "proto/convert.h"

namespace quantd {

QuantizeCall::QuantizeCall(QuantizeJob job, const CallOptions& options, FindRanges find_ranges)
    : job_(std::move(job)),
      options_(options),
      find_ranges_(std::move(find_ranges)),
      sender_("", job_.source, &lease_),
      receiver_(job_.sink) {}

absl::Status QuantizeCall::Prepare() {
  QUANTD_ASSIGN_OR_RETURN(const int64_t size_bytes, SizeBytes(job_.tensor));
  if (job_.source->size_bytes() != size_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("source of ", job_.source->size_bytes(), " bytes for a tensor ",
                     NameOf(job_.tensor.dtype), " ", job_.tensor.shape.Text(), " of ", size_bytes));
  }
  if (job_.plan->pass != Pass::kTwoPass || job_.ranges.has_value()) return absl::OkStatus();
  if (!job_.source->can_rewind()) {
    return absl::FailedPreconditionError(absl::StrCat(
        FormatSpec(job_.spec), " needs the whole tensor (", size_bytes,
        " bytes), which is over the server's memory budget, and a pipe cannot be read twice; "
        "send a file, give the range (range=MIN..MAX or ranges of calibrate), raise the budget, "
        "or let rows or groups have their own scales (axis=0, group=N)"));
  }
  QUANTD_ASSIGN_OR_RETURN(job_.ranges, find_ranges_(job_));
  info_.two_pass = true;
  return sender_.Rewind();
}

absl::StatusOr<std::optional<grpc::ByteBuffer>> QuantizeCall::NextRequest(uint64_t tensor_id,
                                                                          FrameSize& frame_size,
                                                                          StreamRegion* region) {
  if (start_sent_) {
    return sender_.Next(kRequestFrame, tensor_id, frame_size, options_.checksums, region);
  }
  start_sent_ = true;
  v1::StreamingQuantizeRequest request;
  request.set_tensor_id(tensor_id);
  v1::QuantizeStart& start = *request.mutable_start();
  *start.mutable_tensor() = ToProto(job_.tensor);
  *start.mutable_spec() = ToProto(job_.spec);
  if (job_.ranges.has_value()) *start.mutable_ranges() = ToProto(*job_.ranges);
  start.mutable_importance()->Add(job_.importance.begin(), job_.importance.end());
  start.set_omit_figures(!options_.figures);
  start.set_omit_crc(!options_.checksums);
  start.set_max_chunk_bytes(ResponseChunkBytes(options_, region));
  if (region != nullptr) *start.mutable_output_slots() = region->output_slots();
  return SerializeFrame(request);
}

absl::StatusOr<bool> QuantizeCall::TakeResponse(const ParsedFrame& frame) {
  switch (frame.kind) {
    case FrameKind::kStart: {
      QUANTD_ASSIGN_OR_RETURN(const auto started, ParseMessage<v1::QuantizeStarted>(frame));
      QUANTD_RETURN_IF_ERROR(TakeStarted(started));
      return false;
    }
    case FrameKind::kChunk:
      QUANTD_RETURN_IF_ERROR(receiver_.Take(frame));
      return false;
    case FrameKind::kEnd: {
      QUANTD_ASSIGN_OR_RETURN(const auto finished, ParseMessage<v1::QuantizeFinished>(frame));
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

absl::Status QuantizeCall::TakeStarted(const v1::QuantizeStarted& started) {
  QUANTD_RETURN_IF_ERROR(CheckEcho(started.tensor(), job_.tensor));
  QUANTD_ASSIGN_OR_RETURN(info_.plan, ReadPlan(started.plan(), job_.tensor));
  // The pass may differ: the ranges are known by now, or the budget is another.
  const TensorPlan& planned = *job_.plan;
  if (info_.plan.resolved_spec != planned.resolved_spec) {
    return absl::DataLossError(absl::StrCat("the server took spec ", info_.plan.resolved_spec,
                                            " where it had planned ", planned.resolved_spec));
  }
  if (!std::equal(info_.plan.planes.begin(), info_.plan.planes.end(), planned.planes.begin(),
                  planned.planes.end(), SamePlane)) {
    return absl::DataLossError("the server announced other planes than it had planned");
  }
  return receiver_.Begin(info_.plan.planes);
}

absl::Status QuantizeCall::TakeFinished(const v1::QuantizeFinished& finished) {
  const auto& digests = finished.report().digests();
  QUANTD_RETURN_IF_ERROR(receiver_.End([&digests](const std::string& plane) -> std::string {
    const auto found = digests.find(plane);
    return found == digests.end() ? "nothing of it" : found->second;
  }));
  QUANTD_ASSIGN_OR_RETURN(info_.report, FromProto(finished.report(), info_.plan.planes));
  info_.elapsed = ReadDuration(finished.report().elapsed());
  info_.encoding = ReadDuration(finished.report().encoding());
  return absl::OkStatus();
}

absl::Status QuantizeCall::Restart() {
  if (!job_.source->can_rewind()) {
    return absl::FailedPreconditionError("a pipe cannot be sent again");
  }
  QUANTD_RETURN_IF_ERROR(sender_.Rewind());
  QUANTD_RETURN_IF_ERROR(receiver_.Restart());
  start_sent_ = false;
  ++info_.attempts;
  return absl::OkStatus();
}

absl::StatusOr<QuantizedInfo> QuantizeCall::Result() const {
  QUANTD_RETURN_IF_ERROR(status());
  if (!complete_) return absl::InternalError("the call ended without a result");
  return info_;
}

}  // namespace quantd
