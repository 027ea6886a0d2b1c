#ifndef QUANTD_CORE_BASE_FLOAT_ENV_H_
#define QUANTD_CORE_BASE_FLOAT_ENV_H_

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace quantd {

// Sets round-to-nearest with subnormals on while it lives, and restores what it found: a host
// process may have changed either, and both change results. Entry points and workers hold one.
class ScopedFloatEnv {
 public:
#if defined(__x86_64__)
  ScopedFloatEnv() : saved_(_mm_getcsr()) {
    constexpr uint32_t kRounding = 0x6000, kFlushToZero = 0x8000, kDenormalsAreZero = 0x0040;
    _mm_setcsr(static_cast<uint32_t>(saved_) & ~(kRounding | kFlushToZero | kDenormalsAreZero));
  }
  ~ScopedFloatEnv() { _mm_setcsr(static_cast<uint32_t>(saved_)); }
#elif defined(__aarch64__)
  ScopedFloatEnv() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    constexpr uint64_t kRounding = 3u << 22, kFlush = (1u << 24) | (1u << 19);
    const uint64_t wanted = saved_ & ~(kRounding | kFlush);
    asm volatile("msr fpcr, %0" : : "r"(wanted));
  }
  ~ScopedFloatEnv() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }
#else
  ScopedFloatEnv() {}
#endif
  ScopedFloatEnv(const ScopedFloatEnv&) = delete;
  ScopedFloatEnv& operator=(const ScopedFloatEnv&) = delete;

 private:
  uint64_t saved_ = 0;
};

}  // namespace quantd

#endif  // QUANTD_CORE_BASE_FLOAT_ENV_H_
