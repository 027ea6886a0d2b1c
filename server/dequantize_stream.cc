#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "core/base/status_macros.h"
#include "core/session/dequantize_session.h"
#include "core/session/work.h"
#include "proto/convert.h"
#include "server/payload_frames.h"
#include "server/requests.h"
#include "server/streams.h"
#include "server/tensor_stream.h"

namespace quantd {
namespace {

// A tensor that is being dequantized.
class DequantizeTensor final : public OpenTensor {
 public:
  DequantizeTensor(CallContext& context, FrameOutbox& outbox, uint64_t id, int64_t output_bytes,
                   const ChunkOptions& chunks, std::unique_ptr<SharedSlots> slots,
                   std::unique_ptr<DequantizeSession> session)
      : id_(id),
        session_(std::move(session)),
        planes_(IncomingPlanes(session_->plan())),
        sink_(context.service.shared_pool, std::move(slots), outbox, id, {{"values", output_bytes}},
              chunks),
        output_bytes_(output_bytes) {}

  absl::Status Accept(ParsedFrame chunk) override {
    QUANTD_ASSIGN_OR_RETURN(plane_, FindPlane(planes_, chunk.plane));
    IncomingPlane& plane = planes_[static_cast<size_t>(plane_)];
    QUANTD_RETURN_IF_ERROR(CheckChunk(chunk, plane));
    plane.received_bytes += static_cast<int64_t>(chunk.data_bytes);
    return chunk_.Reset(std::move(chunk));
  }

  absl::StatusOr<bool> Work(const CancelToken& cancel) override {
    if (chunk_.empty() && wants_input_) return false;
    ScopedTimer timer(decoding_);
    int64_t taken_bytes = 0;
    do {
      const absl::StatusOr<StepResult> step = session_->Step(plane_, chunk_.Peek(), sink_, cancel);
      if (!step.ok()) return chunk_.Explain(step.status());
      QUANTD_RETURN_IF_ERROR(chunk_.Advance(static_cast<size_t>(step->consumed_bytes)));
      taken_bytes += step->consumed_bytes;
      wants_input_ = step->wants_input;
    } while (!chunk_.empty() && wants_input_ && taken_bytes < kWorkBytes);
    return true;
  }

  absl::StatusOr<grpc::ByteBuffer> Finish() override {
    QUANTD_ASSIGN_OR_RETURN(const DecodingReport report, session_->Finish());
    sink_.FlushAll();
    v1::StreamingDequantizeResponse frame;
    frame.set_tensor_id(id_);
    *frame.mutable_end() = ToProto(report, session_->plan().resolved.layout.planes);
    done_ = true;
    return SerializeFrame(frame);
  }

  TensorOutcome outcome() const override {
    TensorOutcome outcome;
    outcome.scheme = session_->plan().scheme->info.name;
    for (const IncomingPlane& plane : planes_) outcome.input_bytes += plane.received_bytes;
    if (done_) outcome.output_bytes = output_bytes_;
    outcome.elapsed = absl::FromChrono(std::chrono::steady_clock::now() - start_);
    outcome.encode = absl::FromChrono(decoding_);
    return outcome;
  }

 private:
  const uint64_t id_;
  const std::unique_ptr<DequantizeSession> session_;
  std::vector<IncomingPlane> planes_;
  PayloadFrames sink_;
  ChunkCursor chunk_;
  int plane_ = 0;  // that chunk_ belongs to
  bool wants_input_ = true;
  const int64_t output_bytes_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::chrono::nanoseconds decoding_{};
  bool done_ = false;
};

absl::StatusOr<std::unique_ptr<OpenTensor>> OpenDequantize(CallContext& context,
                                                           FrameOutbox& outbox, uint64_t id,
                                                           const std::string& bytes) {
  v1::DequantizeStart start;
  QUANTD_RETURN_IF_ERROR(ParseMessage(bytes, "start", start));
  QUANTD_ASSIGN_OR_RETURN(DequantizeHead head, ReadHead(start, context.service));
  std::unique_ptr<SharedSlots> slots;
  if (start.has_output_slots()) {
    QUANTD_ASSIGN_OR_RETURN(slots, SharedSlots::Make(start.output_slots(), context.shared));
  }
  v1::StreamingDequantizeResponse frame;
  frame.set_tensor_id(id);
  *frame.mutable_start() = StartedMessage(head);
  QUANTD_ASSIGN_OR_RETURN(
      std::unique_ptr<DequantizeSession> session,
      DequantizeSession::Create(std::move(head.plan), head.output_dtype, context.session));
  outbox.Send(SerializeFrame(frame));
  return std::make_unique<DequantizeTensor>(context, outbox, id, head.output_bytes, head.chunks,
                                            std::move(slots), std::move(session));
}

}  // namespace

std::unique_ptr<FrameHandler> MakeDequantizeStream(CallContext& context, FrameOutbox& outbox,
                                                   const CancelToken& cancel) {
  return std::make_unique<TensorStream>(context, context.service.metrics.rpc("StreamingDequantize"),
                                        outbox, cancel,
                                        [&context, &outbox](uint64_t id, const std::string& start) {
                                          return OpenDequantize(context, outbox, id, start);
                                        });
}

}  // namespace quantd
