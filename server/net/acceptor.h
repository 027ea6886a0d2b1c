#ifndef QUANTD_SERVER_NET_ACCEPTOR_H_
#define QUANTD_SERVER_NET_ACCEPTOR_H_

#include <grpcpp/server_builder.h>
#include <spdlog/logger.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/net/listen.h"
#include "server/observe/failed_logins.h"

namespace quantd {

struct AcceptorOptions {
  int max_connections = 1024;
  std::vector<uint32_t> allowed_uids;  // of the peers of UNIX sockets; empty: all
  // Called about once a second by the thread that accepts; null: not at all.
  std::function<void()> every_second;
  std::shared_ptr<spdlog::logger> logger;  // null: silent
  std::shared_ptr<FailedLogins> failed_logins;  // told of users and of TLS handshakes
};

// Accepts connections and hands them to gRPC, which by itself neither bounds their number nor asks
// who is at the other end of a UNIX socket. One that is not wanted is closed at once. Has a thread.
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
  void Add(ListeningSocket socket, std::shared_ptr<Target> target);
  // Likewise, to another than gRPC. `take` is called by the thread that accepts.
  void Add(ListeningSocket socket, TakeFn take);
  // Begins to accept; the gRPC server runs. What came before waits in the system's queue.
  // kResourceExhausted: no descriptor is left.
  absl::Status Start();
  // Closes the listening sockets. Connections stay with gRPC.
  void Stop();

  int64_t open_connections() const { return open_.load(); }
  int64_t refused_connections() const { return refused_.load(); }

 private:
  struct Listener {
    ListeningSocket socket;
    TakeFn take;
  };
  void Run();
  void AcceptFrom(const Listener& listener);
  void TakeConnection(const Listener& listener, int fd);
  bool MayConnect(const Listener& listener, int fd);
  // Hands a connection over to its owner.
  void HandOver(const Listener& listener, int fd);
  void Refuse(const std::string& reason);
  bool Watch(int fd, uint32_t events, uint64_t key);
  void Forget(int fd);

  const AcceptorOptions options_;
  std::vector<Listener> listeners_;
  int epoll_ = -1;
  int wake_ = -1;  // an eventfd; readable: stop
  std::thread thread_;
  absl::flat_hash_set<int> watched_;  // duplicates, one for each connection
  absl::Time last_logged_ = absl::InfinitePast();
  int64_t unlogged_ = 0;  // refusals since then
  std::atomic<int64_t> open_ = 0;
  std::atomic<int64_t> refused_ = 0;
};

}  // namespace quantd

#endif  // QUANTD_SERVER_NET_ACCEPTOR_H_
