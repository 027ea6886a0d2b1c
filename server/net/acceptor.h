#ifndef QUANTD_SERVER_NET_ACCEPTOR_H_
#define QUANTD_SERVER_NET_ACCEPTOR_H_

#include <grpcpp/server_builder.h>
#include <spdlog/logger.h>
#include <sys/socket.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/mutex.h"
#include "server/net/connection_guard.h"
#include "server/net/guard_table.h"
#include "server/net/listen.h"
#include "server/observe/failed_logins.h"
#include "server/observe/sparse_log.h"

namespace quantd {

struct AcceptorOptions {
  int max_connections = 1024;
  // That one address, or one user of UNIX sockets, may have at once; 0: any number.
  int max_per_address = 0;
  // Of gRPC's that have made no call yet that was let in.
  int max_unproven = 256;
  GuardLimits guard;
  std::vector<uint32_t> allowed_uids;  // of the peers of UNIX sockets; empty: all
  // Called about once a second by the thread that accepts; null: not at all.
  std::function<void()> every_second;
  // Counts a connection that its guard has ended, by any thread; null: nobody does.
  std::function<void(GuardReason)> on_guard_end;
  std::shared_ptr<spdlog::logger> logger;  // null: silent
  std::shared_ptr<FailedLogins> failed_logins;  // of users and TLS handshakes; null: nobody is told
};

// Accepts connections and hands them to gRPC, which by itself neither bounds their number nor asks
// who is at the other end of a UNIX socket. One that is not wanted is closed at once. Has a thread.
//
// A connection to gRPC is unproven until a call on it is let in. Where there is no place for a
// newcomer the oldest unproven connection is closed for it: who has the right to make calls keeps
// its connections, and who only connects keeps nobody out. A quarter of all places is kept free for
// the sockets, in even shares, so that what fills one leaves the others open.
//
// gRPC does not tell when a connection ends, so each one's socket is watched through a duplicate
// descriptor: gRPC shuts a socket down before it closes it, and then the duplicate goes too.
// Thread-compatible; the counts are thread-safe.
class Acceptor {
 public:
  using Target = grpc::experimental::ExternalConnectionAcceptor;
  // Owns the connection `fd` from now on; shuts it down before it closes it.
  using TakeFn = std::function<void(int fd)>;

  explicit Acceptor(AcceptorOptions options);
  ~Acceptor();

  // Will hand what comes to `socket` to `target`. Before Start.
  void Add(ListeningSocket socket, std::shared_ptr<Target> target, bool is_encrypted);
  // Likewise, to another than gRPC. `take` is called by the thread that accepts.
  void Add(ListeningSocket socket, TakeFn take);
  // Begins to accept; the gRPC server runs. What came before waits in the system's queue.
  // kResourceExhausted: no descriptor is left.
  absl::Status Start();
  // Closes the listening sockets. Connections stay with gRPC.
  void Stop();

  int64_t open_connections() const { return open_.load(); }
  int64_t refused_connections() const { return refused_.load(); }
  // Unproven connections that were closed for others.
  int64_t displaced_connections() const { return displaced_.load(); }

 private:
  struct Listener {
    ListeningSocket socket;
    TakeFn take;
    bool is_grpc = false;
    bool is_encrypted = false;
    int64_t open = 0;  // connections that are not closing
  };
  struct Connection {
    int duplicate = -1;
    size_t listener = 0;
    std::string address;                         // without the port, or the user
    std::shared_ptr<GuardedConnection> guarded;  // null: not gRPC's
    bool is_closing = false;

    bool is_unproven() const { return guarded != nullptr && !guarded->guard.is_proven(); }
  };
  // What guards, which may outlive the acceptor, tell it.
  struct Reporter {
    void Report(GuardReason reason);
    Mutex mutex;
    Acceptor* acceptor ABSL_GUARDED_BY(mutex) = nullptr;  // null: gone
  };
  struct Peer {
    std::string name;     // as gRPC has it
    std::string address;  // as Connection has it
  };
  void Run();
  void AcceptFrom(size_t listener);
  // Connections that have ended for everybody but gRPC.
  int64_t EndedThatAreHeld() const;
  void TakeConnection(size_t listener, int fd, const sockaddr_storage& address);
  // kPermissionDenied: a user who is not allowed; failed_logins is told.
  absl::StatusOr<Peer> PeerOfSocket(const Listener& listener, int fd,
                                    const sockaddr_storage& address);
  // Closes what has to go for a newcomer. kResourceExhausted: nothing may go.
  absl::Status MakeRoom(size_t listener, const std::string& address);
  int64_t KeptForOthers(size_t listener) const;
  int64_t Share() const;
  // Closes the oldest unproven connection of those that `may_go`; false: there is none.
  template <typename MayGo>
  bool Displace(const MayGo& may_go);
  // Hands a connection over to its owner.
  void HandOver(const Listener& listener, int fd, const GuardedConnection* guarded);
  void OnGuardEnd(GuardReason reason);
  void LogRefusal(std::string what) ABSL_LOCKS_EXCLUDED(log_mutex_);
  void WriteRefusals(const std::string& last, int64_t events) const;
  void Tick() ABSL_LOCKS_EXCLUDED(log_mutex_);
  bool Watch(int fd, uint32_t events, uint64_t key);
  void Forget(uint64_t id);

  const AcceptorOptions options_;
  const std::shared_ptr<Reporter> reporter_ = std::make_shared<Reporter>();
  std::vector<Listener> listeners_;
  int epoll_ = -1;
  int wake_ = -1;  // an eventfd; readable: stop
  std::thread thread_;
  std::map<uint64_t, Connection> connections_;  // by number: the oldest comes first
  uint64_t next_id_ = 0;
  int64_t closing_ = 0;  // of the connections
  // Connections whose descriptors gRPC has not closed; guards may outlive the acceptor.
  const std::shared_ptr<std::atomic<int64_t>> held_ = std::make_shared<std::atomic<int64_t>>(0);
  Mutex log_mutex_;
  SparseLog log_ ABSL_GUARDED_BY(log_mutex_);  // of what is refused or closed
  std::atomic<int64_t> open_ = 0;
  std::atomic<int64_t> refused_ = 0;
  std::atomic<int64_t> displaced_ = 0;
};

}  // namespace quantd

#endif  // QUANTD_SERVER_NET_ACCEPTOR_H_
