#include "core/stats/blas.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantd {
namespace {

using ::testing::HasSubstr;

constexpr uint32_t kSeed = 20240611;

std::vector<float> RandomValues(int64_t count, uint32_t seed, float scale = 1) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(rng);
  return values;
}

std::vector<double> NaiveGram(std::span<const float> rows, int64_t num_cols) {
  std::vector<double> gram(static_cast<size_t>(num_cols * num_cols));
  const int64_t num_rows = num_cols == 0 ? 0 : static_cast<int64_t>(rows.size()) / num_cols;
  for (int64_t r = 0; r < num_rows; ++r) {
    for (int64_t i = 0; i < num_cols; ++i) {
      for (int64_t j = 0; j < num_cols; ++j) {
        gram[i * num_cols + j] += double{rows[r * num_cols + i]} * rows[r * num_cols + j];
      }
    }
  }
  return gram;
}

// Each element within 1e-5 of the lengths of its two columns, which bound it.
void ExpectGramNear(std::span<const double> gram, std::span<const double> expected, int64_t n) {
  ASSERT_EQ(gram.size(), expected.size());
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      const double bound = 1e-5 * std::sqrt(expected[i * n + i] * expected[j * n + j]);
      ASSERT_NEAR(gram[i * n + j], expected[i * n + j], bound) << i << ", " << j;
      ASSERT_EQ(gram[i * n + j], gram[j * n + i]);
    }
  }
}

std::vector<double> GramInCuts(std::span<const float> values, int64_t num_cols, size_t cut_elems) {
  absl::StatusOr<GramAccumulator> accumulator = GramAccumulator::Create(num_cols);
  EXPECT_TRUE(accumulator.ok()) << accumulator.status();
  for (size_t i = 0; i < values.size(); i += cut_elems) {
    accumulator->Add(values.subspan(i, std::min(cut_elems, values.size() - i)));
  }
  EXPECT_EQ(accumulator->num_rows(),
            num_cols == 0 ? 0 : static_cast<int64_t>(values.size()) / num_cols);
  absl::StatusOr<std::vector<double>> gram = std::move(*accumulator).Finish();
  EXPECT_TRUE(gram.ok()) << gram.status();
  return *std::move(gram);
}

struct MatrixSize {
  int64_t rows, cols;
};

constexpr MatrixSize kSizes[] = {
    {0, 0},  {0, 5},   {7, 0},   {1, 1},    {3, 1},    {kGramBlockRows, 1}, {kGramBlockRows, 16},
    {1, 40}, {511, 9}, {513, 9}, {700, 37}, {1024, 8}, {1025, 33},          {1700, 70}};

TEST(GramTest, EqualsNaiveSumInDouble) {
  for (const auto [rows, cols] : kSizes) {
    SCOPED_TRACE(testing::Message() << rows << " x " << cols << ", seed " << kSeed);
    const std::vector<float> values = RandomValues(rows * cols, kSeed);
    const std::vector<double> expected = NaiveGram(values, cols);
    ExpectGramNear(GramInCuts(values, cols, std::max<size_t>(values.size(), 1)), expected, cols);

    std::vector<double> gram(expected.size());
    ASSERT_TRUE(AccumulateGram(values, rows, cols, gram).ok());
    ExpectGramNear(gram, expected, cols);
  }
}

TEST(GramTest, AccumulateAddsToWhatIsThere) {
  const std::vector<float> values = {1, 2, 3, 4};
  std::vector<double> gram = {100, 20, 20, 300};
  ASSERT_TRUE(AccumulateGram(values, 2, 2, gram).ok());
  EXPECT_EQ(gram, (std::vector<double>{110, 34, 34, 320}));
}

TEST(GramTest, BytesDoNotDependOnCuts) {
  constexpr int64_t kCols = 37;
  const std::vector<float> values = RandomValues(1700 * kCols, kSeed);
  const std::vector<double> whole = GramInCuts(values, kCols, values.size());
  for (const size_t cut_elems : {size_t{1}, size_t{7}, size_t{kCols}, size_t{4099},
                                 size_t{kGramBlockRows * kCols}, size_t{40009}}) {
    EXPECT_EQ(GramInCuts(values, kCols, cut_elems), whole) << "cut " << cut_elems;
  }
  std::vector<double> at_once(whole.size());
  ASSERT_TRUE(AccumulateGram(values, 1700, kCols, at_once).ok());
  EXPECT_EQ(at_once, whole);
}

TEST(GramTest, BytesDoNotDependOnCallingThreads) {
  constexpr int64_t kCols = 48;
  const std::vector<float> values = RandomValues(900 * kCols, kSeed);
  const std::vector<double> alone = GramInCuts(values, kCols, values.size());
  std::vector<std::vector<double>> results(4);
  std::vector<std::thread> threads;
  for (std::vector<double>& result : results) {
    threads.emplace_back([&] { result = GramInCuts(values, kCols, 1013); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::vector<double>& result : results) EXPECT_EQ(result, alone);
}

TEST(GramTest, SquaresBeyondFloatAreSummedInDouble) {
  constexpr int64_t kCols = 5;
  for (const float scale : {1e30f, 1e-30f, 1e-42f}) {
    SCOPED_TRACE(testing::Message() << "scale " << scale << ", seed " << kSeed);
    std::vector<float> values = RandomValues(600 * kCols, kSeed, scale);
    // An ordinary block after one whose f32 sums overflowed.
    for (size_t i = 512 * kCols; i < values.size(); ++i) values[i] = 1;
    for (size_t i = 0; i < values.size(); i += kCols)
      values[i] = 0;  // a column of zeros is no reason
    ExpectGramNear(GramInCuts(values, kCols, 100), NaiveGram(values, kCols), kCols);
    std::span<const float> first_block(values.data(), 512 * kCols);
    ExpectGramNear(GramInCuts(first_block, kCols, 100), NaiveGram(first_block, kCols), kCols);
  }
}

TEST(GramTest, ValueThatIsNotFiniteSpoilsItsColumnOnly) {
  std::vector<float> values = RandomValues(600 * 3, kSeed);
  const std::vector<double> expected = NaiveGram(values, 3);
  values[3 * 100 + 1] = std::numeric_limits<float>::quiet_NaN();
  const std::vector<double> gram = GramInCuts(values, 3, 50);
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) {
      if (i == 1 || j == 1) {
        EXPECT_TRUE(std::isnan(gram[i * 3 + j])) << i << ", " << j;
      } else {
        EXPECT_NEAR(gram[i * 3 + j], expected[i * 3 + j], 1e-2);
      }
    }
  }
}

TEST(GramTest, RowThatIsNotWholeIsDataLoss) {
  absl::StatusOr<GramAccumulator> accumulator = GramAccumulator::Create(4);
  ASSERT_TRUE(accumulator.ok());
  accumulator->Add(std::vector<float>{1, 2, 3, 4, 5});
  EXPECT_EQ(accumulator->num_rows(), 1);
  const absl::Status status = std::move(*accumulator).Finish().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(status.message(), "the last row has 1 values; 4 are needed");
}

TEST(GramTest, RefusesSizesThatDoNotFit) {
  EXPECT_EQ(GramAccumulator::Create(-1).status().code(), absl::StatusCode::kInvalidArgument);
  const absl::Status beyond = GramAccumulator::Create(65537).status();
  EXPECT_EQ(beyond.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(beyond.message(), HasSubstr("65537 columns is not possible; 0..65536"));
  const std::vector<float> values(6);
  std::vector<double> gram(9);
  EXPECT_THAT(AccumulateGram(values, 3, 3, gram).message(), HasSubstr("6 elems; 3 x 3 are needed"));
  EXPECT_THAT(AccumulateGram(values, 3, 2, gram).message(), HasSubstr("9 elems; 2 x 2 are needed"));
  EXPECT_THAT(AccumulateGram(values, -3, -2, gram).message(), HasSubstr("-2"));
}

TEST(GramTest, ResidentBytesCountBlockAndSums) {
  EXPECT_EQ(GramAccumulator::ResidentBytes(0), 0);
  EXPECT_EQ(GramAccumulator::ResidentBytes(100), 100 * 512 * 12 + 100 * 100 * 12);
  EXPECT_EQ(GramAccumulator::ResidentBytes(65536), int64_t{65536} * 512 * 12 + (int64_t{12} << 32));
}

TEST(ColumnMomentsTest, EqualsNaiveSumExactlyInAnyCut) {
  for (const auto [rows, cols] : kSizes) {
    const std::vector<float> values = RandomValues(rows * cols, kSeed, 1e15f);
    std::vector<double> expected(static_cast<size_t>(cols));
    for (int64_t i = 0; i < rows * cols; ++i) {
      expected[i % cols] += double{values[i]} * double{values[i]};
    }
    for (const size_t cut_elems : {size_t{1}, size_t{13}, size_t{1 << 20}}) {
      SCOPED_TRACE(testing::Message()
                   << rows << " x " << cols << " cut " << cut_elems << ", seed " << kSeed);
      ColumnMoments moments(cols);
      for (size_t i = 0; i < values.size(); i += cut_elems) {
        moments.Add(std::span(values).subspan(i, std::min(cut_elems, values.size() - i)));
      }
      EXPECT_EQ(std::vector<double>(moments.sums().begin(), moments.sums().end()), expected);
      EXPECT_EQ(moments.num_rows(), cols == 0 ? 0 : rows);
    }
  }
}

template <typename T>
class FactorTest : public testing::Test {
 protected:
  // X'X + n I of random values, which is positive definite.
  static std::vector<T> PositiveDefinite(int64_t n) {
    const std::vector<float> values = RandomValues(2 * n * n, kSeed);
    std::vector<double> gram = NaiveGram(values, n);
    for (int64_t i = 0; i < n; ++i) gram[i * n + i] += static_cast<double>(n);
    return std::vector<T>(gram.begin(), gram.end());
  }
  static constexpr double kTolerance = sizeof(T) == 4 ? 1e-5 : 1e-13;
};
using Elems = testing::Types<float, double>;
TYPED_TEST_SUITE(FactorTest, Elems);

TYPED_TEST(FactorTest, LowerFactorTimesItsTransposeIsTheMatrix) {
  for (const int64_t n : {0, 1, 2, 31, 130}) {
    SCOPED_TRACE(testing::Message() << "n " << n << ", seed " << kSeed);
    const std::vector<TypeParam> matrix = this->PositiveDefinite(n);
    std::vector<TypeParam> factor = matrix;
    for (int64_t r = 0; r < n; ++r) {  // the upper triangle is not read
      for (int64_t c = r + 1; c < n; ++c) factor[r * n + c] = NAN;
    }
    ASSERT_TRUE(CholeskyFactor(n, std::span<TypeParam>(factor)).ok());
    for (int64_t r = 0; r < n; ++r) {
      for (int64_t c = 0; c < n; ++c) {
        double sum = 0;
        for (int64_t k = 0; k < n; ++k) sum += double{factor[r * n + k]} * factor[c * n + k];
        const double bound = double{matrix[r * n + r]} * this->kTolerance;
        ASSERT_NEAR(sum, matrix[r * n + c], bound) << r << ", " << c;
        if (c > r) {
          ASSERT_EQ(factor[r * n + c], 0);
        }
      }
    }
  }
}

TYPED_TEST(FactorTest, NamesTheFirstPivotThatIsNotPositive) {
  constexpr int64_t kN = 150;  // beyond the size where OpenBLAS works in blocks
  for (const int64_t pivot : {0, 1, 77, 149}) {
    for (const double value : {-1.0, 0.0, double{NAN}, double{INFINITY}}) {
      std::vector<TypeParam> matrix(kN * kN);
      for (int64_t i = 0; i < kN; ++i) matrix[i * kN + i] = 4;
      matrix[pivot * kN + pivot] = static_cast<TypeParam>(value);
      const absl::Status status = CholeskyFactor(kN, std::span<TypeParam>(matrix));
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(status.message(), HasSubstr(absl::StrCat("pivot ", pivot, " is ", value)));
    }
  }
}

TYPED_TEST(FactorTest, TriangularSolutionTimesTheFactorIsTheRightHandSide) {
  for (const auto& [n, num_rhs] :
       {std::pair<int64_t, int64_t>{0, 3}, {1, 1}, {5, 0}, {40, 1}, {97, 13}}) {
    std::vector<TypeParam> lower = this->PositiveDefinite(n);
    ASSERT_TRUE(CholeskyFactor(n, std::span<TypeParam>(lower)).ok());
    const std::vector<float> values = RandomValues(n * num_rhs, kSeed + 1);
    const std::vector<TypeParam> rhs(values.begin(), values.end());
    for (const Triangle triangle : {Triangle::kLower, Triangle::kTransposed}) {
      SCOPED_TRACE(testing::Message() << n << " x " << num_rhs << " triangle "
                                      << static_cast<int>(triangle) << ", seed " << kSeed);
      std::vector<TypeParam> solution = rhs;
      ASSERT_TRUE(SolveTriangular(triangle, n, num_rhs, std::span<const TypeParam>(lower),
                                  std::span<TypeParam>(solution))
                      .ok());
      for (int64_t r = 0; r < n; ++r) {
        for (int64_t c = 0; c < num_rhs; ++c) {
          double sum = 0;
          for (int64_t k = 0; k < n; ++k) {
            const int64_t at = triangle == Triangle::kLower ? r * n + k : k * n + r;
            sum += double{lower[at]} * solution[k * num_rhs + c];
          }
          ASSERT_NEAR(sum, rhs[r * num_rhs + c], 10 * this->kTolerance) << r << ", " << c;
        }
      }
    }
  }
}

TYPED_TEST(FactorTest, SolveRefusesZeroDiagonalAndWrongSizes) {
  const std::vector<TypeParam> lower = {2, 0, 1, 0};
  std::vector<TypeParam> rhs = {1, 1};
  const auto solve = [&](int64_t n, int64_t num_rhs) {
    return SolveTriangular(Triangle::kLower, n, num_rhs, std::span<const TypeParam>(lower),
                           std::span<TypeParam>(rhs));
  };
  EXPECT_EQ(solve(2, 1).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(solve(2, 1).message(), HasSubstr("0 at diagonal 1"));
  EXPECT_THAT(solve(3, 1).message(), HasSubstr("has 4 elems; 3 x 3 are needed"));
  EXPECT_THAT(solve(2, 2).message(), HasSubstr("has 2 elems; 2 x 2 are needed"));
  EXPECT_EQ(solve(-2, -1).code(), absl::StatusCode::kInvalidArgument);
}

TEST(BlasTest, IsPinnedToOneThread) {
  EXPECT_EQ(BlasThreads(), 1);
  EXPECT_FALSE(BlasCoreName().empty());
}

}  // namespace
}  // namespace quantd
