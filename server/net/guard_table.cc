// The guards of all connections, found in two ways, since what knows a connection has either:
//
//   by descriptor   recvmsg, sendmsg, epoll_ctl, close; many times a connection, so in shards
//   by peer         a call that was let in: gRPC tells its peer, "ipv4:192.0.2.1:443"
//
// A descriptor's number is given to another as soon as it is closed, so whoever accepts puts the
// new guard in before gRPC sees the descriptor. UNIX peers have no name of their own; getpeername
// gives them one (interpose.cc), made here.
//
// Entries: Add, Find, FindPeer, Wake. Tested by tests/server/net/interpose_test.cc.
#include "server/net/guard_table.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"

namespace quantd {
namespace {

// gRPC names abstract sockets so; the rest is what UnixPeerOf adds.
constexpr absl::string_view kUnixPeerPrefix = "unix-abstract:quantd-";

// Returns `peer` without gRPC's escapes and without a scope.
std::string KeyOf(absl::string_view peer) {
  if (!absl::StrContains(peer, '%')) return std::string(peer);
  std::string key = absl::StrReplaceAll(peer, {{"%5B", "["}, {"%5D", "]"}});
  if (const size_t scope = key.find('%'); scope != std::string::npos) {
    if (const size_t end = key.find(']', scope); end != std::string::npos) {
      key.erase(scope, end - scope);
    }
  }
  return key;
}

}  // namespace

GuardedConnection::GuardedConnection(int fd, std::string peer, bool is_encrypted,
                                     const GuardLimits& limits, EndFn on_end,
                                     std::shared_ptr<std::atomic<int64_t>> held)
    : fd(fd),
      peer(std::move(peer)),
      is_encrypted(is_encrypted),
      on_end(std::move(on_end)),
      held(std::move(held)),
      guard(limits, GuardTable::OfProcess().total_pending(),
            [this] { GuardTable::OfProcess().Wake(*this); }) {}

GuardTable& GuardTable::OfProcess() {
  static GuardTable* const table = new GuardTable;  // gRPC's threads may outlive static objects
  return *table;
}

void GuardTable::Add(const std::shared_ptr<GuardedConnection>& connection) {
  Clear(connection->fd);
  {
    MutexLock lock(&peers_mutex_);
    by_peer_[KeyOf(connection->peer)] = connection;
  }
  if (connection->held != nullptr) ++*connection->held;
  Shard& shard = ShardOf(connection->fd);
  MutexLock lock(&shard.mutex);
  shard.by_fd[connection->fd] = connection;
}

void GuardTable::Clear(int fd) {
  Shard& shard = ShardOf(fd);
  std::shared_ptr<GuardedConnection> old;  // goes after the lock, which Wake takes
  MutexLock lock(&shard.mutex);
  const auto found = shard.by_fd.find(fd);
  if (found == shard.by_fd.end()) return;
  old = std::move(found->second);
  shard.by_fd.erase(found);
  if (old->held != nullptr) --*old->held;
}

void GuardTable::RemovePeer(const GuardedConnection& connection) {
  std::shared_ptr<GuardedConnection> gone;  // after the lock
  MutexLock lock(&peers_mutex_);
  const auto found = by_peer_.find(KeyOf(connection.peer));
  if (found == by_peer_.end() || found->second.get() != &connection) return;
  gone = std::move(found->second);
  by_peer_.erase(found);
}

std::shared_ptr<GuardedConnection> GuardTable::Find(int fd) {
  Shard& shard = ShardOf(fd);
  MutexLock lock(&shard.mutex);
  const auto found = shard.by_fd.find(fd);
  return found == shard.by_fd.end() ? nullptr : found->second;
}

std::shared_ptr<GuardedConnection> GuardTable::FindPeer(absl::string_view peer) {
  const std::string key = KeyOf(peer);
  MutexLock lock(&peers_mutex_);
  const auto found = by_peer_.find(key);
  return found == by_peer_.end() ? nullptr : found->second;
}

void GuardTable::Watch(int fd, int epoll_fd, const epoll_event& event) {
  hears_of_closes_.store(true, std::memory_order_relaxed);
  Shard& shard = ShardOf(fd);
  MutexLock lock(&shard.mutex);
  const auto found = shard.by_fd.find(fd);
  if (found == shard.by_fd.end()) return;
  found->second->epoll_fd = epoll_fd;
  found->second->watch = event;
  found->second->is_watched = true;
}

void GuardTable::Wake(const GuardedConnection& connection) {
  Shard& shard = ShardOf(connection.fd);
  // While the table has the connection, and its lock is held, the descriptor is not another's that
  // gRPC watches: whoever accepts adds it before gRPC gets it.
  MutexLock lock(&shard.mutex);
  const auto found = shard.by_fd.find(connection.fd);
  if (found == shard.by_fd.end() || found->second.get() != &connection) return;
  epoll_event watch = connection.watch;
  // Setting what is set already tells of what is readable again, once.
  epoll_ctl(connection.epoll_fd, EPOLL_CTL_MOD, connection.fd, &watch);
}

std::shared_ptr<GuardedConnection>& GuardTable::handed_over() {
  thread_local std::shared_ptr<GuardedConnection> connection;
  return connection;
}

std::string PeerOf(const sockaddr_storage& address) {
  char text[INET6_ADDRSTRLEN] = {};
  if (address.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
    inet_ntop(AF_INET, &v4.sin_addr, text, sizeof(text));
    return absl::StrCat("ipv4:", text, ":", ntohs(v4.sin_port));
  }
  const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
  if (IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr)) {
    inet_ntop(AF_INET, &v6.sin6_addr.s6_addr[12], text, sizeof(text));
    return absl::StrCat("ipv4:", text, ":", ntohs(v6.sin6_port));
  }
  inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof(text));
  return absl::StrCat("ipv6:[", text, "]:", ntohs(v6.sin6_port));
}

std::string AddressOfPeer(absl::string_view peer) {
  std::string address = KeyOf(peer);
  address.erase(std::min(address.rfind(':'), address.size()));
  absl::string_view digits = address;
  in6_addr network;
  if (!absl::ConsumePrefix(&digits, "ipv6:[") || !absl::ConsumeSuffix(&digits, "]") ||
      inet_pton(AF_INET6, std::string(digits).c_str(), &network) != 1 ||
      IN6_IS_ADDR_LOOPBACK(&network) || IN6_IS_ADDR_LINKLOCAL(&network)) {
    return address;
  }
  std::memset(&network.s6_addr[8], 0, 8);
  char text[INET6_ADDRSTRLEN] = {};
  inet_ntop(AF_INET6, &network, text, sizeof(text));
  return absl::StrCat("ipv6:[", text, "]/64");
}

std::string UnixPeerOf(uint32_t uid, uint64_t id) {
  return absl::StrCat(kUnixPeerPrefix, uid, "-", id);
}

std::string UnixCallerOf(absl::string_view peer) {
  if (!absl::ConsumePrefix(&peer, kUnixPeerPrefix)) return "unix";
  return absl::StrCat("unix:", peer.substr(0, peer.find('-')));
}

}  // namespace quantd
