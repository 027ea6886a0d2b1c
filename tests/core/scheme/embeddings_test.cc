#include "core/scheme/embeddings.h"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "core/exec/buffer_pool.h"
#include "core/exec/executor.h"
#include "core/exec/memory_budget.h"
#include "core/session/quantize_session.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/cuts.h"
#include "tests/support/values.h"

// Dialects of embeddings: what they refuse, and the values that no package's bytes show.

namespace quantd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class EmbeddingsTest : public ::testing::Test {
 protected:
  template <typename T>
  absl::StatusOr<QuantizedTensor> Quantize(const char* spec, std::vector<int64_t> dims,
                                           const std::vector<T>& values) {
    const DType dtype = sizeof(T) == 4 ? DType::kF32 : DType::kF64;
    return QuantizeAll(*ParseSpec(spec), testing::MakeTensor("t", dtype, std::move(dims)),
                       std::as_bytes(std::span(values)), {}, context_);
  }

  static std::vector<int> Codes(const QuantizedTensor& tensor, bool is_signed = true) {
    std::vector<int> codes;
    for (const std::byte byte : tensor.planes[0]) {
      const int code = std::to_integer<int>(byte);
      codes.push_back(is_signed ? static_cast<int8_t>(code) : code);
    }
    return codes;
  }

  std::string Refusal(const char* spec, std::vector<int64_t> dims) {
    const TensorDesc tensor = testing::MakeTensor("t", DType::kF32, std::move(dims));
    const absl::StatusOr<Plan> plan = MakePlan(*ParseSpec(spec), tensor, int64_t{1} << 30);
    EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument) << spec;
    return std::string(plan.status().message());
  }

  Executor executor_{1};
  BufferPool pool_{size_t{1} << 20};
  MemoryBudget budget_{int64_t{1} << 30};
  SessionContext context_{&executor_, &pool_, &budget_};
};

// The pictures in embeddings.h.
TEST_F(EmbeddingsTest, AreAsTheyAreDrawn) {
  const std::vector<float> column = {-1, 0.5, 3};
  const auto steps = Quantize("uint8:dialect=sentence_transformers", {3, 1}, column);
  ASSERT_TRUE(steps.ok()) << steps.status();
  EXPECT_THAT(Codes(*steps, false), ElementsAre(0, 95, 254));
  const auto lower = Quantize("int8:dialect=sentence_transformers", {3, 1}, column);
  ASSERT_TRUE(lower.ok()) << lower.status();
  EXPECT_THAT(Codes(*lower), ElementsAre(-128, -33, 126));
  const auto vector = Quantize("int8:dialect=usearch", {2}, std::vector<float>{3, -4});
  ASSERT_TRUE(vector.ok()) << vector.status();
  EXPECT_THAT(Codes(*vector), ElementsAre(76, -101));
}

// What lies outside of given ranges saturates, and is counted.
TEST_F(EmbeddingsTest, SaturateOutsideOfTheRange) {
  const std::vector<float> values = {-5, 0, 1, 1.003f, 200};
  const auto made = Quantize("int8:dialect=sentence_transformers,range=0..1", {5, 1}, values);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_THAT(Codes(*made), ElementsAre(-128, -128, 126, 127, 127));
  EXPECT_EQ(made->report.clipped, 3);
}

// Their widths overflow f32.
TEST_F(EmbeddingsTest, KeepOrderNearTheEndOfF32) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  const std::vector<float> values = {-kLargest, -kLargest / 2, 0, kLargest / 2, kLargest};
  const auto made = Quantize("uint8:dialect=sentence_transformers", {5, 1}, values);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_THAT(Codes(*made, false), ElementsAre(0, 63, 127, 191, 255));
}

// Squares that f64 does not hold, and ones that vanish, leave no direction.
TEST_F(EmbeddingsTest, HaveNoDirectionWithoutNorm) {
  const std::vector<double> values = {1e200, -1e307, 1e-200, 0, 0, 3};
  const auto made = Quantize("int8:dialect=usearch", {3, 2}, values);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_THAT(Codes(*made), ElementsAre(0, 0, 0, 0, 0, 127));
}

TEST_F(EmbeddingsTest, RefuseWhatTheyDoNotHave) {
  const char* const of_steps = "int8:dialect=sentence_transformers";
  EXPECT_THAT(Refusal("uint8:dialect=sentence_transformers,scale=0.5", {4, 4}),
              HasSubstr("takes no scale= or zero="));
  EXPECT_THAT(Refusal((std::string(of_steps) + ",mode=symmetric").c_str(), {4, 4}),
              HasSubstr("does not have mode=symmetric; it has asymmetric"));
  EXPECT_THAT(Refusal((std::string(of_steps) + ",layout=words").c_str(), {4, 4}),
              HasSubstr("does not have layout=words; it has flat"));
  EXPECT_THAT(Refusal((std::string(of_steps) + ",round=half_even").c_str(), {4, 4}),
              HasSubstr("does not have round=half_even; it has floor"));
  for (const char* key : {"axis=0", "range=-1..1", "range=3sigma", "scale=0.5"}) {
    EXPECT_THAT(Refusal((std::string("int8:dialect=usearch,") + key).c_str(), {4, 4}),
                HasSubstr("takes a scale from each vector, group=-1"));
  }
  EXPECT_THAT(Refusal("int8:dialect=usearch", {2, 4097}),
              HasSubstr("takes vectors of at most 4096 elems; axis 1 has 4097"));
  EXPECT_THAT(Refusal("int8:dialect=usearch", {}), HasSubstr("shape [] has no rows"));
  EXPECT_THAT(Refusal("int3:layout=words", {}), HasSubstr("layout=words needs rank 1 or more"));
}

}  // namespace
}  // namespace quantd
