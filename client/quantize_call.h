#ifndef QUANTD_CLIENT_QUANTIZE_CALL_H_
#define QUANTD_CLIENT_QUANTIZE_CALL_H_

#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "client/tensor_call.h"
#include "client/types.h"
#include "quantd/v1/quantization.pb.h"

namespace quantd {

// One tensor on a StreamingQuantize stream.
class QuantizeCall final : public TensorCall {
 public:
  // Finds the ranges of a job's tensor; leaves the source read.
  using FindRanges = std::function<absl::StatusOr<CalibratedRanges>(const QuantizeJob&)>;

  // `job.plan` is there. `find_ranges` is called for a two-pass plan without ranges.
  QuantizeCall(QuantizeJob job, const CallOptions& options, FindRanges find_ranges);

  absl::Status Prepare() override;
  absl::StatusOr<std::optional<grpc::ByteBuffer>> NextRequest(uint64_t tensor_id,
                                                              FrameSize& frame_size,
                                                              StreamRegion* region) override;
  absl::StatusOr<bool> TakeResponse(const ParsedFrame& frame) override;
  absl::Status Restart() override;

  // Returns what came of the tensor, once complete.
  absl::StatusOr<QuantizedInfo> Result() const;

 private:
  absl::Status TakeStarted(const v1::QuantizeStarted& started);
  absl::Status TakeFinished(const v1::QuantizeFinished& finished);

  QuantizeJob job_;
  const CallOptions options_;
  const FindRanges find_ranges_;
  SliceLease lease_;
  PlaneSender sender_;
  PlaneReceiver receiver_;
  bool start_sent_ = false;
  bool complete_ = false;
  QuantizedInfo info_;
};

}  // namespace quantd

#endif  // QUANTD_CLIENT_QUANTIZE_CALL_H_
