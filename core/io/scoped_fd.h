#ifndef QUANTD_CORE_IO_SCOPED_FD_H_
#define QUANTD_CORE_IO_SCOPED_FD_H_

#include <unistd.h>

namespace quantd {

// A descriptor that closes itself; negative: none. Thread-compatible.
class ScopedFd {
 public:
  explicit ScopedFd(int fd) : fd_(fd) {}
  ~ScopedFd() {
    if (fd_ >= 0) close(fd_);
  }
  ScopedFd(const ScopedFd&) = delete;
  ScopedFd& operator=(const ScopedFd&) = delete;
  int get() const { return fd_; }

 private:
  const int fd_;
};

}  // namespace quantd

#endif  // QUANTD_CORE_IO_SCOPED_FD_H_
