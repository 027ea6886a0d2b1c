#ifndef QUANTD_TESTS_SUPPORT_CUTS_H_
#define QUANTD_TESTS_SUPPORT_CUTS_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
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
enum class Cut { kWhole, kOneByte, kPrimes, kRandom };  // but for kWhole, pieces are lent
inline constexpr Cut kAllCuts[] = {Cut::kWhole, Cut::kOneByte, Cut::kPrimes, Cut::kRandom};

// Returns the pieces' sizes, which sum to `total_bytes`.
std::vector<int64_t> CutSizes(Cut cut, int64_t total_bytes, uint32_t seed);

// Keeps what a session writes, and checks that each plane comes in order and without gaps, and the
// CRC32C of what is committed.
class MemorySink : public PayloadSink {
 public:
  explicit MemorySink(std::vector<int64_t> plane_bytes);
  SinkMemory Acquire(int64_t offset_bytes, int64_t size_bytes) override;
  void Commit(int64_t offset_bytes, int64_t size_bytes, uint32_t crc32c) override;
  void Put(int plane, int64_t offset_bytes, std::span<const std::byte> bytes) override;
  bool wants_crc() const override { return true; }

  std::vector<std::vector<std::byte>> planes;
  std::atomic<bool> in_order = true;

 private:
  int64_t acquired_ = 0;
  std::vector<int64_t> committed_;
};

// Returns the planes' sizes.
std::vector<int64_t> PlaneBytes(const PackedLayout& layout);

// A copy of bytes that is gone when its keeper is: what a session must not read later.
Piece LendCopy(std::span<const std::byte> bytes);

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
