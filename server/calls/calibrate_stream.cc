#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "core/base/status_detail.h"
#include "core/base/status_macros.h"
#include "core/exec/memory_budget.h"
#include "core/session/calibration.h"
#include "proto/convert.h"
#include "server/admit/admission.h"
#include "server/calls/requests.h"
#include "server/calls/streams.h"
#include "server/calls/tensor_stream.h"

namespace quantd {
namespace {

// Stripes that a turn does before it looks at other frames.
constexpr int kStripesPerStep = 4;

// One tensor whose statistics are wanted: start, chunks, end, then the response. Any error ends the
// stream.
class CalibrateStream final : public FrameHandler {
 public:
  CalibrateStream(CallContext& context, FrameOutbox& outbox, const CancelToken& cancel)
      : context_(context), outbox_(outbox), cancel_(cancel) {}
  ~CalibrateStream() override {
    TensorOutcome outcome;
    if (session_ != nullptr) outcome.scheme = session_->plan().scheme->info.name;
    if (done_) {
      outcome.result = TensorOutcome::Result::kOk;
    } else if (cancel_.cancelled()) {
      outcome.result = TensorOutcome::Result::kCancelled;
    }
    outcome.input_bytes = values_.received_bytes;
    outcome.elapsed = absl::FromChrono(std::chrono::steady_clock::now() - start_);
    context_.service.metrics.rpc("Calibrate").TensorEnded(outcome);
  }

  absl::Status Accept(const grpc::ByteBuffer& buffer) override {
    QUANTD_ASSIGN_OR_RETURN(ParsedFrame frame, ParseFrame(buffer, kCalibrateFrame));
    if (ending_) return absl::FailedPreconditionError("a frame comes after the end frame");
    if ((session_ == nullptr) != (frame.kind == FrameKind::kStart)) {
      return absl::FailedPreconditionError(session_ == nullptr
                                               ? "the stream does not open with a start frame"
                                               : "the stream has a second start frame");
    }
    switch (frame.kind) {
      case FrameKind::kStart:
        return Start(std::move(frame.message));
      case FrameKind::kChunk:
        return AcceptChunk(std::move(frame));
      case FrameKind::kEnd:
        ending_ = true;
        session_->EndInput();
        return absl::OkStatus();
      case FrameKind::kNone:
      case FrameKind::kError:
      case FrameKind::kReleased:
        break;
    }
    return absl::InvalidArgumentError("a frame has neither start nor chunk nor end");
  }

  bool may_read_on() const override { return !pending_.has_value(); }

  absl::StatusOr<Progress> Work() override {
    if (pending_.has_value()) {
      if (!context_.has_turn) return Progress::kWaiting;
      const absl::Status status = TryStart(*pending_);
      if (!status.ok() && MayWait(status)) return Progress::kWaiting;
      QUANTD_RETURN_IF_ERROR(status);
      pending_.reset();
    }
    if (session_ == nullptr || done_) return Progress::kIdle;
    for (int i = 0; i < kStripesPerStep; ++i) {
      if (session_->Help()) continue;
      if (session_->ended()) {
        QUANTD_RETURN_IF_ERROR(session_->status());
        return ending_ ? Finish() : Progress::kIdle;
      }
      return session_->WantsInput() && !ending_ ? Progress::kIdle : Progress::kBusy;
    }
    return Progress::kMore;
  }
  int64_t needed_bytes() const override { return needed_bytes_; }
  absl::Status Refuse(const absl::Status& status) override { return status; }

  absl::Status Close() override {
    if (done_) return absl::OkStatus();
    return absl::DataLossError("the stream was closed before its end frame");
  }
  bool may_close() const override { return done_ || !ending_; }
  bool busy() const override { return session_ != nullptr && session_->busy(); }
  void Cancel() override {
    if (session_ != nullptr) session_->Cancel(absl::CancelledError("cancelled"));
  }

  std::string Summary() const override {
    return absl::StrCat(done_ ? 1 : 0, " tensors done, ", done_ ? 0 : 1, " failed");
  }
  CallTimes times() const override {
    if (session_ == nullptr) return {};
    return {.statistics = absl::FromChrono(session_->work().statistics)};
  }

 private:
  absl::Status Start(std::string bytes) {
    needed_bytes_ = FrameBytes();
    if (!context_.service.admission->crowded()) {
      const absl::Status status = TryStart(bytes);
      if (status.ok() || !MayWait(status)) return status;
    }
    pending_ = std::move(bytes);
    return absl::OkStatus();
  }

  // For the frame at work and the one that is read meanwhile.
  int64_t FrameBytes() const { return 2 * context_.service.limits.frame_bytes; }

  // True if there would be memory later for what `status` refuses; nothing is then held.
  bool MayWait(const absl::Status& status) {
    const std::optional<int64_t> shortage_bytes = ShortageOf(status);
    if (!shortage_bytes.has_value()) return false;
    needed_bytes_ = FrameBytes() + (frame_reservation_.bytes() > 0 ? *shortage_bytes : 0);
    frame_reservation_ = MemoryBudget::Reservation();
    return needed_bytes_ <= context_.session.budget->limit_bytes();
  }

  absl::Status TryStart(const std::string& bytes) {
    v1::CalibrateStart start;
    QUANTD_RETURN_IF_ERROR(ParseMessage(bytes, "start", start));
    QUANTD_ASSIGN_OR_RETURN(CalibrateHead head, ReadHead(start, context_.service));
    QUANTD_ASSIGN_OR_RETURN(frame_reservation_,
                            context_.session.budget->Reserve(FrameBytes(), "a stream"));
    values_ = {"values", head.plan.input_bytes};
    merge_ = std::move(head.merge);
    QUANTD_ASSIGN_OR_RETURN(
        session_, CalibrationSession::Create(std::move(head.plan), head.options, context_.session,
                                             outbox_.Waker()));
    return absl::OkStatus();
  }

  absl::Status AcceptChunk(ParsedFrame frame) {
    if (frame.shared.has_value()) {
      return absl::InvalidArgumentError("shared ranges are for streams of tensors only");
    }
    const int64_t more_bytes =
        static_cast<int64_t>(frame.data_bytes) - context_.service.limits.frame_bytes;
    large_frame_reservation_ = MemoryBudget::Reservation();
    if (more_bytes > 0) {
      QUANTD_ASSIGN_OR_RETURN(large_frame_reservation_,
                              context_.session.budget->Reserve(2 * more_bytes, "a request frame"));
    }
    QUANTD_ASSIGN_OR_RETURN(ReceivedChunk chunk, ReceiveChunk(std::move(frame), nullptr));
    if (!chunk.plane.empty() && chunk.plane != values_.name) {
      return FindPlane({values_}, chunk.plane).status();
    }
    QUANTD_RETURN_IF_ERROR(CountChunk(chunk, values_));
    for (Piece& piece : chunk.pieces) session_->Push(std::move(piece));
    return absl::OkStatus();
  }

  absl::StatusOr<Progress> Finish() {
    QUANTD_ASSIGN_OR_RETURN(CalibrationState state, session_->Finish());
    if (!merge_.empty()) {  // in the order of the streams, this one last
      CalibrationState merged = std::move(merge_.front());
      for (size_t i = 1; i < merge_.size(); ++i) {
        QUANTD_RETURN_IF_ERROR(MergeCalibration(merge_[i], merged));
      }
      QUANTD_RETURN_IF_ERROR(MergeCalibration(state, merged));
      state = std::move(merged);
    }
    QUANTD_ASSIGN_OR_RETURN(const CalibratedRanges ranges, RangesOf(session_->plan(), state));
    v1::CalibrateResponse response;
    response.set_resolved_spec(FormatSpec(session_->plan().resolved.spec));
    *response.mutable_ranges() = ToProto(ranges);
    *response.mutable_state() = ToProto(state);
    outbox_.Send(SerializeFrame(response));
    done_ = true;
    return Progress::kMore;
  }

  CallContext& context_;
  FrameOutbox& outbox_;
  const CancelToken& cancel_;
  std::unique_ptr<CalibrationSession> session_;
  std::vector<CalibrationState> merge_;
  MemoryBudget::Reservation frame_reservation_;
  MemoryBudget::Reservation large_frame_reservation_;
  std::optional<std::string> pending_;  // the start message that waits for memory
  int64_t needed_bytes_ = 0;            // that it waits for
  IncomingPlane values_;
  bool ending_ = false;  // the end frame has come
  bool done_ = false;    // the response is made
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace

std::unique_ptr<FrameHandler> MakeCalibrateStream(CallContext& context, FrameOutbox& outbox,
                                                  const CancelToken& cancel) {
  return std::make_unique<CalibrateStream>(context, outbox, cancel);
}

}  // namespace quantd
