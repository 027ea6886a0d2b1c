// A tensor of finite values comes back finite, however near the end of its type they lie: attention
// masks are filled with the smallest float, for one. What an output type does not hold is its
// largest, and counted.
#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/minifloat.h"
#include "core/scheme/registry.h"
#include "core/simd/convert.h"
#include "tests/support/cuts.h"
#include "tests/support/specs.h"

namespace quantd {
namespace {

using testing::Bench;
using testing::MakeTensor;
using testing::MemorySink;
using testing::SpecsOf;

constexpr int64_t kRows = 4, kColumns = 256;
constexpr DType kFloats[] = {DType::kF32, DType::kF16, DType::kBf16, DType::kF64};

double LargestOf(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return 65504;
    case DType::kBf16:
      return 0x1.FEp127;
    case DType::kF32:
      return FLT_MAX;
    default:
      return DBL_MAX;
  }
}

std::vector<std::byte> BytesOf(DType dtype, const std::vector<double>& values) {
  std::vector<std::byte> bytes(values.size() * static_cast<size_t>(SizeOf(dtype)));
  for (size_t i = 0; i < values.size(); ++i) {
    const auto store = [&](auto value) {
      std::memcpy(&bytes[i * sizeof(value)], &value, sizeof(value));
    };
    if (dtype == DType::kF64) {
      store(values[i]);
    } else if (dtype == DType::kF32) {
      store(static_cast<float>(values[i]));
    } else {
      const MiniFormat& format = dtype == DType::kF16 ? kHalfFormat : kBfloatFormat;
      store(static_cast<uint16_t>(NarrowFloat(format, values[i], Rounding::kTruncate, true)));
    }
  }
  return bytes;
}

std::vector<double> ValuesOf(DType dtype, std::span<const std::byte> bytes) {
  const int64_t count = std::ssize(bytes) / SizeOf(dtype);
  std::vector<double> values(static_cast<size_t>(count));
  if (dtype == DType::kF64) {
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }
  std::vector<float> narrow(values.size());
  WidenToF32(dtype, bytes.data(), count, narrow.data());
  return {narrow.begin(), narrow.end()};
}

// What a mask and its like look like; each row has groups of its own.
std::vector<std::vector<double>> TensorsUpTo(double largest) {
  constexpr size_t kElems = kRows * kColumns;
  std::mt19937 rng(11);
  std::vector<std::vector<double>> tensors(5, std::vector<double>(kElems));
  for (size_t i = 0; i < kElems; ++i) {
    const size_t row = i / kColumns, column = i % kColumns;
    const double share = static_cast<double>(rng()) * 0x1p-32;
    tensors[0][i] = column > row ? -largest : 0;
    tensors[1][i] = rng() % 2 == 0 ? largest : -largest;
    tensors[2][i] = largest;
    tensors[3][i] = (share * 2 - 1) * largest;
    tensors[4][i] = column % 16 == 3 ? largest : -largest * 0.4 * share;
  }
  return tensors;
}

class LargestValuesTest : public ::testing::TestWithParam<const Scheme*> {
 protected:
  struct Decoded {
    std::vector<double> values;
    int64_t saturated;
  };
  Decoded Decode(const QuantizedTensor& tensor, DType dtype) {
    MemorySink sink({tensor.plan.resolved.tensor.shape.num_elems() * SizeOf(dtype)});
    auto session = *DequantizeSession::Create(tensor.plan, dtype, sink, bench_.context());
    for (size_t i = tensor.planes.size(); i-- > 0;) {
      session->Push(static_cast<int>(i), {tensor.planes[i], nullptr});
    }
    session->EndInput();
    session->Await();
    const absl::StatusOr<DecodingReport> report = session->Finish();
    EXPECT_TRUE(report.ok()) << report.status();
    return {ValuesOf(dtype, sink.planes[0]), report.ok() ? report->saturated : -1};
  }

  // In all output types. What f64 holds tells how many others do not.
  void ExpectFinite(const QuantizedTensor& tensor) {
    const std::vector<double> exact = Decode(tensor, DType::kF64).values;
    for (const double value : exact) ASSERT_TRUE(std::isfinite(value));
    for (const DType dtype : kFloats) {
      const Decoded decoded = Decode(tensor, dtype);
      const double largest = LargestOf(dtype);
      int64_t beyond = 0;
      for (size_t i = 0; i < exact.size(); ++i) {
        ASSERT_LE(std::fabs(decoded.values[i]), largest) << NameOf(dtype);
        // Half a step of the type: f16's 65520 rounds to infinity, f32's largest and 2^103.
        const double half_step = dtype == DType::kF16    ? 16
                                 : dtype == DType::kBf16 ? 0x1p119
                                 : dtype == DType::kF32  ? 0x1p103
                                                         : 0;
        beyond += dtype != DType::kF64 && std::fabs(exact[i]) >= largest + half_step;
      }
      // nvfp4's own rule for f32 is that nothing leaves it.
      if (GetParam()->info.name != "nvfp4") ASSERT_EQ(decoded.saturated, beyond) << NameOf(dtype);
      const bool holds = dtype == DType::kF64 ||
                         (dtype == DType::kF32 && WorksAsF32(tensor.plan.resolved.tensor.dtype));
      if (holds) ASSERT_EQ(decoded.saturated, 0);
    }
  }

  Bench bench_{0};
};

TEST_P(LargestValuesTest, ComeBackFinite) {
  int checked = 0;
  for (const std::string& spec : SpecsOf(GetParam()->info)) {
    if (absl::StrContains(spec, "propagate")) continue;  // which asks for infinities
    for (const DType dtype : kFloats) {
      const TensorDesc tensor = MakeTensor("t", dtype, {kRows, kColumns});
      for (const std::vector<double>& values : TensorsUpTo(LargestOf(dtype))) {
        const auto result = QuantizeAll(*ParseSpec(spec), tensor, BytesOf(dtype, values), {},
                                        bench_.context());
        if (!result.ok()) {  // some keys want others beside them, or a shape
          ASSERT_TRUE(absl::IsInvalidArgument(result.status())) << result.status();
          break;
        }
        ++checked;
        EXPECT_TRUE(std::isfinite(result->report.figures.max_error)) << spec;
        ASSERT_NO_FATAL_FAILURE(ExpectFinite(*result)) << spec << " of " << NameOf(dtype);
      }
    }
  }
  EXPECT_GE(checked, 20);
}

// ggml's bytes have an infinite d for them where it searches for scales.
class SearchedValuesTest : public ::testing::TestWithParam<const Scheme*> {};

TEST_P(SearchedValuesTest, InfinitiesAsInGgmlAreCounted) {
  const SchemeInfo& info = GetParam()->info;
  const int64_t block_elems = info.granularities[0].group_elems;
  Bench bench(0);
  std::vector<double> values(512, 1);
  for (const double large : {1e9, 1e20, double{FLT_MAX}}) {
    values[3] = large;
    const auto result =
        QuantizeAll(*ParseSpec(info.name), MakeTensor("t", DType::kF32, {2, 256}),
                    BytesOf(DType::kF32, values), {}, bench.context());
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_GE(result->report.clipped, block_elems / 16);
    EXPECT_LE(result->report.clipped, block_elems);
  }
}

std::vector<const Scheme*> SchemesThatSearch(bool search) {
  std::vector<const Scheme*> schemes;
  for (const Scheme* scheme : AllSchemes()) {
    if (testing::AlwaysSearches(*scheme) == search) schemes.push_back(scheme);
  }
  return schemes;
}

std::string NameOfScheme(const ::testing::TestParamInfo<const Scheme*>& info) {
  return std::string(info.param->info.name);
}

INSTANTIATE_TEST_SUITE_P(Schemes, LargestValuesTest, ::testing::ValuesIn(SchemesThatSearch(false)),
                         NameOfScheme);
INSTANTIATE_TEST_SUITE_P(Schemes, SearchedValuesTest, ::testing::ValuesIn(SchemesThatSearch(true)),
                         NameOfScheme);

}  // namespace
}  // namespace quantd
