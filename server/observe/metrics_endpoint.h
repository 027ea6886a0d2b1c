#ifndef QUANTD_SERVER_OBSERVE_METRICS_ENDPOINT_H_
#define QUANTD_SERVER_OBSERVE_METRICS_ENDPOINT_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/net/listen.h"
#include "server/observe/metrics.h"

namespace prometheus {
class Exposer;
}

namespace quantd {

// Where a server listens for `metrics`: "HOST:PORT", or "PORT", which is of loopback.
// kInvalidArgument: neither.
absl::StatusOr<ListenAddress> ParseMetricsAddress(absl::string_view text);

// Serves metrics over HTTP, at /metrics. Thread-safe.
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
  MetricsEndpoint();
  std::string address_;
  std::unique_ptr<prometheus::Exposer> exposer_;
};

}  // namespace quantd

#endif  // QUANTD_SERVER_OBSERVE_METRICS_ENDPOINT_H_
