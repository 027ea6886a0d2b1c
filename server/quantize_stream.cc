#include <google/protobuf/util/time_util.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/session/quantize_session.h"
#include "proto/convert.h"
#include "server/payload_frames.h"
#include "server/requests.h"
#include "server/streams.h"
#include "server/tensor_stream.h"

namespace quantd {
namespace {

using Clock = std::chrono::steady_clock;

google::protobuf::Duration ToDuration(Clock::duration time) {
  return google::protobuf::util::TimeUtil::NanosecondsToDuration(
      std::chrono::duration_cast<std::chrono::nanoseconds>(time).count());
}

// A tensor that is being quantized.
class QuantizeTensor final : public OpenTensor {
 public:
  QuantizeTensor(CallContext& context, FrameOutbox& outbox, uint64_t id, const ChunkOptions& chunks,
                 std::unique_ptr<SharedSlots> slots, std::unique_ptr<QuantizeSession> session)
      : id_(id),
        session_(std::move(session)),
        values_{"values", session_->plan().input_bytes},
        sink_(context.service.shared_pool, std::move(slots), outbox, id,
              PlaneSizes(session_->plan()), chunks) {}

  absl::Status Accept(ParsedFrame chunk) override {
    if (chunk.plane.empty()) chunk.plane = values_.name;
    QUANTD_RETURN_IF_ERROR(FindPlane({values_}, chunk.plane).status());
    QUANTD_RETURN_IF_ERROR(CheckChunk(chunk, values_));
    values_.received_bytes += static_cast<int64_t>(chunk.data_bytes);
    return chunk_.Reset(std::move(chunk));
  }

  absl::StatusOr<bool> Work(const CancelToken& cancel) override {
    const bool complete = values_.received_bytes == values_.size_bytes;
    if (chunk_.empty() && wants_input_ && (!complete || session_->done())) return false;
    const Clock::time_point begin = Clock::now();
    int64_t taken_bytes = 0;
    do {
      std::span<const std::byte> in = chunk_.Peek();
      // What is gathered is scanned a window at a time, best while it is in the cache.
      if (session_->plan().pass == Pass::kBuffered) {
        in = in.first(std::min(in.size(), static_cast<size_t>(kWorkBytes)));
      }
      const absl::StatusOr<StepResult> step = session_->Step(in, sink_, cancel);
      if (!step.ok()) return chunk_.Explain(step.status());
      QUANTD_RETURN_IF_ERROR(chunk_.Advance(static_cast<size_t>(step->consumed_bytes)));
      taken_bytes += step->consumed_bytes;
      wants_input_ = step->wants_input;
    } while (!chunk_.empty() && wants_input_ && taken_bytes < kWorkBytes);
    encoding_ += Clock::now() - begin;
    return true;
  }

  absl::StatusOr<grpc::ByteBuffer> Finish() override {
    QUANTD_ASSIGN_OR_RETURN(const EncodingReport report, session_->Finish());
    sink_.FlushAll();
    v1::StreamingQuantizeResponse frame;
    frame.set_tensor_id(id_);
    v1::QuantizationReport& message = *frame.mutable_end()->mutable_report();
    message = ToProto(report, session_->plan().resolved.layout.planes);
    report_ = report;
    *message.mutable_elapsed() = ToDuration(Clock::now() - start_);
    *message.mutable_encoding() = ToDuration(encoding_);
    return SerializeFrame(frame);
  }

  TensorOutcome outcome() const override {
    TensorOutcome outcome = OutcomeOf(*session_);
    outcome.input_bytes = values_.received_bytes;
    outcome.elapsed = absl::FromChrono(Clock::now() - start_);
    if (report_.has_value()) AddReport(session_->plan(), *report_, outcome);
    return outcome;
  }

 private:
  static std::vector<PayloadFrames::PlaneSize> PlaneSizes(const Plan& plan) {
    std::vector<PayloadFrames::PlaneSize> sizes;
    for (const PlaneDesc& plane : plan.resolved.layout.planes) {
      sizes.push_back({plane.name, plane.size_bytes});
    }
    return sizes;
  }

  const uint64_t id_;
  const std::unique_ptr<QuantizeSession> session_;
  IncomingPlane values_;
  PayloadFrames sink_;
  ChunkCursor chunk_;
  bool wants_input_ = true;
  const Clock::time_point start_ = Clock::now();
  Clock::duration encoding_{};
  std::optional<EncodingReport> report_;  // once all is done
};

absl::StatusOr<std::unique_ptr<OpenTensor>> OpenQuantize(CallContext& context, FrameOutbox& outbox,
                                                         uint64_t id, const std::string& bytes) {
  v1::QuantizeStart start;
  QUANTD_RETURN_IF_ERROR(ParseMessage(bytes, "start", start));
  QUANTD_ASSIGN_OR_RETURN(QuantizeHead head, ReadHead(start, context.service));
  std::unique_ptr<SharedSlots> slots;
  if (start.has_output_slots()) {
    QUANTD_ASSIGN_OR_RETURN(slots, SharedSlots::Make(start.output_slots(), context.shared));
  }
  v1::StreamingQuantizeResponse frame;
  frame.set_tensor_id(id);
  *frame.mutable_start() = StartedMessage(head.plan);
  QUANTD_ASSIGN_OR_RETURN(
      std::unique_ptr<QuantizeSession> session,
      QuantizeSession::Create(std::move(head.plan), std::move(head.options), context.session));
  outbox.Send(SerializeFrame(frame));
  return std::make_unique<QuantizeTensor>(context, outbox, id, head.chunks, std::move(slots),
                                          std::move(session));
}

}  // namespace

std::unique_ptr<FrameHandler> MakeQuantizeStream(CallContext& context, FrameOutbox& outbox,
                                                 const CancelToken& cancel) {
  return std::make_unique<TensorStream>(context, context.service.metrics.rpc("StreamingQuantize"),
                                        outbox, cancel,
                                        [&context, &outbox](uint64_t id, const std::string& start) {
                                          return OpenQuantize(context, outbox, id, start);
                                        });
}

}  // namespace quantd
