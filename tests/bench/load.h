#ifndef QUANTD_TESTS_BENCH_LOAD_H_
#define QUANTD_TESTS_BENCH_LOAD_H_

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/client.h"

// What benchmarks send.
namespace quantd::bench {

inline constexpr int64_t kLoadBytes = int64_t{16} << 20;
inline constexpr int64_t kLoadColumns = 4096;

// Takes what comes and keeps nothing. Thread-safe.
class DiscardSink final : public PlaneSink {
 public:
  absl::Status Begin(std::span<const PlaneDesc>) override { return absl::OkStatus(); }
  absl::Status Write(int, int64_t, std::span<const std::byte>) override { return absl::OkStatus(); }
};

// Returns the values of a tensor of kLoadBytes, f32.
inline std::span<const std::byte> LoadInput() {
  static const std::vector<float> kInput = [] {
    std::vector<float> values(kLoadBytes / sizeof(float));
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 255) - 127.0f;
    return values;
  }();
  return std::as_bytes(std::span(kInput));
}

// Quantizes that tensor; the client checks what comes back.
inline absl::StatusOr<QuantizedInfo> QuantizeOnce(const Client& client, const std::string& spec,
                                                  const CallOptions& options = {}) {
  MemorySource source(LoadInput());
  DiscardSink sink;
  const TensorDesc tensor = {"t", DType::kF32,
                             *Shape::Make({kLoadBytes / 4 / kLoadColumns, kLoadColumns})};
  return client.Quantize({tensor, *ParseSpec(spec), &source, &sink, {}, {}}, options);
}

// Returns the value below which `fraction` of `values`, which are not empty, lie.
inline double Quantile(std::vector<double> values, double fraction) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(fraction * static_cast<double>(values.size() - 1) + 0.5)];
}

}  // namespace quantd::bench

#endif  // QUANTD_TESTS_BENCH_LOAD_H_
