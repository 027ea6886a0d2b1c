#include "core/base/float_env.h"

#include <bit>
#include <cfenv>
#include <cstdint>
#include <limits>

#include "gtest/gtest.h"

namespace quantd {
namespace {

// At run time, so that the compiler does not fold it in the default environment.
float Product(float a, float b) {
  volatile float x = a, y = b;
  return x * y;
}

TEST(FloatEnvTest, RoundsToNearestAndRestoresTheRounding) {
  // 1 + 2^-24 is halfway between 1 and the next value.
  const auto sum = [] {
    volatile float one = 1.0f, half_step = 0x1p-24f;
    return one + half_step;
  };
  ASSERT_EQ(std::fesetround(FE_UPWARD), 0);
  EXPECT_GT(sum(), 1.0f);
  {
    ScopedFloatEnv env;
    EXPECT_EQ(sum(), 1.0f);
  }
  EXPECT_GT(sum(), 1.0f);
  ASSERT_EQ(std::fesetround(FE_TONEAREST), 0);
}

#if defined(__x86_64__)
TEST(FloatEnvTest, KeepsSubnormalsAndRestoresFlushing) {
  const uint32_t before = _mm_getcsr();
  constexpr float kSubnormal = 0x1p-130f;
  for (const uint32_t flags : {0x8000u, 0x0040u, 0x8040u}) {  // FTZ, DAZ, both
    _mm_setcsr(before | flags);
    const float small = Product(0x1p-100f, 0x1p-30f), large = Product(kSubnormal, 0x1p100f);
    // By bits: comparing floats flushes too.
    EXPECT_EQ(std::bit_cast<uint32_t>(small) == 0, (flags & 0x8000) != 0);
    EXPECT_EQ(std::bit_cast<uint32_t>(large) == 0, (flags & 0x0040) != 0);
    {
      ScopedFloatEnv env;
      EXPECT_EQ(Product(0x1p-100f, 0x1p-30f), kSubnormal);
      EXPECT_EQ(Product(kSubnormal, 0x1p100f), 0x1p-30f);
    }
    EXPECT_EQ(_mm_getcsr() & 0x8040, flags);
  }
  _mm_setcsr(before);
}

TEST(FloatEnvTest, TakesNoTrapsAndRestoresThem) {
  const uint32_t before = _mm_getcsr();
  constexpr uint32_t kMasks = 0x1F80;
  _mm_setcsr(before & ~kMasks);  // a host that traps on everything
  {
    ScopedFloatEnv env;
    EXPECT_EQ(_mm_getcsr() & kMasks, kMasks);
    Product(std::numeric_limits<float>::max(), 3);  // overflow and inexact do not kill us
  }
  EXPECT_EQ(_mm_getcsr() & kMasks, 0u);
  _mm_setcsr(before);
}
#endif

TEST(FloatEnvTest, Nests) {
  ScopedFloatEnv outer;
  {
    ScopedFloatEnv inner;
    EXPECT_EQ(Product(0x1p-100f, 0x1p-30f), 0x1p-130f);
  }
  EXPECT_EQ(Product(0x1p-100f, 0x1p-30f), 0x1p-130f);
}

}  // namespace
}  // namespace quantd
