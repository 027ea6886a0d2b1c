// Entry: MakeCalibrateStream. Tested by tests/server/server_test.cc.
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "core/base/status_detail.h"
#include "core/base/status_macros.h"
#include "core/session/calibration.h"
#include "proto/convert.h"
#include "server/calls/methods.h"
#include "server/calls/requests.h"
#include "server/calls/tensor_stream.h"

namespace quantd {
namespace {

// A tensor whose statistics are wanted.
class CalibrateTensor final : public OpenTensor {
 public:
  // `merge`: what other streams have found, in their order, which goes before this one's.
  CalibrateTensor(std::unique_ptr<CalibrationSession> session, std::vector<CalibrationState> merge)
      : OpenTensor(session->plan(), {{"values", session->plan().input_bytes}}),
        merge_(std::move(merge)),
        session_(std::move(session)) {}

  StripeSession& session() override { return *session_; }

  absl::StatusOr<grpc::ByteBuffer> Finish() override {
    QUANTD_ASSIGN_OR_RETURN(CalibrationState state, session_->Finish());
    if (!merge_.empty()) {
      merge_.push_back(std::move(state));
      state = std::move(merge_.front());
      for (size_t i = 1; i < merge_.size(); ++i) {
        QUANTD_RETURN_IF_ERROR(WithField(MergeCalibration(merge_[i], state), "merge"));
      }
    }
    QUANTD_ASSIGN_OR_RETURN(const CalibratedRanges ranges, RangesOf(session_->plan(), state));
    v1::CalibrateResponse response;
    response.set_resolved_spec(FormatSpec(session_->plan().resolved.spec));
    *response.mutable_ranges() = ToProto(ranges);
    *response.mutable_state() = ToProto(state);
    return SerializeFrame(response);
  }

 private:
  void Push(int, Piece piece) override { session_->Push(std::move(piece)); }

  std::vector<CalibrationState> merge_;
  const std::unique_ptr<CalibrationSession> session_;
};

absl::StatusOr<PreparedTensor> PrepareCalibrate(CallContext& call, const std::string& bytes) {
  v1::CalibrateStart start;
  QUANTD_RETURN_IF_ERROR(ParseMessage(bytes, "start", start));
  QUANTD_ASSIGN_OR_RETURN(CalibrateHead head, ReadHead(start, call.service));
  PreparedTensor prepared;
  QUANTD_ASSIGN_OR_RETURN(prepared.resident_bytes,
                          CalibrationResidentBytes(head.plan, head.options));
  prepared.open = [head = std::move(head)](const SessionContext& context,
                                           std::function<void()> on_event) mutable
      -> absl::StatusOr<std::unique_ptr<OpenTensor>> {
    QUANTD_ASSIGN_OR_RETURN(std::unique_ptr<CalibrationSession> session,
                            CalibrationSession::Create(std::move(head.plan), head.options, context,
                                                       std::move(on_event)));
    return std::make_unique<CalibrateTensor>(std::move(session), std::move(head.merge));
  };
  return prepared;
}

}  // namespace

std::unique_ptr<FrameHandler> MakeCalibrateStream(CallContext& context, FrameOutbox& outbox,
                                                  const CancelToken& cancel) {
  return std::make_unique<TensorStream>(
      context, outbox, cancel,
      TensorStreamKind{.rpc = "Calibrate",
                       .fields = kCalibrateFrame,
                       .single = true,
                       .prepare = [&context](uint64_t, const std::string& start) {
                         return PrepareCalibrate(context, start);
                       }});
}

}  // namespace quantd
