// The outlier side-car: what is kept beside the codes, and that nothing else changes. Codes and
// parameters are those of the tensor with 0 in place of its outliers, which a plain loop finds.
#include "core/session/outliers.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/minifloat.h"
#include "core/scheme/registry.h"
#include "core/session/stripes.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/cuts.h"

namespace quantd {
namespace {

using testing::Bench;
using testing::Cut;
using testing::DequantizeCut;
using ::testing::HasSubstr;
using testing::LendCopy;
using testing::MakeTensor;
using testing::MakeValues;
using testing::MemorySink;
using testing::QuantizeCut;
using testing::ValueKind;

constexpr int64_t kPlenty = int64_t{1} << 32;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

// What is kept of f32 values, by the definition: sorted by magnitude, ties by index.
struct Kept {
  std::vector<float> rest;  // with 0 for outliers
  std::vector<uint32_t> indices;
  std::vector<float> values;
};
Kept KeepOutliers(const std::vector<float>& x, size_t row_elems, size_t per_row) {
  Kept kept{x, {}, {}};
  for (size_t row = 0; row < x.size(); row += row_elems) {
    std::vector<uint32_t> finite;
    for (uint32_t i = 0; i < row_elems; ++i) {
      if (std::isfinite(x[row + i])) finite.push_back(i);
    }
    std::stable_sort(finite.begin(), finite.end(), [&](uint32_t a, uint32_t b) {
      return std::fabs(x[row + a]) > std::fabs(x[row + b]);
    });
    finite.resize(std::min(finite.size(), per_row));
    std::sort(finite.begin(), finite.end());
    for (size_t i = 0; i < per_row; ++i) {
      kept.indices.push_back(i < finite.size() ? finite[i] : kNoOutlier);
      kept.values.push_back(i < finite.size() ? x[row + finite[i]] : 0.0f);
      if (i < finite.size()) kept.rest[row + finite[i]] = 0;
    }
  }
  return kept;
}

template <typename T>
std::vector<std::byte> BytesOf(const std::vector<T>& values) {
  const auto bytes = std::as_bytes(std::span(values));
  return {bytes.begin(), bytes.end()};
}

template <typename T>
std::vector<T> ReadAs(const std::vector<std::byte>& bytes) {
  std::vector<T> values(bytes.size() / sizeof(T));
  if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

class OutliersTest : public ::testing::Test {
 protected:
  QuantizedTensor Quantize(const std::string& spec, std::vector<int64_t> dims,
                           std::span<const std::byte> values, DType dtype = DType::kF32) {
    auto made = QuantizeAll(*ParseSpec(spec), MakeTensor("t", dtype, std::move(dims)), values, {},
                            bench_.context());
    EXPECT_TRUE(made.ok()) << spec << " " << made.status();
    return made.ok() ? *std::move(made) : QuantizedTensor{};
  }
  std::vector<float> Dequantize(const QuantizedTensor& tensor) {
    auto values = DequantizeCut(tensor, DType::kF32, Cut::kWhole, bench_.context());
    EXPECT_TRUE(values.ok()) << values.status();
    return values.ok() ? ReadAs<float>(*values) : std::vector<float>{};
  }
  absl::Status Refusal(const std::string& spec, std::vector<int64_t> dims) {
    return MakePlan(*ParseSpec(spec), MakeTensor("t", DType::kF32, std::move(dims)), kPlenty)
        .status();
  }

  // Compares all that is made of `x` by `scheme` with what is made of the rest alone.
  void Check(const std::string& scheme, const std::vector<int64_t>& dims,
             const std::vector<float>& x, int64_t per_row) {
    SCOPED_TRACE(absl::StrCat(scheme, ", outliers=", per_row));
    const int64_t row_elems = dims.back();
    const Kept kept =
        KeepOutliers(x, static_cast<size_t>(row_elems), static_cast<size_t>(per_row));
    const bool has_keys = scheme.find(':') != std::string::npos;
    const QuantizedTensor made = Quantize(
        absl::StrCat(scheme, has_keys ? "," : ":", "outliers=", per_row), dims, BytesOf(x));
    const QuantizedTensor rest = Quantize(scheme, dims, BytesOf(kept.rest));
    ASSERT_EQ(made.planes.size(), rest.planes.size() + 2);
    for (size_t i = 0; i < rest.planes.size(); ++i) ASSERT_EQ(made.planes[i], rest.planes[i]) << i;
    ASSERT_EQ(made.planes[rest.planes.size()], BytesOf(kept.indices));
    ASSERT_EQ(made.planes.back(), BytesOf(kept.values));
    ASSERT_EQ(made.report.clipped, rest.report.clipped);
    ASSERT_EQ(made.report.non_finite, rest.report.non_finite);
    ASSERT_EQ(made.report.first_non_finite_elems, rest.report.first_non_finite_elems);
    // Decoding, and the figures that follow from it.
    std::vector<float> expected = Dequantize(rest);
    double error_energy = 0, largest = 0;
    int64_t count = 0;
    for (size_t i = 0; i < kept.indices.size(); ++i) {
      if (kept.indices[i] == kNoOutlier) continue;
      expected[i / static_cast<size_t>(per_row) * static_cast<size_t>(row_elems) +
               kept.indices[i]] = kept.values[i];
    }
    for (size_t i = 0; i < x.size(); ++i) {
      if (!std::isfinite(x[i])) continue;
      const double error = double{x[i]} - double{expected[i]};
      error_energy += error * error;
      largest = std::max(largest, std::fabs(error));
      ++count;
    }
    ASSERT_EQ(BytesOf(Dequantize(made)), BytesOf(expected));
    const Figures& figures = made.report.figures;
    ASSERT_EQ(figures.count, count);
    ASSERT_NEAR(figures.error_energy, error_energy, 1e-5 * error_energy);  // sums of f32
    ASSERT_NEAR(figures.max_error, largest, 1e-6 * largest);
    ASSERT_EQ(figures.max_error_elem == -1, largest == 0);
  }

  Bench bench_{1};
};

TEST_F(OutliersTest, AreTheLargestOfEachRow) {
  const std::vector<float> x = {0.1f, -9.5f, 0.2f, 0.3f, 8.0f, -0.1f};
  const QuantizedTensor made = Quantize("int8:outliers=2", {6}, BytesOf(x));
  EXPECT_EQ(ReadAs<uint32_t>(made.planes[2]), (std::vector<uint32_t>{1, 4}));
  EXPECT_EQ(ReadAs<float>(made.planes[3]), (std::vector<float>{-9.5f, 8.0f}));
  EXPECT_EQ(ReadAs<float>(made.planes[1]), (std::vector<float>{0.3f / 127}));
  EXPECT_EQ(ReadAs<int8_t>(made.planes[0]), (std::vector<int8_t>{42, 0, 85, 127, 0, -42}));
  EXPECT_EQ(made.plan.resolved.layout.planes[2].name, "outlier_index");
  EXPECT_EQ(made.plan.resolved.layout.planes[3].name, "outlier_value");
  EXPECT_THAT(FormatSpec(made.plan.resolved.spec), HasSubstr(",outliers=2,"));
}

// Every row of three of these values, whatever the ties, in two rows.
TEST_F(OutliersTest, FollowTheDefinitionOnEverySmallTensor) {
  const float values[] = {0.0f, -0.0f, 1, -1, 0.5f, -2, 3.0e38f, kNan, kInf};
  const size_t n = std::size(values);
  for (size_t i = 0; i < n * n * n; ++i) {
    const std::vector<float> x = {values[i % n],     values[i / n % n], values[i / n / n],
                                  values[i / n / n], 0.25f,             values[i % n]};
    for (const int64_t per_row : {1, 2, 3}) {
      ASSERT_NO_FATAL_FAILURE(Check("int4:nonfinite=saturate", {2, 3}, x, per_row));
    }
  }
}

TEST_F(OutliersTest, LeaveTheRestToEveryScheme) {
  const TensorDesc tensor = MakeTensor("t", DType::kF32, {40, 256});
  const std::vector<float> x = ReadAs<float>(MakeValues(tensor, ValueKind::kNormal, 3));
  for (const Scheme* scheme : AllSchemes()) {
    for (const int64_t per_row : {1, 7, 256}) {
      ASSERT_NO_FATAL_FAILURE(Check(std::string(scheme->info.name), {40, 256}, x, per_row));
    }
  }
}

TEST_F(OutliersTest, GoWithEveryGranularityAndRange) {
  const TensorDesc tensor = MakeTensor("t", DType::kF32, {12, 5000});
  std::vector<float> x = ReadAs<float>(MakeValues(tensor, ValueKind::kNormal, 3));
  for (const char* spec :
       {"int4:axis=0", "int4:axis=-1", "int4:group=7,tail=short", "uint8:group=-1",
        "int4:block=5x64,tail=short", "int8:range=3sigma", "int8:range=p99", "int8:range=mse",
        "int8:range=entropy,axis=0", "int3:axis=0,range=2sigma", "int8:range=-1..1",
        "int8:scale=0.02", "uint4:scale_type=dyadic16", "int8:round=stochastic,seed=3",
        "fp8_e4m3:per=tensor", "nf4:scale_type=nested8", "lloyd:levels=8", "binary:axis=0"}) {
    for (const int64_t per_row : {1, 50}) {
      ASSERT_NO_FATAL_FAILURE(Check(spec, {12, 5000}, x, per_row));
    }
  }
  for (size_t i = 0; i < x.size(); i += 611) x[i] = i % 2 == 0 ? kNan : -kInf;
  for (const char* spec : {"int8:nonfinite=saturate", "int4:axis=0,nonfinite=saturate,range=2sigma",
                           "q8_0:tail=pad,nonfinite=saturate", "fp16:nonfinite=propagate"}) {
    for (const int64_t per_row : {2, 5000}) {
      ASSERT_NO_FATAL_FAILURE(Check(spec, {12, 5000}, x, per_row));
    }
  }
}

// Rows of many stripes: parameters of bands that are held, of columns, and of the tensor.
TEST_F(OutliersTest, GoWithLongBands) {
  const TensorDesc tensor = MakeTensor("t", DType::kF32, {4, 50, 2001});
  const std::vector<float> x = ReadAs<float>(MakeValues(tensor, ValueKind::kNormal, 8));
  for (const char* spec : {"int8", "int4:axis=1", "uint3:axis=0", "int8:axis=-1",
                           "int4:block=50x100,tail=short", "nf4:group=128", "int8:range=p99.9",
                           "nf4:scale_type=nested8", "int4:axis=0,range=p99", "ternary:axis=0",
                           "lloyd:axis=0,levels=4", "int8:axis=-1,range=p90",
                           "int4:axis=1,range=mse"}) {
    ASSERT_NO_FATAL_FAILURE(Check(spec, {4, 50, 2001}, x, 3));
  }
}

// The tensor's own type, bit for bit, and what becomes of it where another is wanted.
TEST_F(OutliersTest, AreKeptInTheTensorsType) {
  for (const DType dtype : AllDTypes()) {
    if (!IsQuantizable(dtype)) continue;
    const TensorDesc tensor = MakeTensor("t", dtype, {3, 70});
    const bool small = IsFloat(dtype) && SizeOf(dtype) < 4;  // wide ones would be infinite
    const std::vector<std::byte> x =
        MakeValues(tensor, small ? ValueKind::kNormal : ValueKind::kWide, 5);
    const QuantizedTensor all = Quantize("int8:nonfinite=saturate,outliers=70", {3, 70}, x, dtype);
    ASSERT_EQ(all.planes.back().size(), x.size());
    ASSERT_EQ(all.planes.back(), x) << NameOf(dtype);
    EXPECT_TRUE(all.report.figures.Lossless()) << NameOf(dtype);
  }
  const std::vector<double> wide = {1, 1e300, -1e300, 0.1};
  const QuantizedTensor made = Quantize("int8:outliers=4", {4}, BytesOf(wide), DType::kF64);
  EXPECT_EQ(Dequantize(made), (std::vector<float>{1, FLT_MAX, -FLT_MAX, 0.1f}));
  const auto halves = DequantizeCut(made, DType::kF16, Cut::kWhole, bench_.context());
  ASSERT_TRUE(halves.ok());
  EXPECT_EQ(ReadAs<uint16_t>(*halves), (std::vector<uint16_t>{0x3C00, 0x7BFF, 0xFBFF, 0x2E66}));
  const auto same = DequantizeCut(made, DType::kF64, Cut::kWhole, bench_.context());
  EXPECT_EQ(ReadAs<double>(*same), wide);
}

TEST_F(OutliersTest, NoneWhereThereAreNoValues) {
  const QuantizedTensor empty = Quantize("int8:outliers=3", {0, 5}, {});
  EXPECT_EQ(empty.plan.resolved.layout.planes[2].shape.Text(), "[0, 3]");
  EXPECT_TRUE(empty.planes[2].empty() && empty.planes[3].empty());
  EXPECT_TRUE(Dequantize(empty).empty());
  const float value = -7;
  const QuantizedTensor scalar =
      Quantize("int8:outliers=1", {}, std::as_bytes(std::span(&value, 1)));
  EXPECT_EQ(scalar.plan.resolved.layout.planes[2].shape.Text(), "[1]");
  EXPECT_EQ(Dequantize(scalar), std::vector<float>{-7});
}

TEST_F(OutliersTest, RowsThatAreTooShortOrTooLongAreRefused) {
  EXPECT_EQ(Refusal("int8:outliers=5", {100, 4}).message(),
            "outliers=5 is more than a row of shape [100, 4] has, which is 4");
  EXPECT_EQ(Refusal("int8:outliers=2", {}).message(),
            "outliers=2 is more than a row of shape [] has, which is 1");
  EXPECT_EQ(Refusal("int8:outliers=1", {3, 0}).message(),
            "outliers=1 is more than a row of shape [3, 0] has, which is 0");
  EXPECT_EQ(Refusal("int8:outliers=1", {3, kStripeElems}), absl::OkStatus());
  EXPECT_EQ(Refusal("int8:outliers=1", {3, kStripeElems + 1}).message(),
            "outliers=1 takes rows that end with their codes within 65536 elements; those of shape "
            "[3, 65537] do so after 65537");
  EXPECT_EQ(Refusal("int4:outliers=1", {3, 32769}).message(),
            "outliers=1 takes rows that end with their codes within 65536 elements; those of shape "
            "[3, 32769] do so after 65538");
  EXPECT_EQ(Refusal("int4:outliers=1", {1, 65535}), absl::OkStatus());  // the tensor ends there
  const auto fallback =
      MakePlan(*ParseSpec("int8:outliers=5,incompatible=fp16"), MakeTensor("t", DType::kF32, {4}),
               kPlenty);
  ASSERT_TRUE(fallback.ok());
  EXPECT_EQ(FormatSpec(fallback->resolved.spec).substr(0, 5), "fp16:");
  EXPECT_THAT(fallback->fallback_reason, HasSubstr("outliers=5 is more than a row"));
  for (const char* text : {"int8:outliers=0", "int8:outliers=-1", "int8:outliers=x"}) {
    EXPECT_THAT(std::string(ParseSpec(text).status().message()),
                HasSubstr("is not allowed; use a whole number of at least 1"));
  }
}

// What comes from outside: nothing is written beyond a row, and the row is named.
TEST_F(OutliersTest, IndicesThatAreNoneAreRefused) {
  const TensorDesc tensor = MakeTensor("t", DType::kF32, {300, 500});
  const QuantizedTensor made = Quantize("int8:axis=0,outliers=3", {300, 500},
                                        MakeValues(tensor, ValueKind::kNormal, 2));
  const auto with = [&](const std::vector<uint32_t>& row, uint32_t at) {
    QuantizedTensor changed = made;
    std::memcpy(&changed.planes[2][at * 12], row.data(), 12);
    return DequantizeCut(changed, DType::kF32, Cut::kWhole, bench_.context()).status();
  };
  EXPECT_EQ(with({0, 1, 500}, 299).message(),
            "outlier_index 500 of row 299 is not allowed; use 0 to 499, ascending, unused ones "
            "(4294967295) last");
  const auto message = [&](const std::vector<uint32_t>& row, uint32_t at) {
    return std::string(with(row, at).message());
  };
  EXPECT_THAT(message({4, 3, 5}, 7), HasSubstr("outlier_index 3 of row 7"));
  EXPECT_THAT(message({4, 4, 5}, 7), HasSubstr("outlier_index 4 of row 7"));
  EXPECT_THAT(message({4, kNoOutlier, 5}, 0), HasSubstr("outlier_index 5 of row 0"));
  EXPECT_THAT(message({1, 2, 0xFFFFFFFE}, 0), HasSubstr("outlier_index 4294967294 of row 0"));
  EXPECT_EQ(with({1, 2, 0xFFFFFFFE}, 0).code(), absl::StatusCode::kInvalidArgument);
  // Digests differ, and nothing else is wrong: unused entries are allowed.
  EXPECT_EQ(with({1, 2, kNoOutlier}, 0).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(with({kNoOutlier, kNoOutlier, kNoOutlier}, 0).code(), absl::StatusCode::kInternal);
}

TEST_F(OutliersTest, PlanesOfOtherSizesAreRefused) {
  const TensorDesc tensor = MakeTensor("t", DType::kF32, {4, 100});
  QuantizedTensor made =
      Quantize("int8:outliers=3", {4, 100}, MakeValues(tensor, ValueKind::kNormal, 2));
  for (const size_t plane : {2, 3}) {
    QuantizedTensor changed = made;
    changed.planes[plane].pop_back();
    const auto status = [&] {
      return DequantizeCut(changed, DType::kF32, Cut::kWhole, bench_.context()).status();
    };
    EXPECT_THAT(std::string(status().message()),
                HasSubstr(absl::StrCat("plane \"", made.plan.resolved.layout.planes[plane].name,
                                       "\" needs 48 bytes by now and has 47")));
    changed.planes[plane].resize(made.planes[plane].size() + 1);
    EXPECT_EQ(status().code(), absl::StatusCode::kOutOfRange);
  }
}

// Codes of a stripe need the outliers of its rows, and no more.
TEST_F(OutliersTest, OutliersPrecedeTheirCodes) {
  const TensorDesc tensor = MakeTensor("t", DType::kF32, {200, 1000});  // stripes of 65 rows
  const QuantizedTensor made =
      Quantize("int8:axis=0,outliers=2", {200, 1000}, MakeValues(tensor, ValueKind::kNormal, 2));
  MemorySink sink({800'000});
  auto session = *DequantizeSession::Create(made.plan, DType::kF32, sink, bench_.context());
  const auto push = [&](int plane, size_t begin, size_t end) {
    const auto bytes = std::span(made.planes[static_cast<size_t>(plane)]);
    session->Push(plane, LendCopy(bytes.subspan(begin, end - begin)));
    session->Await();
    return session->status();
  };
  EXPECT_EQ(push(1, 0, 800), absl::OkStatus());
  EXPECT_EQ(push(2, 0, 65 * 8), absl::OkStatus());
  EXPECT_EQ(push(3, 0, 65 * 8), absl::OkStatus());
  EXPECT_EQ(push(0, 0, 65'000), absl::OkStatus());
  EXPECT_EQ(push(2, 65 * 8, 200 * 8), absl::OkStatus());
  EXPECT_EQ(push(0, 65'000, 129'999), absl::OkStatus());
  EXPECT_EQ(push(0, 129'999, 130'000).message(),
            "codes came before their parameters: plane \"outlier_value\" needs 1040 bytes by now "
            "and has 520");
}

// Two passes give what one gives, and the ranges are those of the rest.
TEST_F(OutliersTest, CalibrationSeesTheRest) {
  const TensorDesc tensor = MakeTensor("t", DType::kF32, {100, 2000});
  const std::vector<std::byte> x = MakeValues(tensor, ValueKind::kNormal, 6);
  const Kept kept = KeepOutliers(ReadAs<float>(x), 2000, 4);
  const QuantSpec spec = *ParseSpec("int8:outliers=4,range=p99.9");
  const auto calibrate = [&](const QuantSpec& by, std::span<const std::byte> values) {
    const Plan plan = *MakePlan(by, tensor, kPlenty);
    return *RangesOf(plan,
                     *testing::CalibrateCut(plan, values, Cut::kPrimes, {}, bench_.context()));
  };
  const CalibratedRanges ranges = calibrate(spec, x);
  EXPECT_EQ(ranges.groups, calibrate(*ParseSpec("int8:range=p99.9"), BytesOf(kept.rest)).groups);
  QuantizeOptions options;
  options.ranges = ranges.groups;
  options.tensor_range = ranges.tensor;
  const auto second =
      QuantizeCut(spec, tensor, x, Cut::kRandom, options, int64_t{1} << 22, bench_.context());
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->planes, Quantize("int8:outliers=4,range=p99.9", {100, 2000}, x).planes);
}

}  // namespace
}  // namespace quantd
