#ifndef QUANTD_SERVER_NET_GUARD_TABLE_H_
#define QUANTD_SERVER_NET_GUARD_TABLE_H_

#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "core/base/mutex.h"
#include "server/net/connection_guard.h"

namespace quantd {

// A connection of gRPC's that has a guard. Thread-safe.
struct GuardedConnection {
  using EndFn = std::function<void(GuardReason)>;

  // `held` counts the connection for as long as its owner has the descriptor open.
  GuardedConnection(int fd, std::string peer, bool is_encrypted, const GuardLimits& limits,
                    EndFn on_end, std::shared_ptr<std::atomic<int64_t>> held = nullptr);

  const int fd;            // gRPC's; may be another's once the connection has ended
  const std::string peer;  // as gRPC names it
  const bool is_encrypted;  // what passes `fd` is TLS, and is walked when it is decrypted
  const EndFn on_end;      // called, once, by whatever thread finds the reason
  const std::shared_ptr<std::atomic<int64_t>> held;  // null: nobody counts
  std::atomic<bool> is_ended = false;                // nothing more is read
  std::atomic<bool> is_watched = false;  // it is known how to wake gRPC
  int epoll_fd = -1;                     // gRPC's; these two are guarded by the table
  epoll_event watch = {};
  ConnectionGuard guard;
};

// The connections that have guards, by descriptor and by peer. Descriptors are the process's, and
// what asks for them are its system calls (server/interpose.cc), so there is one table.
// Thread-safe.
class GuardTable {
 public:
  static GuardTable& OfProcess();

  // `connection` replaces what had its descriptor before, which has been closed since.
  void Add(const std::shared_ptr<GuardedConnection>& connection);
  // The descriptor is closed, or belongs to something without a guard now.
  void Clear(int fd);
  // No call comes from the connection any more. What gRPC may still read of it stays guarded.
  void RemovePeer(const GuardedConnection& connection);
  // Null: there is none.
  std::shared_ptr<GuardedConnection> Find(int fd);
  std::shared_ptr<GuardedConnection> FindPeer(absl::string_view peer);

  // gRPC watches `fd` from now on. Called for whatever the process watches.
  void Watch(int fd, int epoll_fd, const epoll_event& event);
  // Has gRPC look at a connection again that had nothing to read.
  void Wake(const GuardedConnection& connection);

  // The connection that this thread is handing to gRPC, which may make what it is to be tied to.
  static std::shared_ptr<GuardedConnection>& handed_over();

  std::atomic<int64_t>& total_pending() { return total_pending_; }
  // True if the table hears of descriptors that are closed, which some system call of the process
  // has shown.
  bool hears_of_closes() const { return hears_of_closes_.load(std::memory_order_relaxed); }

 private:
  struct Shard {
    Mutex mutex;
    absl::flat_hash_map<int, std::shared_ptr<GuardedConnection>> by_fd ABSL_GUARDED_BY(mutex);
  };
  Shard& ShardOf(int fd) { return shards_[static_cast<size_t>(fd) % shards_.size()]; }

  std::array<Shard, 16> shards_;
  Mutex peers_mutex_;
  absl::flat_hash_map<std::string, std::shared_ptr<GuardedConnection>> by_peer_
      ABSL_GUARDED_BY(peers_mutex_);
  std::atomic<int64_t> total_pending_ = 0;
  std::atomic<bool> hears_of_closes_ = false;
};

// A call that was let in, for its connection's guard to know. Movable.
class LetInCall {
 public:
  // `peer` is the call's, as gRPC names it.
  explicit LetInCall(absl::string_view peer) : connection_(GuardTable::OfProcess().FindPeer(peer)) {
    if (connection_ != nullptr) connection_->guard.LetIn();
  }
  LetInCall(LetInCall&&) = default;
  LetInCall& operator=(LetInCall&&) = delete;
  ~LetInCall() { Answer(); }

  // The first frame of the answer goes out; may be called again.
  void Answer() {
    if (const auto connection = std::exchange(connection_, nullptr)) connection->guard.Answered();
  }

 private:
  std::shared_ptr<GuardedConnection> connection_;
};

// Likewise one that was refused, until gRPC is done with it. Neither copied nor moved.
class RefusedCall {
 public:
  explicit RefusedCall(absl::string_view peer)
      : connection_(GuardTable::OfProcess().FindPeer(peer)) {
    if (connection_ != nullptr) connection_->guard.Refused();
  }
  RefusedCall(const RefusedCall&) = delete;
  ~RefusedCall() {
    if (connection_ != nullptr) connection_->guard.RefusedIsGone();
  }

 private:
  const std::shared_ptr<GuardedConnection> connection_;
};

// Returns how gRPC names the peer of a TCP connection, but for the scope of a link-local address,
// which the table leaves out too: "ipv4:127.0.0.1:4567".
std::string PeerOf(const sockaddr_storage& address);

// Returns who is at the other end as bounds of connections and shares of calls have it: the peer
// without its port, but of IPv6 the network of 64 bits, which is what one customer is given:
// "ipv4:127.0.0.1", "ipv6:[2001:db8::]/64". Addresses that are of no such network (loopback,
// link-local) stay as they are. `peer` as PeerOf or gRPC has it.
std::string AddressOfPeer(absl::string_view peer);

// Names of the peers of UNIX sockets, which the system gives none: their user and a number. With
// them gRPC can tell such connections, and their users, apart.
std::string UnixPeerOf(uint32_t uid, uint64_t id);
// Returns the user in such a name as a caller's, "unix:1000"; "unix": there is none.
std::string UnixCallerOf(absl::string_view peer);

}  // namespace quantd

#endif  // QUANTD_SERVER_NET_GUARD_TABLE_H_
