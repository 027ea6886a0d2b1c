#ifndef QUANTD_CLIENT_DEQUANTIZE_CALL_H_
#define QUANTD_CLIENT_DEQUANTIZE_CALL_H_

#include <optional>
#include <vector>

#include "client/tensor_call.h"
#include "client/types.h"
#include "quantd/v1/quantization.pb.h"

namespace quantd {

// One tensor on a StreamingDequantize stream. Parameters are sent as a whole before the codes,
// which is early enough for any window.
class DequantizeCall final : public TensorCall {
 public:
  DequantizeCall(DequantizeJob job, const CallOptions& options);

  absl::StatusOr<std::optional<grpc::ByteBuffer>> NextRequest(uint64_t tensor_id,
                                                              FrameSize& frame_size,
                                                              StreamRegion* region) override;
  absl::StatusOr<bool> TakeResponse(const ParsedFrame& frame) override;
  absl::Status Restart() override;

  // Returns what came of the tensor, once complete.
  absl::StatusOr<DequantizedInfo> Result() const;

 private:
  grpc::ByteBuffer StartFrame(uint64_t tensor_id, const StreamRegion* region) const;
  absl::Status TakeStarted(const v1::DequantizeStarted& started);
  absl::Status TakeFinished(const v1::DequantizeFinished& finished);

  const DequantizeJob job_;
  const CallOptions options_;
  SliceLease lease_;
  std::vector<PlaneSender> senders_;  // in the order of sending: codes last
  size_t sending_ = 0;
  PlaneReceiver receiver_;
  bool start_sent_ = false;
  bool complete_ = false;
  DequantizedInfo info_;
};

}  // namespace quantd

#endif  // QUANTD_CLIENT_DEQUANTIZE_CALL_H_
