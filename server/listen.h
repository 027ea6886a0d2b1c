#ifndef QUANTD_SERVER_LISTEN_H_
#define QUANTD_SERVER_LISTEN_H_

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd {

// Where a server listens: "HOST:PORT" (port 0: any free one) or "unix:PATH".
struct ListenAddress {
  std::string text;
  std::string host;       // TCP, as written; brackets around IPv6 are kept
  std::string unix_path;  // empty: TCP

  bool is_unix() const { return !unix_path.empty(); }
  // True where only this machine can connect.
  bool is_local() const;
};

// kInvalidArgument: neither of the two forms, a port beyond 65535, a path that is too long.
absl::StatusOr<ListenAddress> ParseListenAddress(absl::string_view text);

// Holds the lock file beside a UNIX socket, PATH.lock, while it lives: without it a second server
// would take the path over, and the first one's exit would remove it. The file stays. Movable.
class SocketLock {
 public:
  // kFailedPrecondition: another server holds it. kInvalidArgument: the file cannot be opened.
  static absl::StatusOr<SocketLock> Acquire(const std::string& socket_path);
  SocketLock(SocketLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  SocketLock& operator=(SocketLock&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~SocketLock();

 private:
  explicit SocketLock(int fd) : fd_(fd) {}
  int fd_ = -1;
};

}  // namespace quantd

#endif  // QUANTD_SERVER_LISTEN_H_
