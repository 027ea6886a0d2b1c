#include "server/net/acceptor.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/net/handshakes.h"

namespace quantd {
namespace {

// Keys of what is watched: places in listeners_, the eventfd, and descriptors from
// kFirstConnection.
constexpr uint64_t kWakeKey = uint64_t{1} << 31;
constexpr uint64_t kFirstConnection = uint64_t{1} << 32;
// Connections taken from one socket before others have their turn.
constexpr int kAcceptsPerTurn = 64;
// What the kernel takes of a response before the client has read it; cut to net.core.wmem_max.
constexpr int kUnixSendBytes = 1 << 20;

}  // namespace

Acceptor::Acceptor(AcceptorOptions options) : options_(std::move(options)) {}

Acceptor::~Acceptor() { Stop(); }

void Acceptor::Add(ListeningSocket socket, std::shared_ptr<Target> target) {
  const int listener_fd = socket.fd();
  Add(std::move(socket), [target = std::move(target), listener_fd](int fd) {
    Target::NewConnectionParameters connection;
    connection.listener_fd = listener_fd;
    connection.fd = fd;
    target->HandleNewConnection(&connection);
  });
}

void Acceptor::Add(ListeningSocket socket, TakeFn take) {
  listeners_.push_back({std::move(socket), std::move(take)});
}

absl::Status Acceptor::Start() {
  epoll_ = epoll_create1(EPOLL_CLOEXEC);
  wake_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  bool watches = epoll_ >= 0 && wake_ >= 0 && Watch(wake_, EPOLLIN, kWakeKey);
  for (size_t i = 0; watches && i < listeners_.size(); ++i) {
    watches = Watch(listeners_[i].socket.fd(), EPOLLIN, i);
  }
  if (!watches) {
    return absl::ResourceExhaustedError(
        absl::StrCat("listening sockets cannot be watched: ", strerror(errno)));
  }
  thread_ = std::thread([this] { Run(); });
  return absl::OkStatus();
}

void Acceptor::Stop() {
  if (thread_.joinable()) {
    eventfd_write(wake_, 1);
    thread_.join();
  }
  listeners_.clear();
  for (const int fd : watched_) close(fd);
  watched_.clear();
  open_ = 0;
  for (int* const fd : {&epoll_, &wake_}) {
    if (*fd >= 0) close(std::exchange(*fd, -1));
  }
}

void Acceptor::Run() {
  std::array<epoll_event, 64> events;
  absl::Time next_tick = absl::Now();
  for (;;) {
    const int timeout_ms = options_.every_second != nullptr ? 1000 : -1;
    const int count = epoll_wait(epoll_, events.data(), events.size(), timeout_ms);
    for (int i = 0; i < count; ++i) {
      const uint64_t key = events[static_cast<size_t>(i)].data.u64;
      if (key == kWakeKey) return;
      if (key >= kFirstConnection) {
        Forget(static_cast<int>(key - kFirstConnection));
      } else {
        AcceptFrom(listeners_[key]);
      }
    }
    if (options_.every_second != nullptr && absl::Now() >= next_tick) {
      options_.every_second();
      next_tick = absl::Now() + absl::Seconds(1);
    }
  }
}

void Acceptor::AcceptFrom(const Listener& listener) {
  for (int i = 0; i < kAcceptsPerTurn; ++i) {
    const int fd = accept4(listener.socket.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0) {
      TakeConnection(listener, fd);
    } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
      Refuse(absl::StrCat("accept: ", strerror(errno)));
      // The connection stays in the system's queue, so that trying again at once would spin.
      absl::SleepFor(absl::Milliseconds(20));
      return;
    } else if (errno != EINTR && errno != ECONNABORTED) {
      return;  // nobody is left; what else there is, the next turn meets
    }
  }
}

void Acceptor::TakeConnection(const Listener& listener, int fd) {
  if (!MayConnect(listener, fd)) {
    close(fd);
    return;
  }
  const int duplicate = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  // With no events asked for, the end of both directions and errors are told.
  if (duplicate < 0 || !Watch(duplicate, 0, kFirstConnection + static_cast<uint64_t>(duplicate))) {
    Refuse(absl::StrCat("watching: ", strerror(errno)));
    if (duplicate >= 0) close(duplicate);
    close(fd);
    return;
  }
  if (listener.socket.is_unix()) {  // whose buffers do not grow by themselves, as TCP's do
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &kUnixSendBytes, sizeof(kUnixSendBytes));
  }
  watched_.insert(duplicate);
  open_.fetch_add(1);
  HandOver(listener, fd);
}

void Acceptor::HandOver(const Listener& listener, int fd) {
  std::optional<HandshakeScope> handshakes;
  if (!listener.socket.is_unix()) handshakes.emplace(PeerOf(fd), options_.failed_logins);
  listener.take(fd);
}

bool Acceptor::MayConnect(const Listener& listener, int fd) {
  if (watched_.size() >= static_cast<size_t>(options_.max_connections)) {
    Refuse(absl::StrCat("there are ", watched_.size(), " already, as many as --max-connections"));
    return false;
  }
  if (!listener.socket.is_unix() || options_.allowed_uids.empty()) return true;
  ucred peer = {};
  socklen_t size = sizeof(peer);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
    Refuse(absl::StrCat("SO_PEERCRED: ", strerror(errno)));
    return false;
  }
  const std::vector<uint32_t>& allowed = options_.allowed_uids;
  if (std::find(allowed.begin(), allowed.end(), peer.uid) != allowed.end()) return true;
  refused_.fetch_add(1);
  options_.failed_logins->Add(FailedLogins::Kind::kUid, "unix",
                              absl::StrCat("user ", peer.uid, " is not one of --allow-uid"));
  return false;
}

void Acceptor::Refuse(const std::string& reason) {
  refused_.fetch_add(1);
  ++unlogged_;
  const absl::Time now = absl::Now();
  if (options_.logger == nullptr || now - last_logged_ < absl::Seconds(1)) return;
  options_.logger->warn("{} connection(s) refused; the last one: {}", unlogged_, reason);
  last_logged_ = now;
  unlogged_ = 0;
}

bool Acceptor::Watch(int fd, uint32_t events, uint64_t key) {
  epoll_event event = {.events = events, .data = {.u64 = key}};
  return epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) == 0;
}

void Acceptor::Forget(int fd) {
  // Closing alone would leave the entry behind where gRPC still has the socket.
  epoll_ctl(epoll_, EPOLL_CTL_DEL, fd, nullptr);
  close(fd);
  watched_.erase(fd);
  open_.fetch_sub(1);
}

}  // namespace quantd
