#include "server/listen.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace quantd {

bool ListenAddress::is_local() const {
  return is_unix() || host == "localhost" || host == "[::1]" || absl::StartsWith(host, "127.");
}

absl::StatusOr<ListenAddress> ParseListenAddress(absl::string_view text) {
  ListenAddress address;
  address.text = std::string(text);
  if (absl::ConsumePrefix(&text, "unix:")) {
    absl::ConsumePrefix(&text, "//");
    constexpr size_t kMaxPathBytes = sizeof(sockaddr_un::sun_path) - 1;
    if (text.empty() || text.size() > kMaxPathBytes) {
      return absl::InvalidArgumentError(absl::StrCat(
          "listen address ", address.text, " needs a path of 1 to ", kMaxPathBytes, " bytes"));
    }
    address.unix_path = std::string(text);
    address.text = absl::StrCat("unix:", text);
    return address;
  }
  const size_t colon = text.rfind(':');
  int port = -1;
  if (colon == absl::string_view::npos || colon == 0 ||
      !absl::SimpleAtoi(text.substr(colon + 1), &port) || port < 0 || port > 65535) {
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

}  // namespace quantd
