#ifndef QUANTD_SERVER_NET_LISTEN_H_
#define QUANTD_SERVER_NET_LISTEN_H_

#include <sys/types.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd {

// Where a server listens: "HOST:PORT" (port 0: any free one) or "unix:PATH".
struct ListenAddress {
  std::string text;
  std::string host;       // TCP, as written; brackets around IPv6 are kept
  int port = 0;           // TCP
  std::string unix_path;  // empty: TCP

  bool is_unix() const { return !unix_path.empty(); }
  // True where only this machine can connect.
  bool is_local() const;
};

// kInvalidArgument: neither of the two forms, a port beyond 65535, a path that is too long, or that
// is the side socket of another.
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

// A socket that listens, until it goes away; a UNIX one takes its path along. Movable.
class ListeningSocket {
 public:
  // Returns the sockets of `address`: several for a name that has several addresses, all with one
  // port. `[::]` takes IPv4 too. A UNIX socket has the permissions `unix_mode`, and replaces one
  // that a server left behind. kFailedPrecondition: the address is taken, or is not one of this
  // machine.
  static absl::StatusOr<std::vector<ListeningSocket>> Open(const ListenAddress& address,
                                                           mode_t unix_mode);
  // Returns the side socket of a UNIX socket that is open, which hands memory over (see
  // core/io/shared_memory.h). It has no lock: that of `address` is for both. kInvalidArgument: its
  // path is too long.
  static absl::StatusOr<ListeningSocket> OpenMemorySocket(const ListenAddress& address,
                                                          mode_t unix_mode);
  ListeningSocket(ListeningSocket&& other) noexcept
      : fd_(std::exchange(other.fd_, -1)),
        port_(other.port_),
        unix_path_(std::move(other.unix_path_)),
        lock_(std::move(other.lock_)) {}
  ListeningSocket& operator=(ListeningSocket&&) = delete;
  ~ListeningSocket();

  int fd() const { return fd_; }
  int port() const { return port_; }
  bool is_unix() const { return !unix_path_.empty(); }

 private:
  ListeningSocket(int fd, int port) : fd_(fd), port_(port) {}
  static absl::StatusOr<ListeningSocket> OpenUnix(const ListenAddress& address, int type,
                                                  mode_t mode);

  int fd_;
  int port_;
  std::string unix_path_;
  std::optional<SocketLock> lock_;  // goes after the path
};

}  // namespace quantd

#endif  // QUANTD_SERVER_NET_LISTEN_H_
