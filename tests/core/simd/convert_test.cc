#include "core/simd/convert.h"

#include <cstring>
#include <limits>
#include <numeric>
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

  // Every code, at an odd address.
  template <typename Code>
  void WidensEveryCode(DType dtype, const MiniFormat& format) {
    constexpr size_t kNumCodes = size_t{1} << (8 * sizeof(Code)), kSize = kNumCodes + 3;
    std::vector<Code> codes(kSize);
    std::iota(codes.begin(), codes.end(), Code{0});
    std::vector<std::byte> bytes(kSize * sizeof(Code) + 1);
    std::memcpy(bytes.data() + 1, codes.data(), kSize * sizeof(Code));
    std::vector<float> wide(kSize);
    WidenToF32(dtype, bytes.data() + 1, kSize, wide.data());
    for (size_t i = 0; i < kSize; ++i) {
      const float want = WidenFloat<float>(format, codes[i]);
      ASSERT_EQ(0, std::memcmp(&wide[i], &want, sizeof(want))) << codes[i];
    }
  }
};

TEST_P(ConvertTest, WidensInts) {
  WidensInts<int8_t>(DType::kInt8);
  WidensInts<uint8_t>(DType::kUint8);
  WidensInts<int16_t>(DType::kInt16);
  WidensInts<uint16_t>(DType::kUint16);
}

TEST_P(ConvertTest, WidensEveryFloatCode) {
  WidensEveryCode<uint16_t>(DType::kF16, kHalfFormat);
  WidensEveryCode<uint16_t>(DType::kBf16, kBfloatFormat);
  WidensEveryCode<uint8_t>(DType::kF8E4M3, kE4m3Format);
}

TEST_P(ConvertTest, NarrowsDoublesToHalves) {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  // 1 + 2^-11 + 2^-40 is above the tie that f32 would round it to.
  const std::vector<double> values = {1 + 0x1p-11 + 0x1p-40, 65519.9, 65520, -1e300, kInf, 1};
  std::vector<uint16_t> codes(values.size());
  EXPECT_EQ(NarrowToHalf(HalfKind::kF16, Rounding::kHalfEven, /*saturate=*/false, values.data(), 6,
                         nullptr, codes.data()),
            2);
  EXPECT_EQ(codes, (std::vector<uint16_t>{0x3C01, 0x7BFF, 0x7C00, 0xFC00, 0x7C00, 0x3C00}));
  EXPECT_EQ(NarrowToHalf(HalfKind::kBf16, Rounding::kHalfEven, /*saturate=*/true, values.data(), 6,
                         nullptr, codes.data()),
            1);
  EXPECT_EQ(codes, (std::vector<uint16_t>{0x3F80, 0x4780, 0x4780, 0xFF7F, 0x7F7F, 0x3F80}));
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
