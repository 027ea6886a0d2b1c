// Sockets that listen. A second server is told that an address is taken, instead of sharing or
// stealing it: TCP has no SO_REUSEPORT, and beside a UNIX socket lies a file that its server has
// locked, PATH.lock, so that a path that a dead server left can be told from one that is in use.
//
// Entries: ParseListenAddress, ListeningSocket::Open. Tested by tests/server/server_test.cc and
// tests/e2e/test_faults.py.
#include "server/net/listen.h"

#include <fcntl.h>
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/base/status_macros.h"
#include "core/io/shared_memory.h"

namespace quantd {
namespace {

// A peer that acknowledges nothing for this long is gone, as gRPC sets it beside keepalive.
constexpr int kTcpUserTimeoutMs = 20'000;

constexpr size_t kMaxPathBytes = sizeof(sockaddr_un::sun_path) - 1;

absl::Status PathError(absl::string_view address) {
  return absl::InvalidArgumentError(
      absl::StrCat("listen address ", address, " needs a path of 1 to ", kMaxPathBytes, " bytes"));
}

absl::Status CannotListen(const ListenAddress& address, int error) {
  return absl::FailedPreconditionError(
      absl::StrCat("cannot listen on ", address.text, ": ",
                   error == EADDRINUSE ? "the address is taken" : strerror(error)));
}

// Returns a TCP socket that listens, or minus the error's number.
int OpenTcp(const addrinfo& info, int port) {
  const int fd = socket(info.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -errno;
  sockaddr_storage address = {};
  memcpy(&address, info.ai_addr, info.ai_addrlen);
  const int on = 1, off = 0;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  // Connections inherit these.
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &kTcpUserTimeoutMs, sizeof(kTcpUserTimeoutMs));
  if (info.ai_family == AF_INET6) {
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    reinterpret_cast<sockaddr_in6&>(address).sin6_port = htons(static_cast<uint16_t>(port));
  } else {
    reinterpret_cast<sockaddr_in&>(address).sin_port = htons(static_cast<uint16_t>(port));
  }
  if (bind(fd, reinterpret_cast<sockaddr*>(&address), info.ai_addrlen) != 0 ||
      listen(fd, SOMAXCONN) != 0) {
    const int error = errno;
    close(fd);
    return -error;
  }
  return fd;
}

int PortOf(int fd) {
  sockaddr_storage address = {};
  socklen_t size = sizeof(address);
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(address).sin6_port
                                             : reinterpret_cast<sockaddr_in&>(address).sin_port);
}

}  // namespace

bool ListenAddress::is_local() const {
  return is_unix() || host == "localhost" || host == "[::1]" || absl::StartsWith(host, "127.");
}

absl::StatusOr<ListenAddress> ParseListenAddress(absl::string_view text) {
  ListenAddress address;
  address.text = std::string(text);
  if (absl::ConsumePrefix(&text, "unix:")) {
    absl::ConsumePrefix(&text, "//");
    if (text.empty() || text.size() > kMaxPathBytes) return PathError(address.text);
    if (absl::EndsWith(text, kMemorySocketSuffix)) {
      return absl::InvalidArgumentError(
          absl::StrCat("listen address ", address.text, " ends in ", kMemorySocketSuffix,
                       ", as the sockets that pass memory do; use another path"));
    }
    address.unix_path = std::string(text);
    address.text = absl::StrCat("unix:", text);
    return address;
  }
  const size_t colon = text.rfind(':');
  if (colon == absl::string_view::npos || colon == 0 ||
      !absl::SimpleAtoi(text.substr(colon + 1), &address.port) || address.port < 0 ||
      address.port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat(
        "listen address \"", text, "\" is not HOST:PORT with a port of 0 to 65535, nor unix:PATH"));
  }
  address.host = std::string(text.substr(0, colon));
  return address;
}

absl::StatusOr<SocketLock> SocketLock::Acquire(const std::string& socket_path) {
  const std::string path = socket_path + ".lock";
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) {
    return absl::InvalidArgumentError(absl::StrCat("cannot open ", path, ": ", strerror(errno)));
  }
  SocketLock lock(fd);
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("another server listens on unix:", socket_path, " (it holds ", path, ")"));
  }
  return lock;
}

SocketLock::~SocketLock() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<std::vector<ListeningSocket>> ListeningSocket::Open(const ListenAddress& address,
                                                                   mode_t unix_mode) {
  std::vector<ListeningSocket> sockets;
  if (address.is_unix()) {
    QUANTD_ASSIGN_OR_RETURN(SocketLock lock, SocketLock::Acquire(address.unix_path));
    QUANTD_ASSIGN_OR_RETURN(ListeningSocket socket, OpenUnix(address, SOCK_STREAM, unix_mode));
    socket.lock_ = std::move(lock);
    sockets.push_back(std::move(socket));
    return sockets;
  }
  absl::string_view host = address.host;
  if (absl::ConsumePrefix(&host, "[")) absl::ConsumeSuffix(&host, "]");
  addrinfo hints = {};
  hints.ai_flags = AI_PASSIVE;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(std::string(host).c_str(), nullptr, &hints, &found);
      error != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot listen on ", address.text, ": ", gai_strerror(error)));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, &freeaddrinfo);
  int error = EADDRNOTAVAIL, port = address.port;
  for (const addrinfo* info = found; info != nullptr; info = info->ai_next) {
    const int fd = OpenTcp(*info, port);
    if (fd < 0) {
      error = -fd;  // a machine without IPv6 is no reason to give up a name that has it too
      continue;
    }
    port = PortOf(fd);
    sockets.push_back(ListeningSocket(fd, port));
  }
  if (sockets.empty()) return CannotListen(address, error);
  return sockets;
}

absl::StatusOr<ListeningSocket> ListeningSocket::OpenMemorySocket(const ListenAddress& address,
                                                                  mode_t unix_mode) {
  ListenAddress side = address;
  absl::StrAppend(&side.text, kMemorySocketSuffix);
  absl::StrAppend(&side.unix_path, kMemorySocketSuffix);
  if (side.unix_path.size() > kMaxPathBytes) return PathError(side.text);
  return OpenUnix(side, SOCK_SEQPACKET, unix_mode);
}

absl::StatusOr<ListeningSocket> ListeningSocket::OpenUnix(const ListenAddress& address, int type,
                                                          mode_t mode) {
  const char* const path = address.unix_path.c_str();
  struct stat left;
  if (lstat(path, &left) == 0 && S_ISSOCK(left.st_mode)) unlink(path);
  ListeningSocket result(socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), 0);
  if (result.fd_ < 0) return CannotListen(address, errno);
  sockaddr_un name = {};
  name.sun_family = AF_UNIX;
  memcpy(name.sun_path, path, address.unix_path.size());  // ParseListenAddress saw to the length
  if (bind(result.fd_, reinterpret_cast<sockaddr*>(&name), sizeof(name)) != 0) {
    return CannotListen(address, errno);
  }
  result.unix_path_ = address.unix_path;
  // Nobody can connect before it listens, so the permissions that bind gave do no harm.
  if (chmod(path, mode) != 0 || listen(result.fd_, SOMAXCONN) != 0) {
    return CannotListen(address, errno);
  }
  return result;
}

ListeningSocket::~ListeningSocket() {
  if (fd_ < 0) return;
  if (!unix_path_.empty()) unlink(unix_path_.c_str());
  close(fd_);
}

}  // namespace quantd
