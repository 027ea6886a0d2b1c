#include "core/simd/convert.h"

#include <bit>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "core/base/minifloat.h"
#include "core/simd/targets.h"
#include "gtest/gtest.h"

namespace quantd {
namespace {

class ConvertTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(ChooseSimdTarget(GetParam()).ok()); }
  void TearDown() override { ASSERT_TRUE(ChooseSimdTarget("").ok()); }

  template <typename Int>
  void WidensInts(DType dtype) {
    const Int limits[] = {std::numeric_limits<Int>::min(), std::numeric_limits<Int>::max()};
    for (int64_t num_elems = 0; num_elems <= 70; ++num_elems) {
      std::vector<Int> values(static_cast<size_t>(num_elems));
      for (size_t i = 0; i < values.size(); ++i) {
        values[i] = i < 2 ? limits[i] : static_cast<Int>(37 * i);
      }
      std::vector<float> wide(values.size() + 1, -1);
      WidenToF32(dtype, reinterpret_cast<const std::byte*>(values.data()), num_elems, wide.data());
      for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(wide[i], static_cast<float>(values[i]));
      ASSERT_EQ(wide.back(), -1) << "beyond " << num_elems;
    }
  }

  template <typename T>
  void NarrowsEveryLength(HalfKind kind, const MiniFormat& format) {
    std::mt19937 rng(11);
    for (int64_t num_elems = 0; num_elems <= 130; ++num_elems) {
      std::vector<T> values(static_cast<size_t>(num_elems));
      std::vector<uint32_t> noise(values.size());
      int64_t clipped = 0;
      for (size_t i = 0; i < values.size(); ++i) {
        values[i] = static_cast<T>(std::bit_cast<float>(static_cast<uint32_t>(rng())));
        noise[i] = static_cast<uint32_t>(rng());
        clipped +=
            std::isfinite(values[i]) && kind == HalfKind::kF16 && std::fabs(values[i]) >= 65520;
      }
      for (int rule = 0; rule < kNumRoundings; ++rule) {
        for (const bool saturate : {false, true}) {
          std::vector<uint16_t> codes(values.size() + 1, 0xABCD);
          const int64_t counted =
              NarrowToHalf(kind, static_cast<Rounding>(rule), saturate, values.data(), num_elems,
                           noise.data(), codes.data());
          if (kind == HalfKind::kF16) {
            ASSERT_EQ(counted, clipped);
          }
          for (size_t i = 0; i < values.size(); ++i) {
            ASSERT_EQ(codes[i], NarrowFloat(format, values[i], static_cast<Rounding>(rule),
                                            saturate, noise[i]))
                << values[i] << " rule " << rule;
          }
          ASSERT_EQ(codes.back(), 0xABCD) << "beyond " << num_elems;
        }
      }
    }
  }

  template <typename T>
  void WidensEveryCode(HalfKind kind, const MiniFormat& format) {
    std::vector<uint16_t> codes(65536 + 3);
    std::iota(codes.begin(), codes.end(), uint16_t{0});
    std::vector<T> wide(codes.size());
    WidenHalf(kind, codes.data(), static_cast<int64_t>(codes.size()), wide.data());
    for (size_t i = 0; i < codes.size(); ++i) {
      const T want = WidenFloat<T>(format, codes[i]);
      ASSERT_EQ(0, std::memcmp(&wide[i], &want, sizeof(T))) << codes[i];
    }
  }
};

TEST_P(ConvertTest, WidensInts) {
  WidensInts<int8_t>(DType::kInt8);
  WidensInts<uint8_t>(DType::kUint8);
  WidensInts<int16_t>(DType::kInt16);
  WidensInts<uint16_t>(DType::kUint16);
}

TEST_P(ConvertTest, NarrowsEveryLengthByEveryRule) {
  NarrowsEveryLength<float>(HalfKind::kF16, kHalfFormat);
  NarrowsEveryLength<double>(HalfKind::kF16, kHalfFormat);
  NarrowsEveryLength<float>(HalfKind::kBf16, kBfloatFormat);
  NarrowsEveryLength<double>(HalfKind::kBf16, kBfloatFormat);
}

TEST_P(ConvertTest, WidensEveryCode) {
  WidensEveryCode<float>(HalfKind::kF16, kHalfFormat);
  WidensEveryCode<double>(HalfKind::kF16, kHalfFormat);
  WidensEveryCode<float>(HalfKind::kBf16, kBfloatFormat);
  WidensEveryCode<double>(HalfKind::kBf16, kBfloatFormat);
}

TEST_P(ConvertTest, CountsWhatBf16CannotHold) {
  constexpr float kMax = std::numeric_limits<float>::max();
  // The largest code is 0x1.FEp127, half a step beyond it 0x1.FFp127.
  const std::vector<float> values = {0x1.FEFFFEp127f, 0x1.FFp127f, kMax, -kMax, 1};
  std::vector<uint16_t> codes(values.size());
  EXPECT_EQ(NarrowToHalf(HalfKind::kBf16, Rounding::kHalfEven, true, values.data(), 5, nullptr,
                         codes.data()),
            3);
  EXPECT_EQ(codes, (std::vector<uint16_t>{0x7F7F, 0x7F7F, 0x7F7F, 0xFF7F, 0x3F80}));
}

INSTANTIATE_TEST_SUITE_P(Targets, ConvertTest, ::testing::ValuesIn(SupportedSimdTargets()),
                         [](const auto& info) { return info.param; });

TEST(WidenToF64Test, CountsWhatADoubleDoesNotHold) {
  constexpr int64_t kMin = std::numeric_limits<int64_t>::min();
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  constexpr int64_t k53 = int64_t{1} << 53;
  const std::vector<int64_t> values = {0, k53, k53 + 1, -k53 - 1, k53 + 2, kMin, kMin + 1, kMax};
  std::vector<double> wide(values.size());
  EXPECT_EQ(
      WidenToF64(DType::kInt64, reinterpret_cast<const std::byte*>(values.data()), 8, wide.data()),
      4);
  for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(wide[i], static_cast<double>(values[i]));
}

TEST(WidenToF64Test, HoldsAll32BitIntegers) {
  const std::vector<int32_t> values = {std::numeric_limits<int32_t>::min(), -1, 0x7FFFFFFF};
  const std::vector<uint32_t> naturals = {0, 0x80000000, 0xFFFFFFFF};
  std::vector<double> wide(3);
  EXPECT_EQ(
      WidenToF64(DType::kInt32, reinterpret_cast<const std::byte*>(values.data()), 3, wide.data()),
      0);
  EXPECT_EQ(wide, (std::vector<double>{-2147483648.0, -1, 2147483647}));
  EXPECT_EQ(WidenToF64(DType::kUint32, reinterpret_cast<const std::byte*>(naturals.data()), 3,
                       wide.data()),
            0);
  EXPECT_EQ(wide, (std::vector<double>{0, 2147483648.0, 4294967295.0}));
}

}  // namespace
}  // namespace quantd
