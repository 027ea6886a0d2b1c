#ifndef QUANTD_TESTS_SUPPORT_CUTS_H_
#define QUANTD_TESTS_SUPPORT_CUTS_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "core/session/calibration.h"
#include "core/session/dequantize_session.h"
#include "core/session/quantize_session.h"
#include "tests/support/values.h"

namespace quantd::testing {

// How input is cut into pieces.
enum class Cut { kWhole, kOneByte, kPrimes, kRandom };
inline constexpr Cut kAllCuts[] = {Cut::kWhole, Cut::kOneByte, Cut::kPrimes, Cut::kRandom};

// Returns the pieces' sizes, which sum to `total_bytes`.
std::vector<int64_t> CutSizes(Cut cut, int64_t total_bytes, uint32_t seed);

// Keeps what a session writes, and checks that each plane comes in order and without gaps.
class MemorySink : public PayloadSink {
 public:
  explicit MemorySink(std::vector<int64_t> plane_bytes);
  std::span<std::byte> Acquire(int plane, int64_t offset_bytes, int64_t size_bytes) override;
  void Commit(int plane, int64_t offset_bytes, int64_t size_bytes) override;

  std::vector<std::vector<std::byte>> planes;
  bool in_order = true;

 private:
  std::vector<int64_t> committed_;
};

// Quantizes in pieces.
absl::StatusOr<QuantizedTensor> QuantizeCut(const QuantSpec& spec, const TensorDesc& tensor,
                                            std::span<const std::byte> values, Cut cut,
                                            const QuantizeOptions& options, int64_t session_budget,
                                            const SessionContext& context);

// Dequantizes in pieces: parameter planes first, or as late as is allowed.
absl::StatusOr<std::vector<std::byte>> DequantizeCut(const QuantizedTensor& tensor, DType dtype,
                                                     Cut cut, const SessionContext& context);

// Calibrates in pieces.
absl::StatusOr<CalibrationState> CalibrateCut(const Plan& plan, std::span<const std::byte> values,
                                              Cut cut, const CalibrationOptions& options,
                                              const SessionContext& context);

}  // namespace quantd::testing

#endif  // QUANTD_TESTS_SUPPORT_CUTS_H_
