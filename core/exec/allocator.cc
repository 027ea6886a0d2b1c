// glibc's malloc maps what is larger than 128 KiB anew each time and unmaps it when it is freed: with
// messages of 1 MiB the system then clears pages all the time. Keeping all pages for good is as fast,
// but a burst's memory does not come back while anybody calls, and each thread's arena keeps its own.
// So blocks below 8 MiB are kept for a while, in two arenas, until somebody gives them back.
#include "core/exec/allocator.h"

#include <cstdlib>  // says whether it is glibc

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace quantd {

void TuneAllocator() {
#if defined(__GLIBC__)
  mallopt(M_MMAP_THRESHOLD, 8 << 20);
  mallopt(M_TRIM_THRESHOLD, 64 << 20);
  mallopt(M_TOP_PAD, 4 << 20);
  mallopt(M_ARENA_MAX, 2);
#endif
}

void GiveMemoryBack() {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

}  // namespace quantd
