#include "server/observe/metrics_endpoint.h"

#include <prometheus/exposer.h>

#include <exception>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"

namespace quantd {

absl::StatusOr<ListenAddress> ParseMetricsAddress(absl::string_view text) {
  QUANTD_ASSIGN_OR_RETURN(
      ListenAddress address,
      ParseListenAddress(absl::StrContains(text, ':') ? std::string(text)
                                                      : absl::StrCat("127.0.0.1:", text)));
  if (address.is_unix()) {
    return absl::InvalidArgumentError(
        absl::StrCat("metrics address ", text, " is a socket; use HOST:PORT or PORT"));
  }
  return address;
}

absl::StatusOr<std::unique_ptr<MetricsEndpoint>> MetricsEndpoint::Start(
    const ListenAddress& address, const Metrics& metrics) {
  std::unique_ptr<MetricsEndpoint> endpoint(new MetricsEndpoint);
  // The HTTP server takes numbers only.
  const bool by_name = address.host == "localhost";
  const std::string bind =
      by_name ? absl::StrCat("127.0.0.1", address.text.substr(address.host.size())) : address.text;
  try {  // prometheus-cpp's way to fail
    endpoint->exposer_ = std::make_unique<prometheus::Exposer>(std::vector<std::string>{
        "listening_ports", bind, "num_threads", "2", "request_timeout_ms", "10000"});
  } catch (const std::exception&) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot serve metrics on ", address.text,
                     ": the address is taken, or is not one of this machine"));
  }
  endpoint->exposer_->RegisterCollectable(metrics.collectable());
  endpoint->address_ =
      absl::StrCat(address.host, ":", endpoint->exposer_->GetListeningPorts().front());
  return endpoint;
}

MetricsEndpoint::MetricsEndpoint() = default;
MetricsEndpoint::~MetricsEndpoint() = default;

}  // namespace quantd
