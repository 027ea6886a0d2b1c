#ifndef QUANTD_CLIENT_CLI_COMPARE_H_
#define QUANTD_CLIENT_CLI_COMPARE_H_

#include <span>
#include <vector>

#include "client/plane_sink.h"
#include "core/session/report.h"
#include "core/tensor/shape.h"

namespace quantd::cli {

// Returns what quantctl dequantizes a tensor of `dtype` to unless told otherwise: its own type, or
// f32.
DType DefaultOutputType(DType dtype);

// Compares values that come in with an original. Non-finite values of the original are left out.
// Not thread-safe.
class CompareSink final : public PlaneSink {
 public:
  // The values that come in are of DefaultOutputType. `values` outlives this.
  CompareSink(const TensorDesc& original, std::span<const std::byte> values);

  absl::Status Begin(std::span<const PlaneDesc> planes) override;
  absl::Status Write(int plane, int64_t offset_bytes, std::span<const std::byte> piece) override;
  absl::Status Restart() override;
  absl::Status End() override;

  // Complete when the plane has ended.
  const Figures& figures() const { return figures_; }

 private:
  void Take(std::span<const std::byte> elem);
  void MeasureTaken();

  const DType original_dtype_, decoded_dtype_;
  const std::span<const std::byte> original_;
  std::vector<std::byte> carry_;  // the beginning of an element that a cut went through
  int64_t measured_elems_ = 0;
  std::vector<double> x_, y_;  // taken since: at most a tile
  Figures figures_;
};

}  // namespace quantd::cli

#endif  // QUANTD_CLIENT_CLI_COMPARE_H_
