// Memory of two processes: the client makes a memfd, seals its size and passes it over a socket.
//
//   client                                     server
//   Create: memfd, F_SEAL_SHRINK | _GROW | _SEAL
//   OfferMemory: "quantd/1" + descriptor  ->   ReceiveOffer, SharedMemory::Map
//   token                                 <-   AnswerOffer
//
// What the peer could do to us is refused when it is mapped: a file that it could cut, so that
// reading raises SIGBUS, one of huge pages, of which it could punch out some, one of FUSE, whose
// owner could hold us up. What it does to the bytes at any time is for readers to bear.
//
// Source: memfd_create(2), fcntl(2), unix(7). Entries: SharedMemory::Map and OfferMemory. Tested by
// tests/server/shared_memory_test.cc and tests/client/transport_test.cc.
#include "core/io/shared_memory.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"

namespace quantd {
namespace {

// With these nobody can cut the file, so that no access to the mapping raises SIGBUS.
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
// How long a client waits for the answer to its offer.
constexpr timeval kAnswerTimeout = {.tv_sec = 5, .tv_usec = 0};
constexpr size_t kMaxAnswerBytes = 512;

absl::Status Unusable(absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(
      "the descriptor cannot be shared: ", why,
      "; it must be a memfd with the seals F_SEAL_SHRINK, F_SEAL_GROW and F_SEAL_SEAL"));
}

absl::StatusOr<std::span<std::byte>> MapAll(int fd, int64_t size_bytes) {
  const auto size = static_cast<size_t>(size_bytes);
  void* const memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("mapping ", size_bytes, " bytes of shared memory: ", strerror(errno)));
  }
  return std::span(static_cast<std::byte*>(memory), size);
}

absl::Status CannotConnect(const std::string& path, int error) {
  return absl::UnavailableError(
      absl::StrCat("no shared memory by unix:", path, ": ", strerror(error)));
}

absl::StatusOr<OwnedFd> ConnectTo(const std::string& path) {
  sockaddr_un name = {};
  name.sun_family = AF_UNIX;
  if (path.size() >= sizeof(name.sun_path)) return CannotConnect(path, ENAMETOOLONG);
  memcpy(name.sun_path, path.data(), path.size());
  OwnedFd connection(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  // A server that is full does not take the connection from the queue: do not wait for it.
  setsockopt(connection.get(), SOL_SOCKET, SO_SNDTIMEO, &kAnswerTimeout, sizeof(kAnswerTimeout));
  setsockopt(connection.get(), SOL_SOCKET, SO_RCVTIMEO, &kAnswerTimeout, sizeof(kAnswerTimeout));
  if (connection.get() < 0 ||
      connect(connection.get(), reinterpret_cast<sockaddr*>(&name), sizeof(name)) != 0) {
    return CannotConnect(path, errno);
  }
  return connection;
}

}  // namespace

OwnedFd::~OwnedFd() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<std::unique_ptr<SharedMemory>> SharedMemory::Create(int64_t size_bytes) {
  OwnedFd fd(memfd_create("quantd", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (fd.get() < 0 || ftruncate(fd.get(), size_bytes) != 0 ||
      fcntl(fd.get(), F_ADD_SEALS, kSeals) != 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat("making ", size_bytes, " bytes of shared memory: ", strerror(errno)));
  }
  QUANTD_ASSIGN_OR_RETURN(const std::span<std::byte> bytes, MapAll(fd.get(), size_bytes));
  return std::unique_ptr<SharedMemory>(new SharedMemory(std::move(fd), bytes));
}

absl::StatusOr<std::unique_ptr<SharedMemory>> SharedMemory::Map(OwnedFd fd, int64_t max_bytes) {
  // Files of other kinds have no seals; those of FUSE would let their owner hold us up.
  const int seals = fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0) return Unusable("it is no memfd");
  if ((seals & kSeals) != kSeals) return Unusable("its size is not sealed");
  // A page of a huge file that was punched out and cannot be had again raises SIGBUS.
  struct statfs system;
  if (fstatfs(fd.get(), &system) != 0 || system.f_type != TMPFS_MAGIC) {
    return Unusable("it is of huge pages");
  }
  const int flags = fcntl(fd.get(), F_GETFL);
  if ((seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) != 0 || (flags & O_ACCMODE) != O_RDWR) {
    return Unusable("it cannot be written");
  }
  struct stat info;
  if (fstat(fd.get(), &info) != 0 || info.st_size == 0) return Unusable("it is empty");
  if (info.st_size > max_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat("shared memory of ", info.st_size,
                                                     " bytes; at most ", max_bytes,
                                                     " are allowed for one connection"));
  }
  QUANTD_ASSIGN_OR_RETURN(const std::span<std::byte> bytes, MapAll(fd.get(), info.st_size));
  return std::unique_ptr<SharedMemory>(new SharedMemory(OwnedFd(), bytes));
}

SharedMemory::~SharedMemory() { munmap(bytes_.data(), bytes_.size()); }

absl::StatusOr<std::span<std::byte>> SharedMemory::Range(int64_t offset, int64_t size_bytes) const {
  const int64_t all_bytes = this->size_bytes();
  if (offset < 0 || size_bytes < 0 || offset > all_bytes || size_bytes > all_bytes - offset) {
    return absl::InvalidArgumentError(
        absl::StrCat("shared range with offset=", offset, " and size_bytes=", size_bytes,
                     " is not within the region's ", all_bytes, " bytes"));
  }
  return bytes_.subspan(static_cast<size_t>(offset), static_cast<size_t>(size_bytes));
}

absl::StatusOr<AcceptedMemory> OfferMemory(const std::string& path, const SharedMemory& memory) {
  AcceptedMemory accepted;
  QUANTD_ASSIGN_OR_RETURN(accepted.connection, ConnectTo(path));
  std::string offer(kMemoryOffer);
  iovec part = {offer.data(), offer.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control = {};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* const rights = CMSG_FIRSTHDR(&message);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof(int));
  const int fd = memory.fd();
  memcpy(CMSG_DATA(rights), &fd, sizeof(fd));
  std::array<char, kMaxAnswerBytes> answer;
  ssize_t got = -1;
  if (sendmsg(accepted.connection.get(), &message, MSG_NOSIGNAL) >= 0) {
    got = recv(accepted.connection.get(), answer.data(), answer.size(), 0);
  }
  if (got < 0) return CannotConnect(path, errno);
  if (got == 0) return CannotConnect(path, ECONNRESET);
  const absl::string_view text(answer.data() + 1, static_cast<size_t>(got) - 1);
  if (answer[0] != 0) return absl::Status(static_cast<absl::StatusCode>(answer[0]), text);
  if (text.size() != kMemoryTokenBytes) return CannotConnect(path, EPROTO);
  accepted.token = std::string(text);
  return accepted;
}

bool IsConnected(const OwnedFd& connection) {
  pollfd socket = {connection.get(), POLLIN, 0};
  const int ready = poll(&socket, 1, 0);  // nothing comes over it but its end
  return ready == 0 || (ready < 0 && errno == EINTR);
}

absl::StatusOr<OwnedFd> ReceiveOffer(int connection) {
  std::array<char, kMemoryOffer.size() + 1> text;
  iovec part = {text.data(), text.size()};
  // Room for more than one, to tell; what has no room the system closes.
  alignas(cmsghdr) std::array<char, CMSG_SPACE(4 * sizeof(int))> control = {};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t got = recvmsg(connection, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (got <= 0) return absl::UnavailableError("the peer is gone");
  OwnedFd first;
  size_t count = 0;
  for (cmsghdr* part_of = CMSG_FIRSTHDR(&message); part_of != nullptr;
       part_of = CMSG_NXTHDR(&message, part_of)) {
    if (part_of->cmsg_level != SOL_SOCKET || part_of->cmsg_type != SCM_RIGHTS) continue;
    const size_t fds = (part_of->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < fds; ++i) {
      int fd = -1;
      memcpy(&fd, CMSG_DATA(part_of) + i * sizeof(int), sizeof(fd));
      OwnedFd owned(fd);
      if (count++ == 0) first = std::move(owned);
    }
  }
  if (absl::string_view(text.data(), static_cast<size_t>(got)) != kMemoryOffer) {
    return absl::InvalidArgumentError(
        absl::StrCat("an offer of shared memory says \"", kMemoryOffer, "\""));
  }
  if (count != 1 || (message.msg_flags & MSG_CTRUNC) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("an offer of shared memory has exactly one descriptor, not ",
                     (message.msg_flags & MSG_CTRUNC) != 0 ? "more than " : "", count));
  }
  return first;
}

void AnswerOffer(int connection, const absl::StatusOr<std::string>& token) {
  const std::string answer =
      token.ok() ? absl::StrCat(std::string(1, '\0'), *token)
                 : absl::StrCat(std::string(1, static_cast<char>(token.status().code())),
                                token.status().message().substr(0, kMaxAnswerBytes - 1));
  send(connection, answer.data(), answer.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
}

absl::StatusOr<std::string> MakeMemoryToken() {
  std::string token(kMemoryTokenBytes, '\0');
  if (getrandom(token.data(), token.size(), 0) != static_cast<ssize_t>(token.size())) {
    return absl::InternalError(absl::StrCat("getrandom: ", strerror(errno)));
  }
  return token;
}

}  // namespace quantd
