#include "core/simd/float_codes.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/base/minifloat.h"
#include "core/simd/targets.h"

namespace quantd {
namespace {

constexpr DType kTypes[] = {DType::kF16, DType::kBf16, DType::kF8E4M3};

const MiniFormat& FormatOf(DType dtype) {
  if (dtype == DType::kF16) return kHalfFormat;
  return dtype == DType::kBf16 ? kBfloatFormat : kE4m3Format;
}

uint32_t CodeAt(DType dtype, const std::byte* codes, size_t i) {
  uint32_t code = 0;
  const size_t size = static_cast<size_t>(SizeOf(dtype));
  std::memcpy(&code, codes + i * size, size);
  return code;
}

// Values at an odd address.
template <typename T>
struct Unaligned {
  explicit Unaligned(size_t num_elems) : bytes(num_elems * sizeof(T) + 1) {}
  T* data() { return reinterpret_cast<T*>(bytes.data() + 1); }
  std::vector<std::byte> bytes;
};

class FloatCodesTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(ChooseSimdTarget(GetParam()).ok()); }
  void TearDown() override { ASSERT_TRUE(ChooseSimdTarget("").ok()); }

  // Values of all bit patterns where no scale keeps them finite, else of some orders of magnitude
  // around the format's codes and on its ties.
  template <typename T>
  std::vector<T> MakeValues(size_t num_elems, bool any_bits, const MiniFormat& format) {
    std::vector<T> values(num_elems);
    for (size_t i = 0; i < num_elems; ++i) {
      if (any_bits) {
        values[i] = static_cast<T>(std::bit_cast<float>(static_cast<uint32_t>(rng_())));
        continue;
      }
      const uint32_t code = static_cast<uint32_t>(rng_()) % format.max_code;
      const T low = WidenFloat<T>(format, code), high = WidenFloat<T>(format, code + 1);
      values[i] = (low + high) / 2;
      if (rng_() % 2) values[i] = std::nextafter(values[i], rng_() % 2 ? low : high);
      if (rng_() % 8 == 0) values[i] *= 3;
      if (rng_() % 2) values[i] = -values[i];
    }
    return values;
  }

  template <typename T>
  void Check(FloatCoding coding, const std::vector<T>& values) {
    const MiniFormat& format = FormatOf(coding.dtype);
    const size_t n = values.size();
    std::vector<uint32_t> noise(n);
    for (uint32_t& bits : noise) bits = static_cast<uint32_t>(rng_());
    coding.noise = noise.data();
    std::vector<T> scales(n, 1);
    for (size_t i = 0, run = 0; i < n && coding.scales != nullptr; ++i) {
      run += run < coding.ends.size() && static_cast<int32_t>(i) == coding.ends[run];
      scales[i] = static_cast<T>(coding.scales[coding.ends.empty() ? i : run]);
    }
    const T largest = WidenFloat<T>(format, format.max_code);
    const T bound = largest + (largest - WidenFloat<T>(format, format.max_code - 1)) / 2;
    int64_t clipped = 0;
    std::vector<uint32_t> want(n);
    std::vector<T> want_values(n);
    for (size_t i = 0; i < n; ++i) {
      const T v = values[i] / scales[i];
      clipped += std::isfinite(values[i]) && std::fabs(v) >= bound;
      want[i] = NarrowFloat(format, coding.scales != nullptr ? v : values[i], coding.rounding,
                            coding.saturate, noise[i]);
      want_values[i] = WidenFloat<T>(format, want[i]);
      if (coding.scales != nullptr) want_values[i] *= scales[i];
    }
    Unaligned<T> in(n), out(n);
    if (n > 0) std::memcpy(in.data(), values.data(), n * sizeof(T));
    const size_t size = static_cast<size_t>(SizeOf(coding.dtype));
    std::vector<std::byte> codes(n * size + 1, std::byte{0xAB}), measured = codes;
    const int64_t num_elems = static_cast<int64_t>(n);
    ASSERT_EQ(EncodeFloats(coding, in.data(), num_elems, codes.data(), nullptr), clipped);
    for (size_t i = 0; i < n; ++i) {
      // Codes of NaN mean nothing where NaN is not kept.
      if (coding.saturate && std::isnan(values[i])) continue;
      ASSERT_EQ(CodeAt(coding.dtype, codes.data(), i), want[i]) << values[i] << " by " << scales[i];
    }
    ASSERT_EQ(codes.back(), std::byte{0xAB}) << "beyond " << n;
    CheckMeter(coding, in.data(), codes, want_values);
    DecodeFloats(coding, codes.data(), num_elems, out.data());
    for (size_t i = 0; i < n; ++i) {
      if (coding.saturate && std::isnan(values[i])) continue;
      ASSERT_EQ(0, std::memcmp(out.bytes.data() + 1 + i * sizeof(T), &want_values[i], sizeof(T)));
    }
  }

  // Each run is measured from lane 0, beside the same codes.
  template <typename T>
  void CheckMeter(const FloatCoding& coding, const T* values, const std::vector<std::byte>& codes,
                  const std::vector<T>& decoded) {
    const int64_t num_elems = std::ssize(decoded);
    MeterLanes<T> lanes, want;
    std::vector<std::byte> measured = codes;
    std::fill(measured.begin(), measured.end() - 1, std::byte{0x77});
    EncodeFloats(coding, values, num_elems, measured.data(), &lanes);
    ASSERT_EQ(measured, codes);
    if (coding.ends.empty()) MeasureSegment(values, decoded.data(), num_elems, want);
    int64_t begin = 0;
    for (const int32_t end : coding.ends) {
      MeasureSegment(values + begin, decoded.data() + begin, end - begin, want);
      begin = end;
    }
    if (num_elems == 0) return;
    ASSERT_EQ(FiguresOf(lanes, values, num_elems), FiguresOf(want, values, num_elems));
  }

  template <typename T>
  void ChecksEveryLength(DType dtype) {
    for (int64_t num_elems = 0; num_elems <= 130; ++num_elems) {
      for (int rule = 0; rule < kNumRoundings; ++rule) {
        FloatCoding coding = {.dtype = dtype, .rounding = static_cast<Rounding>(rule)};
        for (const bool any_bits : {false, true}) {
          coding.saturate = !coding.saturate;
          const auto values =
              MakeValues<T>(static_cast<size_t>(num_elems), any_bits, FormatOf(dtype));
          Check(coding, values);
          if (HasFatalFailure()) FAIL() << num_elems << " rule " << rule << " of " << NameOf(dtype);
        }
      }
    }
  }

  template <typename T>
  void ChecksScales() {
    for (int rule = 0; rule < kNumRoundings; ++rule) {
      for (int round = 0; round < 40; ++round) {
        std::vector<int32_t> ends;
        std::vector<float> run_scales, elem_scales;
        for (int run = 0; run < 7; ++run) {
          run_scales.push_back(std::ldexp(1 + static_cast<float>(rng_() % 9973) / 9973,
                                          static_cast<int>(rng_() % 20) - 10));
          elem_scales.resize(elem_scales.size() + 1 + rng_() % 70, run_scales.back());
          ends.push_back(static_cast<int32_t>(elem_scales.size()));
        }
        std::vector<T> values = MakeValues<T>(elem_scales.size(), false, kE4m3Format);
        for (size_t i = 0; i < values.size(); ++i) values[i] *= static_cast<T>(elem_scales[i]);
        FloatCoding coding = {.dtype = DType::kF8E4M3, .rounding = static_cast<Rounding>(rule)};
        coding.saturate = round % 2 == 0;
        coding.scales = run_scales.data();
        coding.ends = ends;
        Check(coding, values);
        coding.scales = elem_scales.data();
        coding.ends = {};
        Check(coding, values);
        if (HasFatalFailure()) FAIL() << "rule " << rule << " round " << round;
      }
    }
  }

  template <typename T>
  void DecodesEveryCode(DType dtype) {
    const size_t num_codes = size_t{1} << (8 * SizeOf(dtype)), size = num_codes + 3;
    std::vector<std::byte> codes(size * static_cast<size_t>(SizeOf(dtype)) + 1);
    const size_t code_bytes = static_cast<size_t>(SizeOf(dtype));
    std::byte* at = codes.data() + 1;
    for (size_t i = 0; i < size; ++i) std::memcpy(at + i * code_bytes, &i, code_bytes);
    std::vector<T> values(size);
    DecodeFloats({.dtype = dtype}, at, static_cast<int64_t>(size), values.data());
    for (size_t i = 0; i < size; ++i) {
      const T want = WidenFloat<T>(FormatOf(dtype), static_cast<uint32_t>(i % num_codes));
      ASSERT_EQ(0, std::memcmp(&values[i], &want, sizeof(T))) << i << " of " << NameOf(dtype);
    }
  }

  std::mt19937 rng_{11};
};

TEST_P(FloatCodesTest, EveryLengthByEveryRule) {
  for (const DType dtype : kTypes) {
    ChecksEveryLength<float>(dtype);
    ChecksEveryLength<double>(dtype);
  }
}

TEST_P(FloatCodesTest, ScalesOfRunsAndOfElements) {
  ChecksScales<float>();
  ChecksScales<double>();
}

TEST_P(FloatCodesTest, DecodesEveryCode) {
  for (const DType dtype : kTypes) {
    DecodesEveryCode<float>(dtype);
    DecodesEveryCode<double>(dtype);
  }
}

TEST_P(FloatCodesTest, CountsWhatBf16CannotHold) {
  constexpr float kMax = std::numeric_limits<float>::max();
  // The largest code is 0x1.FEp127, half a step beyond it 0x1.FFp127.
  const std::vector<float> values = {0x1.FEFFFEp127f, 0x1.FFp127f, kMax, -kMax, 1};
  std::vector<uint16_t> codes(values.size());
  EXPECT_EQ(EncodeFloats({.dtype = DType::kBf16}, values.data(), 5,
                         reinterpret_cast<std::byte*>(codes.data()), nullptr),
            3);
  EXPECT_EQ(codes, (std::vector<uint16_t>{0x7F7F, 0x7F7F, 0x7F7F, 0xFF7F, 0x3F80}));
}

INSTANTIATE_TEST_SUITE_P(Targets, FloatCodesTest, ::testing::ValuesIn(SupportedSimdTargets()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace quantd
