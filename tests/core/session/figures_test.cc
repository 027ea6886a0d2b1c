// The figures of a session against a recomputation in long double from what Dequantize gives.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "core/scheme/registry.h"
#include "tests/support/cuts.h"

namespace quantd {
namespace {

using testing::Bench;
using testing::Cut;
using testing::DequantizeCut;
using testing::MakeTensor;
using testing::MakeValues;
using testing::QuantizeCut;
using testing::ValueKind;

constexpr int64_t kPlenty = int64_t{1} << 32;

struct Exact {
  long double sum = 0, signal = 0, error = 0, cross = 0, m2 = 0, max_error = 0;
  int64_t max_error_elem = -1;
};

Exact Recompute(const std::vector<float>& x, const std::vector<float>& y) {
  Exact exact;
  for (size_t i = 0; i < x.size(); ++i) {
    const long double e = static_cast<long double>(x[i]) - y[i];
    exact.sum += x[i];
    exact.signal += static_cast<long double>(x[i]) * x[i];
    exact.error += e * e;
    exact.cross += static_cast<long double>(x[i]) * y[i];
    if (std::fabs(e) > exact.max_error) {
      exact.max_error = std::fabs(e);
      exact.max_error_elem = static_cast<int64_t>(i);
    }
  }
  const long double mean = exact.sum / static_cast<long double>(x.size());
  for (const float value : x) exact.m2 += (value - mean) * (value - mean);
  return exact;
}

std::vector<float> ToFloats(const std::vector<std::byte>& bytes) {
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

struct Case {
  const char* name;
  const char* spec;
  std::vector<int64_t> dims;
};

class SessionFiguresTest : public ::testing::TestWithParam<Case> {};

TEST_P(SessionFiguresTest, EqualARecomputation) {
  const Case& param = GetParam();
  const TensorDesc tensor = MakeTensor("t", DType::kF32, param.dims);
  const std::vector<std::byte> values = MakeValues(tensor, ValueKind::kNormal, 5);
  Bench bench(2);
  const absl::StatusOr<QuantizedTensor> result = QuantizeCut(
      *ParseSpec(param.spec), tensor, values, Cut::kWhole, {}, kPlenty, bench.context());
  ASSERT_TRUE(result.ok()) << result.status();
  const auto decoded = DequantizeCut(*result, DType::kF32, Cut::kWhole, bench.context());
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  const Exact exact = Recompute(ToFloats(values), ToFloats(*decoded));
  const Figures& figures = result->report.figures;
  const auto close = [](long double want, long double tolerance) {
    return static_cast<double>(std::fabs(want) * tolerance);
  };
  EXPECT_EQ(figures.count, tensor.shape.num_elems());
  EXPECT_NEAR(figures.signal_energy, static_cast<double>(exact.signal), close(exact.signal, 2e-6L));
  EXPECT_NEAR(figures.error_energy, static_cast<double>(exact.error), close(exact.error, 2e-6L));
  EXPECT_NEAR(figures.cross_energy, static_cast<double>(exact.cross), close(exact.signal, 2e-6L));
  EXPECT_NEAR(figures.m2, static_cast<double>(exact.m2), close(exact.m2, 2e-6L));
  EXPECT_NEAR(figures.max_error, static_cast<double>(exact.max_error),
              close(exact.max_error, 1e-6L));
  EXPECT_EQ(figures.max_error_elem, exact.max_error_elem);
}

// Several stripes, the last tile of each shorter than the others.
INSTANTIATE_TEST_SUITE_P(Cases, SessionFiguresTest,
                         ::testing::Values(Case{"rows", "int8:axis=0", {1000, 1001}},
                                           Case{"groups", "uint4:group=7,tail=short", {1000, 1050}},
                                           Case{"padded", "q8_0:tail=pad", {1000, 1001}},
                                           Case{"long_rows", "int8:axis=0", {3, 400001}},
                                           Case{
                                               "blocks", "int8:block=3x40,tail=short", {300, 3001}},
                                           Case{"flat", "fp16", {900001}},
                                           Case{"trailers", "fbgemm_rowwise8", {3, 150001}}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace quantd
