#include "server/observe/metrics_endpoint.h"

#include <netdb.h>
#include <prometheus/exposer.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <exception>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "core/base/status_macros.h"

namespace quantd {
namespace {

// Connects to the TCP address `address`, and hangs up.
void Knock(const std::string& address) {
  const size_t colon = address.rfind(':');
  absl::string_view host = absl::string_view(address).substr(0, colon);
  if (absl::ConsumePrefix(&host, "[")) absl::ConsumeSuffix(&host, "]");
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(std::string(host).c_str(), address.c_str() + colon + 1, &hints, &found) != 0) {
    return;
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, &freeaddrinfo);
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return;
  (void)connect(fd, found->ai_addr, found->ai_addrlen);
  close(fd);
}

}  // namespace

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

MetricsEndpoint::~MetricsEndpoint() {
  // The HTTP server looks every two seconds whether it shall end, or when somebody connects.
  std::atomic<bool> over = false;
  std::thread knocking([this, &over] {
    for (; !over; absl::SleepFor(absl::Milliseconds(5))) Knock(address_);
  });
  exposer_.reset();
  over = true;
  knocking.join();
}

}  // namespace quantd
