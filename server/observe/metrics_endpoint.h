#ifndef QUANTD_SERVER_OBSERVE_METRICS_ENDPOINT_H_
#define QUANTD_SERVER_OBSERVE_METRICS_ENDPOINT_H_

#include <list>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/net/listen.h"
#include "server/observe/metrics.h"

namespace quantd {

// Where a server listens for `metrics`: "HOST:PORT", or "PORT", which is of loopback.
// kInvalidArgument: neither.
absl::StatusOr<ListenAddress> ParseMetricsAddress(absl::string_view text);

// Serves metrics over HTTP, at /metrics: one request a connection, a few connections at once, each
// for a short time, by one thread that waits for nobody. A newcomer beyond these has the oldest one
// closed, so that whoever leaves requests unfinished keeps nobody from being served. Thread-safe.
class MetricsEndpoint {
 public:
  // `metrics` are on, and outlive the endpoint. kFailedPrecondition: the address is taken, or is
  // not one of this machine.
  static absl::StatusOr<std::unique_ptr<MetricsEndpoint>> Start(const ListenAddress& address,
                                                                const Metrics& metrics);
  ~MetricsEndpoint();

  // Returns HOST:PORT, with the port that was chosen.
  const std::string& address() const { return address_; }

 private:
  struct Connection {
    int fd = -1;
    absl::Time deadline;
    std::string request;   // as far as it has come
    std::string response;  // what is left of it; empty: the request is not whole
  };
  using Connections = std::list<Connection>;  // the oldest comes first

  explicit MetricsEndpoint(const Metrics& metrics) : metrics_(metrics) {}
  void Run();
  void AcceptFrom(const ListeningSocket& socket);
  // Reads or writes what can be; false: the connection is over.
  bool Serve(Connection& connection) const;
  void Close(Connections::iterator connection);

  const Metrics& metrics_;
  std::string address_;
  std::vector<ListeningSocket> sockets_;
  int wake_ = -1;  // an eventfd; readable: stop
  Connections connections_;
  std::thread thread_;
};

}  // namespace quantd

#endif  // QUANTD_SERVER_OBSERVE_METRICS_ENDPOINT_H_
