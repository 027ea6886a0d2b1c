// Quantize and StreamingQuantize: the same tensor, whose codes go out in frames of their own or all
// in one response.
//
// Entries: MakeQuantize, MakeQuantizeStream. Tested by tests/server/streaming_test.cc and
// tests/sim.
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "core/base/status_macros.h"
#include "core/session/quantize_session.h"
#include "proto/convert.h"
#include "server/calls/methods.h"
#include "server/calls/payload_frames.h"
#include "server/calls/requests.h"
#include "server/calls/tensor_stream.h"

namespace quantd {
namespace {

// Makes the last frame of a tensor, of its report and of how long all and the encoding took.
using Answer = std::function<absl::StatusOr<grpc::ByteBuffer>(
    v1::QuantizationReport report, std::chrono::nanoseconds elapsed,
    std::chrono::nanoseconds encoding)>;

// A tensor that is being quantized.
class QuantizeTensor final : public OpenTensor {
 public:
  // `answer` and `sink` may be what the session writes to.
  QuantizeTensor(Answer answer, std::unique_ptr<PayloadSink> sink,
                 std::unique_ptr<QuantizeSession> session)
      : OpenTensor(session->plan(), {{"values", session->plan().input_bytes}}),
        answer_(std::move(answer)),
        sink_(std::move(sink)),
        session_(std::move(session)) {}

  void PushAll(const std::string& values) { PushWhole(0, values); }
  StripeSession& session() override { return *session_; }

  absl::StatusOr<grpc::ByteBuffer> Finish() override {
    QUANTD_ASSIGN_OR_RETURN(const EncodingReport report, session_->Finish());
    ended_.output_bytes = session_->plan().output_bytes;
    ended_.clipped = report.clipped;
    ended_.non_finite = report.non_finite;
    return answer_(ToProto(report, session_->plan().resolved.layout.planes), elapsed(),
                   session_->work().encoding);
  }

  TensorOutcome outcome() override {
    TensorOutcome outcome = OpenTensor::outcome();
    outcome.stripes = session_->work().stripes;
    return outcome;
  }

 private:
  void Push(int, Piece piece) override { session_->Push(std::move(piece)); }

  const Answer answer_;
  const std::unique_ptr<PayloadSink> sink_;
  const std::unique_ptr<QuantizeSession> session_;  // goes before the sink
};

absl::StatusOr<PreparedTensor> PrepareFrames(CallContext& call, FrameOutbox& outbox, uint64_t id,
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
    v1::StreamingQuantizeResponse started;
    started.set_tensor_id(id);
    *started.mutable_start() = StartedMessage(head.plan);
    auto sink = std::make_unique<PayloadFrames>(call.service.shared_pool, std::move(slots), outbox,
                                                id, PlaneSizes(head.plan), head.chunks);
    Answer answer = [id, sink = sink.get()](v1::QuantizationReport report, auto elapsed,
                                            auto encoding)
        -> absl::StatusOr<grpc::ByteBuffer> {
      QUANTD_RETURN_IF_ERROR(sink->FlushAll());
      v1::StreamingQuantizeResponse frame;
      frame.set_tensor_id(id);
      *report.mutable_elapsed() = DurationMessage(elapsed);
      *report.mutable_encoding() = DurationMessage(encoding);
      *frame.mutable_end()->mutable_report() = std::move(report);
      return SerializeFrame(frame);
    };
    QUANTD_ASSIGN_OR_RETURN(
        std::unique_ptr<QuantizeSession> session,
        QuantizeSession::Create(std::move(head.plan), std::move(head.options), *sink, context,
                                std::move(on_event)));
    outbox.Send(SerializeFrame(started));
    return std::make_unique<QuantizeTensor>(std::move(answer), std::move(sink), std::move(session));
  };
  return prepared;
}

// A unary call's messages: values are read and codes written where they lie.
struct Whole {
  v1::QuantizeRequest request;
  v1::QuantizeResponse response;
};

absl::StatusOr<PreparedTensor> PrepareWhole(CallContext& call, const grpc::ByteBuffer& message) {
  const auto whole = std::make_shared<Whole>();
  QUANTD_RETURN_IF_ERROR(ParseRequest(message, whole->request));
  QUANTD_ASSIGN_OR_RETURN(QuantizeHead head, ReadHead(whole->request.start(), call.service));
  PreparedTensor prepared;
  QUANTD_ASSIGN_OR_RETURN(
      prepared.resident_bytes,
      UnaryBytes(call.service, "Quantize", std::ssize(whole->request.data()),
                 head.plan.output_bytes, head.plan.resident_bytes));
  prepared.open = [whole, head = std::move(head)](const SessionContext& context,
                                                  std::function<void()> on_event) mutable
      -> absl::StatusOr<std::unique_ptr<OpenTensor>> {
    v1::QuantizeResponse& response = whole->response;
    *response.mutable_start() = StartedMessage(head.plan);
    for (const PlaneDesc& desc : head.plan.resolved.layout.planes) {
      v1::PlaneData& plane = *response.add_planes();
      *plane.mutable_plane() = ToProto(desc);
      plane.mutable_data()->resize(static_cast<size_t>(desc.size_bytes));
    }
    std::vector<std::span<std::byte>> data;
    for (v1::PlaneData& plane : *response.mutable_planes()) {
      data.push_back(WritableBytes(*plane.mutable_data()));
    }
    auto sink = std::make_unique<SpanSink>(std::move(data));
    QUANTD_ASSIGN_OR_RETURN(
        std::unique_ptr<QuantizeSession> session,
        QuantizeSession::Create(std::move(head.plan), std::move(head.options), *sink, context,
                                std::move(on_event)));
    Answer answer = [whole](v1::QuantizationReport report, auto, auto) {
      *whole->response.mutable_report() = std::move(report);
      return SerializeFrame(whole->response);
    };
    auto tensor =
        std::make_unique<QuantizeTensor>(std::move(answer), std::move(sink), std::move(session));
    tensor->PushAll(whole->request.data());
    return tensor;
  };
  return prepared;
}

}  // namespace

std::unique_ptr<FrameHandler> MakeQuantize(CallContext& context, FrameOutbox& outbox,
                                           const CancelToken& cancel) {
  return std::make_unique<TensorStream>(
      context, outbox, cancel,
      TensorStreamKind{.rpc = "Quantize",
                       .single = true,
                       .prepare_whole = [&context](const grpc::ByteBuffer& message) {
                         return PrepareWhole(context, message);
                       }});
}

std::unique_ptr<FrameHandler> MakeQuantizeStream(CallContext& context, FrameOutbox& outbox,
                                                 const CancelToken& cancel) {
  return std::make_unique<TensorStream>(
      context, outbox, cancel,
      TensorStreamKind{.rpc = "StreamingQuantize",
                       .fields = kRequestFrame,
                       .prepare = [&context, &outbox](uint64_t id, const std::string& start) {
                         return PrepareFrames(context, outbox, id, start);
                       }});
}

}  // namespace quantd
