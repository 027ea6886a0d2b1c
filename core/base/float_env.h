#ifndef QUANTD_CORE_BASE_FLOAT_ENV_H_
#define QUANTD_CORE_BASE_FLOAT_ENV_H_

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace quantd {

// Sets round-to-nearest with subnormals on and no traps while it lives, and restores what it found:
// a host process may have changed any of them, the first two change results, and a trap would kill
// it over an ordinary rounding. Entry points and workers hold one.
class ScopedFloatEnv {
 public:
#if defined(__x86_64__)
  ScopedFloatEnv() : saved_(_mm_getcsr()) {
    // MXCSR: Intel SDM volume 1, section 10.2.3.
    constexpr uint32_t kRounding = 0x6000, kFlushToZero = 0x8000, kDenormalsAreZero = 0x0040;
    constexpr uint32_t kTrapMasks = 0x1F80;
    const auto found = static_cast<uint32_t>(saved_);
    _mm_setcsr((found & ~(kRounding | kFlushToZero | kDenormalsAreZero)) | kTrapMasks);
  }
  ~ScopedFloatEnv() { _mm_setcsr(static_cast<uint32_t>(saved_)); }
#elif defined(__aarch64__)
  ScopedFloatEnv() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    // FPCR: Arm Architecture Reference Manual, section C5.2.8; RMode, FZ, FZ16, IDE and IOE..IXE.
    constexpr uint64_t kRounding = 3u << 22, kFlush = (1u << 24) | (1u << 19), kTraps = 0x9F00;
    const uint64_t wanted = saved_ & ~(kRounding | kFlush | kTraps);
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
