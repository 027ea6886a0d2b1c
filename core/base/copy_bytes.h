#ifndef QUANTD_CORE_BASE_COPY_BYTES_H_
#define QUANTD_CORE_BASE_COPY_BYTES_H_

#include <cstddef>
#include <cstring>

namespace quantd {

// memcpy for values at any address. Compilers may take it from the type of a pointer that they see
// given to memcpy that it is aligned for that type, which values in received memory are not.
inline void CopyBytes(void* to, const void* from, size_t size_bytes) {
  std::memcpy(to, from, size_bytes);
}

}  // namespace quantd

#endif  // QUANTD_CORE_BASE_COPY_BYTES_H_
