#ifndef QUANTD_CORE_BASE_HAND_OVER_H_
#define QUANTD_CORE_BASE_HAND_OVER_H_

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace quantd {

// What a thread gives to packaged gRPC happens before what gRPC then has another thread do with it,
// but gRPC is not instrumented, so that ThreadSanitizer takes the two for a race. These tell it, in
// its builds alone: HandOver is called when all has been written, TakeOver before any is read.
inline void HandOver([[maybe_unused]] const void* object) {
#if defined(__SANITIZE_THREAD__)
  __tsan_release(const_cast<void*>(object));
#endif
}
inline void TakeOver([[maybe_unused]] const void* object) {
#if defined(__SANITIZE_THREAD__)
  __tsan_acquire(const_cast<void*>(object));
#endif
}

}  // namespace quantd

#endif  // QUANTD_CORE_BASE_HAND_OVER_H_
