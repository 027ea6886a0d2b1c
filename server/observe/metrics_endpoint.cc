#include "server/observe/metrics_endpoint.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "core/base/status_macros.h"

namespace quantd {
namespace {

constexpr size_t kMaxConnections = 64;
constexpr size_t kMaxRequestBytes = size_t{8} << 10;
// For a request and its answer, together.
constexpr absl::Duration kMaxAge = absl::Seconds(10);

std::string Response(absl::string_view status, absl::string_view body, bool has_body = true) {
  return absl::StrCat("HTTP/1.1 ", status,
                      "\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
                      "Content-Length: ",
                      body.size(), "\r\nConnection: close\r\n\r\n", has_body ? body : "");
}

// `request` is whole, but for a body, which none of those that are served has.
std::string Answer(absl::string_view request, const Metrics& metrics) {
  const std::vector<absl::string_view> words =
      absl::StrSplit(request.substr(0, request.find("\r\n")), ' ');
  if (words.size() != 3 || !absl::StartsWith(words[2], "HTTP/1.")) {
    return Response("400 Bad Request", "not a request of HTTP/1\n");
  }
  const absl::string_view path = words[1].substr(0, words[1].find('?'));
  if (path != "/metrics") return Response("404 Not Found", "metrics are at /metrics\n");
  if (words[0] != "GET" && words[0] != "HEAD") {
    return Response("405 Method Not Allowed", "use GET\n");
  }
  return Response("200 OK", metrics.Text(), words[0] == "GET");
}

bool WouldBlock() { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

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
  std::unique_ptr<MetricsEndpoint> endpoint(new MetricsEndpoint(metrics));
  absl::StatusOr<std::vector<ListeningSocket>> sockets = ListeningSocket::Open(address, 0);
  if (!sockets.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot serve metrics: ", sockets.status().message()));
  }
  endpoint->sockets_ = *std::move(sockets);
  endpoint->wake_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (endpoint->wake_ < 0) {
    return absl::ResourceExhaustedError(absl::StrCat("cannot serve metrics: ", strerror(errno)));
  }
  endpoint->address_ = absl::StrCat(address.host, ":", endpoint->sockets_.front().port());
  endpoint->thread_ = std::thread([self = endpoint.get()] { self->Run(); });
  return endpoint;
}

MetricsEndpoint::~MetricsEndpoint() {
  if (thread_.joinable()) {
    eventfd_write(wake_, 1);
    thread_.join();
  }
  for (const Connection& connection : connections_) close(connection.fd);
  if (wake_ >= 0) close(wake_);
}

void MetricsEndpoint::Run() {
  std::vector<pollfd> polled;
  for (;;) {
    polled.assign(1, {.fd = wake_, .events = POLLIN, .revents = 0});
    for (const ListeningSocket& socket : sockets_) {
      polled.push_back({.fd = socket.fd(), .events = POLLIN, .revents = 0});
    }
    for (const Connection& connection : connections_) {
      const short events = connection.response.empty() ? POLLIN : POLLOUT;
      polled.push_back({.fd = connection.fd, .events = events, .revents = 0});
    }
    // A deadline is looked at within a second.
    poll(polled.data(), polled.size(), connections_.empty() ? -1 : 1000);
    if (polled[0].revents != 0) return;
    const absl::Time now = absl::Now();
    const pollfd* at = &polled[1 + sockets_.size()];
    for (auto connection = connections_.begin(); connection != connections_.end();) {
      const auto here = connection++;
      const bool goes_on = (at++)->revents == 0 || Serve(*here);
      if (!goes_on || now >= here->deadline) Close(here);
    }
    for (size_t i = 0; i < sockets_.size(); ++i) {
      if (polled[1 + i].revents != 0) AcceptFrom(sockets_[i]);
    }
  }
}

void MetricsEndpoint::AcceptFrom(const ListeningSocket& socket) {
  const int fd = accept4(socket.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) {
    // Without descriptors the peer stays in the system's queue, so that trying at once would spin.
    if (!WouldBlock() && errno != ECONNABORTED) absl::SleepFor(absl::Milliseconds(20));
    return;
  }
  if (connections_.size() >= kMaxConnections) Close(connections_.begin());
  connections_.push_back({.fd = fd, .deadline = absl::Now() + kMaxAge});
}

bool MetricsEndpoint::Serve(Connection& connection) const {
  if (connection.response.empty()) {
    char bytes[2048];
    const ssize_t count = recv(connection.fd, bytes, sizeof(bytes), 0);
    if (count <= 0) return count < 0 && WouldBlock();
    connection.request.append(bytes, static_cast<size_t>(count));
    if (!absl::StrContains(connection.request, "\r\n\r\n")) {
      return connection.request.size() < kMaxRequestBytes;
    }
    connection.response = Answer(connection.request, metrics_);
  }
  const ssize_t count = send(connection.fd, connection.response.data(), connection.response.size(),
                             MSG_NOSIGNAL);
  if (count < 0) return WouldBlock();
  connection.response.erase(0, static_cast<size_t>(count));
  return !connection.response.empty();
}

void MetricsEndpoint::Close(Connections::iterator connection) {
  shutdown(connection->fd, SHUT_WR);
  close(connection->fd);
  connections_.erase(connection);
}

}  // namespace quantd
