// Entry: MakeQuantizeStream. Tested by tests/server/streaming_test.cc and tests/sim.
#include <google/protobuf/util/time_util.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "core/base/status_macros.h"
#include "core/session/quantize_session.h"
#include "proto/convert.h"
#include "server/calls/payload_frames.h"
#include "server/calls/requests.h"
#include "server/calls/streams.h"
#include "server/calls/tensor_stream.h"

namespace quantd {
namespace {

using Clock = std::chrono::steady_clock;

google::protobuf::Duration ToDuration(Clock::duration time) {
  return google::protobuf::util::TimeUtil::NanosecondsToDuration(
      std::chrono::duration_cast<std::chrono::nanoseconds>(time).count());
}

std::vector<PayloadFrames::PlaneSize> PlaneSizes(const Plan& plan) {
  std::vector<PayloadFrames::PlaneSize> sizes;
  for (const PlaneDesc& plane : plan.resolved.layout.planes) {
    sizes.push_back({plane.name, plane.size_bytes});
  }
  return sizes;
}

// A tensor that is being quantized.
class QuantizeTensor final : public OpenTensor {
 public:
  QuantizeTensor(uint64_t id, std::unique_ptr<PayloadFrames> sink,
                 std::unique_ptr<QuantizeSession> session)
      : id_(id),
        values_{"values", session->plan().input_bytes},
        sink_(std::move(sink)),
        session_(std::move(session)) {}

  absl::Status Accept(ReceivedChunk chunk) override {
    QUANTD_RETURN_IF_ERROR(CountValues(chunk, values_));
    for (Piece& piece : chunk.pieces) session_->Push(std::move(piece));
    return absl::OkStatus();
  }
  StripeSession& session() override { return *session_; }

  absl::StatusOr<grpc::ByteBuffer> Finish() override {
    QUANTD_ASSIGN_OR_RETURN(const EncodingReport report, session_->Finish());
    QUANTD_RETURN_IF_ERROR(sink_->FlushAll());
    v1::StreamingQuantizeResponse frame;
    frame.set_tensor_id(id_);
    v1::QuantizationReport& message = *frame.mutable_end()->mutable_report();
    message = ToProto(report, session_->plan().resolved.layout.planes);
    report_ = report;
    *message.mutable_elapsed() = ToDuration(Clock::now() - start_);
    *message.mutable_encoding() = ToDuration(session_->work().encoding);
    return SerializeFrame(frame);
  }

  TensorOutcome outcome() override {
    TensorOutcome outcome = OutcomeOf(*session_);
    outcome.input_bytes = values_.received_bytes;
    outcome.elapsed = absl::FromChrono(Clock::now() - start_);
    if (report_.has_value()) AddReport(session_->plan(), *report_, outcome);
    return outcome;
  }

 private:
  const uint64_t id_;
  IncomingPlane values_;
  const std::unique_ptr<PayloadFrames> sink_;
  const std::unique_ptr<QuantizeSession> session_;  // goes before the sink
  const Clock::time_point start_ = Clock::now();
  std::optional<EncodingReport> report_;  // once all is done
};

absl::StatusOr<PreparedTensor> PrepareQuantize(CallContext& call, FrameOutbox& outbox, uint64_t id,
                                               const std::string& bytes) {
  v1::QuantizeStart start;
  QUANTD_RETURN_IF_ERROR(ParseMessage(bytes, "start", start));
  QUANTD_ASSIGN_OR_RETURN(QuantizeHead head, ReadHead(start, call.service));
  std::unique_ptr<SharedSlots> slots;
  if (start.has_output_slots()) {
    QUANTD_ASSIGN_OR_RETURN(slots, SharedSlots::Make(start.output_slots(), call.shared));
  }
  PreparedTensor prepared;
  prepared.resident_bytes = head.plan.resident_bytes;
  prepared.open = [&call, &outbox, id, head = std::move(head), slots = std::move(slots)](
                      const SessionContext& context, std::function<void()> on_event) mutable
      -> absl::StatusOr<std::unique_ptr<OpenTensor>> {
    v1::StreamingQuantizeResponse frame;
    frame.set_tensor_id(id);
    *frame.mutable_start() = StartedMessage(head.plan);
    auto sink = std::make_unique<PayloadFrames>(call.service.shared_pool, std::move(slots), outbox,
                                                id, PlaneSizes(head.plan), head.chunks);
    QUANTD_ASSIGN_OR_RETURN(
        std::unique_ptr<QuantizeSession> session,
        QuantizeSession::Create(std::move(head.plan), std::move(head.options), *sink, context,
                                std::move(on_event)));
    outbox.Send(SerializeFrame(frame));
    return std::make_unique<QuantizeTensor>(id, std::move(sink), std::move(session));
  };
  return prepared;
}

}  // namespace

std::unique_ptr<FrameHandler> MakeQuantizeStream(CallContext& context, FrameOutbox& outbox,
                                                 const CancelToken& cancel) {
  return std::make_unique<TensorStream>(
      context, outbox, cancel,
      TensorStreamKind{.rpc = "StreamingQuantize",
                       .fields = kRequestFrame,
                       .prepare = [&context, &outbox](uint64_t id, const std::string& start) {
                         return PrepareQuantize(context, outbox, id, start);
                       }});
}

}  // namespace quantd
