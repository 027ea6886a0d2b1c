#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "core/base/status_macros.h"
#include "core/session/dequantize_session.h"
#include "proto/convert.h"
#include "server/calls/payload_frames.h"
#include "server/calls/requests.h"
#include "server/calls/streams.h"
#include "server/calls/tensor_stream.h"

namespace quantd {
namespace {

// A tensor that is being dequantized.
class DequantizeTensor final : public OpenTensor {
 public:
  DequantizeTensor(uint64_t id, int64_t output_bytes, std::unique_ptr<PayloadFrames> sink,
                   std::unique_ptr<DequantizeSession> session)
      : id_(id),
        planes_(IncomingPlanes(session->plan())),
        output_bytes_(output_bytes),
        sink_(std::move(sink)),
        session_(std::move(session)) {}

  absl::Status Accept(ReceivedChunk chunk) override {
    QUANTD_ASSIGN_OR_RETURN(const int plane, FindPlane(planes_, chunk.plane));
    QUANTD_RETURN_IF_ERROR(CountChunk(chunk, planes_[static_cast<size_t>(plane)]));
    for (Piece& piece : chunk.pieces) session_->Push(plane, std::move(piece));
    return absl::OkStatus();
  }
  StripeSession& session() override { return *session_; }

  absl::StatusOr<grpc::ByteBuffer> Finish() override {
    QUANTD_ASSIGN_OR_RETURN(const DecodingReport report, session_->Finish());
    QUANTD_RETURN_IF_ERROR(sink_->FlushAll());
    v1::StreamingDequantizeResponse frame;
    frame.set_tensor_id(id_);
    *frame.mutable_end() = ToProto(report, session_->plan().resolved.layout.planes);
    done_ = true;
    return SerializeFrame(frame);
  }

  TensorOutcome outcome() override {
    TensorOutcome outcome;
    outcome.scheme = session_->plan().scheme->info.name;
    for (const IncomingPlane& plane : planes_) outcome.input_bytes += plane.received_bytes;
    if (done_) outcome.output_bytes = output_bytes_;
    outcome.elapsed = absl::FromChrono(std::chrono::steady_clock::now() - start_);
    outcome.encode = absl::FromChrono(session_->work().encoding);
    return outcome;
  }

 private:
  const uint64_t id_;
  std::vector<IncomingPlane> planes_;
  const int64_t output_bytes_;
  const std::unique_ptr<PayloadFrames> sink_;
  const std::unique_ptr<DequantizeSession> session_;  // goes before the sink
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  bool done_ = false;
};

absl::StatusOr<PreparedTensor> PrepareDequantize(CallContext& call, FrameOutbox& outbox,
                                                 uint64_t id, const std::string& bytes) {
  v1::DequantizeStart start;
  QUANTD_RETURN_IF_ERROR(ParseMessage(bytes, "start", start));
  QUANTD_ASSIGN_OR_RETURN(DequantizeHead head, ReadHead(start, call.service));
  std::unique_ptr<SharedSlots> slots;
  if (start.has_output_slots()) {
    QUANTD_ASSIGN_OR_RETURN(slots, SharedSlots::Make(start.output_slots(), call.shared));
  }
  PreparedTensor prepared;
  prepared.resident_bytes = DequantizeResidentBytes(head.plan, head.output_dtype);
  prepared.open = [&call, &outbox, id, head = std::move(head), slots = std::move(slots)](
                      const SessionContext& context, std::function<void()> on_event) mutable
      -> absl::StatusOr<std::unique_ptr<OpenTensor>> {
    v1::StreamingDequantizeResponse frame;
    frame.set_tensor_id(id);
    *frame.mutable_start() = StartedMessage(head);
    auto sink = std::make_unique<PayloadFrames>(
        call.service.shared_pool, std::move(slots), outbox, id,
        std::vector<PayloadFrames::PlaneSize>{{"values", head.output_bytes}}, head.chunks);
    QUANTD_ASSIGN_OR_RETURN(std::unique_ptr<DequantizeSession> session,
                            DequantizeSession::Create(std::move(head.plan), head.output_dtype, *sink,
                                                      context, std::move(on_event)));
    outbox.Send(SerializeFrame(frame));
    return std::make_unique<DequantizeTensor>(id, head.output_bytes, std::move(sink),
                                              std::move(session));
  };
  return prepared;
}

}  // namespace

std::unique_ptr<FrameHandler> MakeDequantizeStream(CallContext& context, FrameOutbox& outbox,
                                                   const CancelToken& cancel) {
  return std::make_unique<TensorStream>(
      context, outbox, cancel,
      TensorStreamKind{.rpc = "StreamingDequantize",
                       .fields = kRequestFrame,
                       .prepare = [&context, &outbox](uint64_t id, const std::string& start) {
                         return PrepareDequantize(context, outbox, id, start);
                       }});
}

}  // namespace quantd
