#include "core/session/report.h"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"

namespace quantd {
namespace {

TEST(FiguresTest, DerivesFromSums) {
  // x = {1, 2, 3}, y = {1, 2, 4}.
  const Figures figures = {.count = 3,
                           .sum = 6,
                           .min = 1,
                           .max = 3,
                           .m2 = 2,
                           .signal_energy = 14,
                           .error_energy = 1,
                           .cross_energy = 17,
                           .max_error = 1,
                           .max_error_elem = 2};
  EXPECT_DOUBLE_EQ(*figures.Mean(), 2);
  EXPECT_DOUBLE_EQ(*figures.StdDev(), std::sqrt(2.0 / 3));
  EXPECT_DOUBLE_EQ(*figures.Mse(), 1.0 / 3);
  EXPECT_DOUBLE_EQ(*figures.SqnrDb(), 10 * std::log10(14.0));
  EXPECT_DOUBLE_EQ(*figures.Cosine(), 17 / (std::sqrt(14.0) * std::sqrt(21.0)));
  EXPECT_FALSE(figures.Lossless());
}

TEST(FiguresTest, NothingIsInventedForNoValues) {
  const Figures figures;
  EXPECT_FALSE(figures.Mean() || figures.StdDev() || figures.Mse() || figures.SqnrDb() ||
               figures.Cosine());
  EXPECT_FALSE(figures.Lossless());
}

TEST(FiguresTest, AZeroSignalHasNoRatio) {
  const Figures zeros = {.count = 5};
  EXPECT_EQ(zeros.Mean(), 0);
  EXPECT_EQ(zeros.Mse(), 0);
  EXPECT_FALSE(zeros.SqnrDb() || zeros.Cosine());
  EXPECT_TRUE(zeros.Lossless());
  const Figures to_zero = {.count = 1, .signal_energy = 4, .error_energy = 4};
  EXPECT_EQ(to_zero.SqnrDb(), 0);
  EXPECT_FALSE(to_zero.Cosine());  // y = 0 has no direction
}

TEST(FiguresTest, LosslessHasNoSqnr) {
  const Figures figures = {.count = 2, .signal_energy = 5, .cross_energy = 5};
  EXPECT_TRUE(figures.Lossless());
  EXPECT_FALSE(figures.SqnrDb());
  EXPECT_DOUBLE_EQ(*figures.Cosine(), 1);
  // Squares of the error vanish, the error does not.
  const Figures tiny = {.count = 2, .signal_energy = 5, .cross_energy = 5, .max_error = 1e-200};
  EXPECT_FALSE(tiny.Lossless());
}

TEST(FiguresTest, EnergiesThatADoubleDoesNotHold) {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  const Figures lost = {.count = 2, .signal_energy = 5, .error_energy = kInf, .cross_energy = 1};
  EXPECT_FALSE(lost.SqnrDb() || lost.Cosine());
  const Figures huge = {.count = 2, .signal_energy = kInf, .error_energy = 1, .cross_energy = kInf};
  EXPECT_FALSE(huge.SqnrDb() || huge.Cosine());
  const Figures both = {.count = 2, .signal_energy = kInf, .error_energy = kInf};
  EXPECT_FALSE(both.SqnrDb() || both.Cosine());
}

}  // namespace
}  // namespace quantd
