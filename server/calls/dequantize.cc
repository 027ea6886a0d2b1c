// Dequantize and StreamingDequantize, as quantize.cc has the other way.
//
// Entries: MakeDequantize, MakeDequantizeStream. Tested by tests/server/streaming_test.cc.
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_detail.h"
#include "core/base/status_macros.h"
#include "core/session/dequantize_session.h"
#include "proto/convert.h"
#include "server/calls/methods.h"
#include "server/calls/payload_frames.h"
#include "server/calls/requests.h"
#include "server/calls/tensor_stream.h"

namespace quantd {
namespace {

// Makes the last frame of a tensor, of what is said of it.
using Answer = std::function<absl::StatusOr<grpc::ByteBuffer>(v1::DequantizeFinished finished)>;

// A tensor that is being dequantized.
class DequantizeTensor final : public OpenTensor {
 public:
  // `answer` and `sink` may be what the session writes to.
  DequantizeTensor(int64_t output_bytes, Answer answer, std::unique_ptr<PayloadSink> sink,
                   std::unique_ptr<DequantizeSession> session)
      : OpenTensor(session->plan(), IncomingPlanes(session->plan())),
        output_bytes_(output_bytes),
        answer_(std::move(answer)),
        sink_(std::move(sink)),
        session_(std::move(session)) {}

  // Pushes all planes: parameters first, then the codes, which are plane 0.
  void PushAll(const std::vector<const std::string*>& planes) {
    for (size_t n = 0; n < planes.size(); ++n) {
      const size_t i = (n + 1) % planes.size();
      if (planes[i] != nullptr) PushWhole(static_cast<int>(i), *planes[i]);  // else of no bytes
    }
  }
  StripeSession& session() override { return *session_; }

  absl::StatusOr<grpc::ByteBuffer> Finish() override {
    QUANTD_ASSIGN_OR_RETURN(const DecodingReport report, session_->Finish());
    ended_.output_bytes = output_bytes_;
    return answer_(ToProto(report, session_->plan().resolved.layout.planes));
  }

 private:
  void Push(int plane, Piece piece) override { session_->Push(plane, std::move(piece)); }

  const int64_t output_bytes_;
  const Answer answer_;
  const std::unique_ptr<PayloadSink> sink_;
  const std::unique_ptr<DequantizeSession> session_;  // goes before the sink
};

absl::StatusOr<PreparedTensor> PrepareFrames(CallContext& call, FrameOutbox& outbox, uint64_t id,
                                             const std::string& bytes) {
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
    v1::StreamingDequantizeResponse started;
    started.set_tensor_id(id);
    *started.mutable_start() = StartedMessage(head);
    auto sink = std::make_unique<PayloadFrames>(
        call.service.shared_pool, std::move(slots), outbox, id,
        std::vector<PayloadFrames::PlaneSize>{{"values", head.output_bytes}}, head.chunks);
    Answer answer = [id, sink = sink.get()](v1::DequantizeFinished finished)
        -> absl::StatusOr<grpc::ByteBuffer> {
      QUANTD_RETURN_IF_ERROR(sink->FlushAll());
      v1::StreamingDequantizeResponse frame;
      frame.set_tensor_id(id);
      *frame.mutable_end() = std::move(finished);
      return SerializeFrame(frame);
    };
    QUANTD_ASSIGN_OR_RETURN(
        std::unique_ptr<DequantizeSession> session,
        DequantizeSession::Create(std::move(head.plan), head.output_dtype, *sink, context,
                                  std::move(on_event)));
    outbox.Send(SerializeFrame(started));
    return std::make_unique<DequantizeTensor>(head.output_bytes, std::move(answer), std::move(sink),
                                              std::move(session));
  };
  return prepared;
}

// Returns the bytes of each plane, in the layout's order; null: of no bytes.
absl::StatusOr<std::vector<const std::string*>> CollectPlanes(const v1::DequantizeRequest& request,
                                                              const Plan& plan) {
  const std::vector<IncomingPlane> known = IncomingPlanes(plan);
  std::vector<const std::string*> data(known.size(), nullptr);
  for (const v1::PlaneData& plane : request.planes()) {
    QUANTD_ASSIGN_OR_RETURN(const int index, FindPlane(known, plane.plane().name()));
    const std::string*& slot = data[static_cast<size_t>(index)];
    if (slot != nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("planes: ", plane.plane().name(), " comes twice"));
    }
    slot = &plane.data();
  }
  for (size_t i = 0; i < known.size(); ++i) {
    const size_t size = data[i] == nullptr ? 0 : data[i]->size();
    if (static_cast<int64_t>(size) != known[i].size_bytes) {
      return absl::InvalidArgumentError(absl::StrCat("planes: ", known[i].name, " has ", size,
                                                     " bytes; ", known[i].size_bytes,
                                                     " are expected"));
    }
  }
  return data;
}

// A unary call's messages: planes are read and values written where they lie.
struct Whole {
  v1::DequantizeRequest request;
  v1::DequantizeResponse response;
};

absl::StatusOr<PreparedTensor> PrepareWhole(CallContext& call, const grpc::ByteBuffer& message) {
  const auto whole = std::make_shared<Whole>();
  QUANTD_RETURN_IF_ERROR(ParseRequest(message, whole->request));
  QUANTD_ASSIGN_OR_RETURN(DequantizeHead head, ReadHead(whole->request.start(), call.service));
  absl::StatusOr<std::vector<const std::string*>> collected =
      CollectPlanes(whole->request, head.plan);
  if (!collected.ok()) return WithField(collected.status(), "planes");
  PreparedTensor prepared;
  QUANTD_ASSIGN_OR_RETURN(
      prepared.resident_bytes,
      UnaryBytes(call.service, "Dequantize", head.plan.output_bytes, head.output_bytes,
                 DequantizeResidentBytes(head.plan, head.output_dtype)));
  prepared.open = [whole, planes = *std::move(collected), head = std::move(head)](
                      const SessionContext& context, std::function<void()> on_event) mutable
      -> absl::StatusOr<std::unique_ptr<OpenTensor>> {
    v1::DequantizeResponse& response = whole->response;
    *response.mutable_start() = StartedMessage(head);
    response.mutable_data()->resize(static_cast<size_t>(head.output_bytes));
    auto sink = std::make_unique<SpanSink>(
        std::vector<std::span<std::byte>>{WritableBytes(*response.mutable_data())});
    QUANTD_ASSIGN_OR_RETURN(
        std::unique_ptr<DequantizeSession> session,
        DequantizeSession::Create(std::move(head.plan), head.output_dtype, *sink, context,
                                  std::move(on_event)));
    Answer answer = [whole](v1::DequantizeFinished finished) {
      *whole->response.mutable_finished() = std::move(finished);
      return SerializeFrame(whole->response);
    };
    auto tensor = std::make_unique<DequantizeTensor>(head.output_bytes, std::move(answer),
                                                     std::move(sink), std::move(session));
    tensor->PushAll(planes);
    return tensor;
  };
  return prepared;
}

}  // namespace

std::unique_ptr<FrameHandler> MakeDequantize(CallContext& context, FrameOutbox& outbox,
                                             const CancelToken& cancel) {
  return std::make_unique<TensorStream>(
      context, outbox, cancel,
      TensorStreamKind{.rpc = "Dequantize",
                       .single = true,
                       .prepare_whole = [&context](const grpc::ByteBuffer& message) {
                         return PrepareWhole(context, message);
                       }});
}

std::unique_ptr<FrameHandler> MakeDequantizeStream(CallContext& context, FrameOutbox& outbox,
                                                   const CancelToken& cancel) {
  return std::make_unique<TensorStream>(
      context, outbox, cancel,
      TensorStreamKind{.rpc = "StreamingDequantize",
                       .fields = kRequestFrame,
                       .prepare = [&context, &outbox](uint64_t id, const std::string& start) {
                         return PrepareFrames(context, outbox, id, start);
                       }});
}

}  // namespace quantd
