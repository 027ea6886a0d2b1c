// System calls and TLS calls that gRPC makes, with the guards of connections in between
// (core/adr/0013-a-guard-before-grpc.md). The program exports these names, so that the dynamic
// linker binds the libraries' calls to them; each makes the real call, which comes next in the order
// of libraries, and tells the guard what passed. Where a descriptor has no guard nothing changes.
//
//   accept -> GuardTable::Add -> gRPC: getpeername, SSL_new, epoll_ctl        (the connection begins)
//   recvmsg -> may it be read? -> real recvmsg -> guard: end it?  -> gRPC     (TLS: SSL_read instead)
//   gRPC -> real sendmsg -> guard                                             (TLS: SSL_write)
//   gRPC -> close -> GuardTable::Clear                                        (the connection ends)
//
// Linked into the program alone, and into its tests. Tested by tests/server/net/interpose_test.cc and
// tests/attack.
#include <dlfcn.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "server/net/guard_table.h"
#include "server/net/handshakes.h"

namespace quantd {
namespace {

template <typename Function>
Function* RealOf(Function* /*interposed*/, const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

using Pieces = absl::InlinedVector<absl::string_view, 16>;

// Returns the first `count` bytes that `message` points to.
Pieces PiecesOf(const msghdr& message, size_t count) {
  Pieces pieces;
  for (size_t i = 0; i < message.msg_iovlen && count > 0; ++i) {
    const iovec& piece = message.msg_iov[i];
    const size_t size = std::min(count, piece.iov_len);
    if (size > 0) pieces.emplace_back(static_cast<const char*>(piece.iov_base), size);
    count -= size;
  }
  return pieces;
}

// Returns true once the guard has had enough of the connection.
bool MustEnd(GuardedConnection& connection, std::span<const absl::string_view> pieces) {
  if (connection.is_ended) return true;
  const std::optional<GuardReason> reason = connection.guard.Received(pieces, absl::Now());
  if (!reason.has_value()) return false;
  if (!connection.is_ended.exchange(true)) connection.on_end(*reason);
  return true;
}

// The real call, for at most `limit` bytes of the first piece; for all of them without a limit.
template <typename Receive>
ssize_t ReceiveAtMost(size_t limit, const Receive& receive, int fd, msghdr* message, int flags) {
  if (limit == SIZE_MAX || message->msg_iovlen == 0) return receive(fd, message, flags);
  iovec first = message->msg_iov[0];
  first.iov_len = std::min(first.iov_len, limit);
  iovec* const pieces = std::exchange(message->msg_iov, &first);
  const auto count = std::exchange(message->msg_iovlen, 1);
  const ssize_t received = receive(fd, message, flags);
  message->msg_iov = pieces;
  message->msg_iovlen = count;
  return received;
}

// Ties a TLS session to the connection that this thread hands to gRPC.
int ConnectionIndex() {
  static const int index = SSL_get_ex_new_index(
      0, nullptr, nullptr, nullptr,
      [](void*, void* connection, CRYPTO_EX_DATA*, int, long, void*) {
        delete static_cast<std::shared_ptr<GuardedConnection>*>(connection);
      });
  return index;
}

GuardedConnection* ConnectionOf(const SSL* ssl) {
  auto* const tied =
      static_cast<std::shared_ptr<GuardedConnection>*>(SSL_get_ex_data(ssl, ConnectionIndex()));
  return tied == nullptr ? nullptr : tied->get();
}

}  // namespace
}  // namespace quantd

extern "C" {

ssize_t recvmsg(int fd, msghdr* message, int flags) {
  using namespace quantd;
  static auto* const real = RealOf(&recvmsg, "recvmsg");
  // What is only looked at, and the queue of errors, is no part of the stream.
  const bool is_read = (flags & (MSG_PEEK | MSG_ERRQUEUE)) == 0;
  const auto connection = is_read ? GuardTable::OfProcess().Find(fd) : nullptr;
  if (connection == nullptr) return real(fd, message, flags);
  if (connection->is_ended) return 0;  // what else has come is nobody's
  size_t limit = connection->guard.MayReceive();
  if (limit == 0 && connection->is_watched) {
    errno = EAGAIN;  // the guard wakes gRPC
    return -1;
  }
  if (limit == 0) limit = SIZE_MAX;
  const ssize_t received = ReceiveAtMost(limit, real, fd, message, flags);
  if (received <= 0 || connection->is_encrypted) return received;
  if (!MustEnd(*connection, PiecesOf(*message, static_cast<size_t>(received)))) return received;
  shutdown(fd, SHUT_RDWR);
  return 0;  // as if the peer had closed
}

ssize_t sendmsg(int fd, const msghdr* message, int flags) {
  using namespace quantd;
  static auto* const real = RealOf(&sendmsg, "sendmsg");
  const ssize_t sent = real(fd, message, flags);
  if (sent <= 0) return sent;
  const int error = errno;
  const auto connection = GuardTable::OfProcess().Find(fd);
  if (connection != nullptr && !connection->is_encrypted) {
    connection->guard.Sent(PiecesOf(*message, static_cast<size_t>(sent)));
  }
  errno = error;
  return sent;
}

int epoll_ctl(int epoll_fd, int operation, int fd, epoll_event* event) noexcept {
  using namespace quantd;
  static auto* const real = RealOf(&epoll_ctl, "epoll_ctl");
  if (operation == EPOLL_CTL_ADD && event != nullptr) {
    GuardTable::OfProcess().Watch(fd, epoll_fd, *event);
  }
  return real(epoll_fd, operation, fd, event);
}

int close(int fd) {
  using namespace quantd;
  static auto* const real = RealOf(&close, "close");
  GuardTable::OfProcess().Clear(fd);
  return real(fd);
}

int getpeername(int fd, sockaddr* address, socklen_t* size) noexcept {
  using namespace quantd;
  static auto* const real = RealOf(&getpeername, "getpeername");
  const auto connection = GuardTable::OfProcess().Find(fd);
  if (connection == nullptr) return real(fd, address, size);
  absl::string_view name = connection->peer;
  if (!absl::ConsumePrefix(&name, "unix-abstract:")) return real(fd, address, size);
  sockaddr_un abstract = {};
  abstract.sun_family = AF_UNIX;
  std::memcpy(abstract.sun_path + 1, name.data(),
              std::min(name.size(), sizeof(abstract.sun_path) - 1));
  const auto used = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  std::memcpy(address, &abstract, std::min(*size, used));
  *size = used;
  return 0;
}

SSL* SSL_new(SSL_CTX* context) {
  using namespace quantd;
  static auto* const real = RealOf(&SSL_new, "SSL_new");
  SSL* const ssl = real(context);
  const std::shared_ptr<GuardedConnection>& connection = GuardTable::handed_over();
  if (ssl != nullptr && connection != nullptr) {
    SSL_set_ex_data(ssl, ConnectionIndex(), new std::shared_ptr<GuardedConnection>(connection));
  }
  return ssl;
}

int SSL_do_handshake(SSL* ssl) {
  static auto* const real = quantd::RealOf(&SSL_do_handshake, "SSL_do_handshake");
  return quantd::Handshake(ssl, real);
}

int SSL_read(SSL* ssl, void* buffer, int size) {
  using namespace quantd;
  static auto* const real = RealOf(&SSL_read, "SSL_read");
  const int received = real(ssl, buffer, size);
  GuardedConnection* const connection = ConnectionOf(ssl);
  if (received <= 0 || connection == nullptr) return received;
  const absl::string_view bytes(static_cast<const char*>(buffer), static_cast<size_t>(received));
  if (!MustEnd(*connection, {&bytes, 1})) return received;
  ERR_raise(ERR_LIB_USER, ERR_R_INTERNAL_ERROR);
  return -1;  // a broken connection to gRPC, which closes it
}

int SSL_write(SSL* ssl, const void* buffer, int size) {
  using namespace quantd;
  static auto* const real = RealOf(&SSL_write, "SSL_write");
  const int sent = real(ssl, buffer, size);
  if (GuardedConnection* const connection = ConnectionOf(ssl); connection != nullptr && sent > 0) {
    connection->guard.Sent({static_cast<const char*>(buffer), static_cast<size_t>(sent)});
  }
  return sent;
}

}  // extern "C"
