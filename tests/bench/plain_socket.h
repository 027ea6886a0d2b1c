#ifndef QUANTD_TESTS_BENCH_PLAIN_SOCKET_H_
#define QUANTD_TESTS_BENCH_PLAIN_SOCKET_H_

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/io/shared_memory.h"

// Tensors over a bare socket, without gRPC: what plain_server and its client say to each other. The
// client sends a TensorHeader and frames of values; the server sends frames of each plane, and one
// of plane kEndPlane whose data are the digests of all planes one after the other. Then the
// connection is free for the next tensor. Both ends are of one build on one machine: structs go as
// they lie in memory.
namespace quantd::bench {

struct TensorHeader {
  char spec[32] = {};  // ends with a zero
  int64_t rows = 0, columns = 0;
  uint32_t frame_bytes = 0;  // of values, but for the last frame
  uint32_t checks = 0;       // 1: frames have a CRC, and the server makes figures
};

struct FrameHeader {
  uint32_t plane = 0;
  uint32_t size_bytes = 0;  // of the data that follow
  uint32_t crc32c = 0;      // of these, if checks are on
};
inline constexpr uint32_t kEndPlane = ~uint32_t{0};

inline absl::Status SocketError(absl::string_view what) {
  return absl::UnavailableError(absl::StrCat(what, ": ", std::strerror(errno)));
}

// Fills `out`. kOutOfRange: the peer has closed the connection.
inline absl::Status ReadAll(int fd, std::span<std::byte> out) {
  while (!out.empty()) {
    const ssize_t count = recv(fd, out.data(), out.size(), 0);
    if (count == 0) return absl::OutOfRangeError("the peer has closed the connection");
    if (count < 0 && errno != EINTR) return SocketError("recv");
    out = out.subspan(static_cast<size_t>(std::max<ssize_t>(count, 0)));
  }
  return absl::OkStatus();
}

template <typename Header>
absl::StatusOr<Header> ReadHeader(int fd) {
  Header header;
  QUANTD_RETURN_IF_ERROR(ReadAll(fd, std::as_writable_bytes(std::span(&header, 1))));
  return header;
}

// Sends `header` and then `data`, in one call where the socket takes them.
template <typename Header>
absl::Status SendAll(int fd, Header header, std::span<const std::byte> data) {
  iovec parts[] = {{&header, sizeof(header)}, {const_cast<std::byte*>(data.data()), data.size()}};
  msghdr message = {};
  message.msg_iov = parts;
  message.msg_iovlen = std::size(parts);
  while (parts[0].iov_len + parts[1].iov_len > 0) {
    const ssize_t count = sendmsg(fd, &message, MSG_NOSIGNAL);
    if (count < 0 && errno != EINTR) return SocketError("sendmsg");
    auto sent = static_cast<size_t>(std::max<ssize_t>(count, 0));
    for (iovec& part : parts) {
      const size_t taken = std::min(sent, part.iov_len);
      part.iov_base = static_cast<std::byte*>(part.iov_base) + taken;
      part.iov_len -= taken;
      sent -= taken;
    }
  }
  return absl::OkStatus();
}

// An address of a TCP socket on loopback, or of a UNIX socket.
class SocketAddress {
 public:
  // Reads "127.0.0.1:PORT" or "unix:PATH", which are addresses of programs that we have started.
  explicit SocketAddress(const std::string& text) {
    if (text.starts_with("unix:")) {
      name_.unix_socket.sun_family = AF_UNIX;
      text.copy(name_.unix_socket.sun_path, sizeof(name_.unix_socket.sun_path) - 1, 5);
    } else {
      name_.tcp.sin_family = AF_INET;
      name_.tcp.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      name_.tcp.sin_port =
          htons(static_cast<uint16_t>(std::stoi(text.substr(text.rfind(':') + 1))));
    }
  }
  const sockaddr* get() const { return &name_.any; }
  socklen_t size_bytes() const {
    return name_.any.sa_family == AF_UNIX ? sizeof(sockaddr_un) : sizeof(sockaddr_in);
  }
  OwnedFd NewSocket() const {
    return OwnedFd(socket(name_.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  }

 private:
  union {
    sockaddr any;
    sockaddr_in tcp;
    sockaddr_un unix_socket;
  } name_ = {};
};

// Sets what both ends set on a connection.
inline void Tune(int fd) {
  int domain = 0;
  socklen_t size = sizeof(domain);
  getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size);
  if (domain == AF_UNIX) {
    // The system's default is 208 KiB and, other than TCP's, does not grow: 2.0 GB/s, with this 3.1
    // (int8:scale=1). What net.core.wmem_max allows of it is taken.
    const int send_bytes = 2 << 20;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &send_bytes, sizeof(send_bytes));
  } else {
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));  // as gRPC does
  }
}

}  // namespace quantd::bench

#endif  // QUANTD_TESTS_BENCH_PLAIN_SOCKET_H_
