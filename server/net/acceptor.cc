// One thread that accepts for all listeners, so that there is one place that knows how many
// connections there are, whose they are, and which of them were ever of use:
//
//   accept -> whose is it? -> is there room? -> guard (gRPC's only) -> its owner
//                               | no: the oldest unproven one that may go is shut down for it
//                               | none may: closed
//
// Room is bounded for all, for each address, and for unproven connections; a listener keeps a share
// that others cannot take. A duplicate of the descriptor tells of the end, since the owner closes
// its own without a word. What it costs gRPC to be done with a connection is why accepting waits
// while many have ended and gRPC still has them, which the table of guards counts.
//
// Entries: Start, Stop; Run is the thread. Tested by tests/server/net/access_test.cc and
// tests/e2e/test_unix_peers.py, places and shares by interpose_test.cc, under attack by tests/attack.
#include "server/net/acceptor.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/net/handshakes.h"

namespace quantd {
namespace {

// Keys of what is watched: places in listeners_, the eventfd, and numbers of connections from
// kFirstConnection.
constexpr uint64_t kWakeKey = uint64_t{1} << 31;
constexpr uint64_t kFirstConnection = uint64_t{1} << 32;
// Connections taken from one socket before others have their turn.
constexpr int kAcceptsPerTurn = 64;
// What the kernel takes of a response before the client has read it; cut to net.core.wmem_max.
constexpr int kUnixSendBytes = 1 << 20;
// Connections that have ended, and that gRPC has not closed yet: with more of them nothing is
// accepted, or who comes again at once is faster than gRPC is done with what has ended.
constexpr int64_t kMaxEnded = 64;

// A clock that nobody sets back.
int64_t SteadyNs() {
  return absl::ToInt64Nanoseconds(
      absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch()));
}

}  // namespace

Acceptor::Acceptor(AcceptorOptions options) : options_(std::move(options)) {
  MutexLock lock(&reporter_->mutex);
  reporter_->acceptor = this;
}

Acceptor::~Acceptor() {
  Stop();
  for (const auto& [id, connection] : connections_) {
    if (connection.guarded != nullptr) GuardTable::OfProcess().RemovePeer(*connection.guarded);
  }
  MutexLock lock(&reporter_->mutex);
  reporter_->acceptor = nullptr;
}

void Acceptor::Add(ListeningSocket socket, std::shared_ptr<Target> target, bool is_encrypted) {
  const int listener_fd = socket.fd();
  Add(std::move(socket), [target = std::move(target), listener_fd](int fd) {
    Target::NewConnectionParameters connection;
    connection.listener_fd = listener_fd;
    connection.fd = fd;
    target->HandleNewConnection(&connection);
  });
  listeners_.back().is_grpc = true;
  listeners_.back().is_encrypted = is_encrypted;
}

void Acceptor::Add(ListeningSocket socket, TakeFn take) {
  listeners_.push_back({.socket = std::move(socket), .take = std::move(take)});
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
  // Guards stay: gRPC still has the connections.
  for (auto& [id, connection] : connections_) {
    if (connection.duplicate >= 0) close(std::exchange(connection.duplicate, -1));
  }
  open_ = 0;
  for (int* const fd : {&epoll_, &wake_}) {
    if (*fd >= 0) close(std::exchange(*fd, -1));
  }
}

void Acceptor::Run() {
  std::array<epoll_event, 64> events;
  int64_t next_tick_ns = SteadyNs();
  for (;;) {
    const int count = epoll_wait(epoll_, events.data(), events.size(), /*timeout=*/1000);
    for (int i = 0; i < count; ++i) {
      const uint64_t key = events[static_cast<size_t>(i)].data.u64;
      if (key == kWakeKey) return;
      if (key >= kFirstConnection) {
        Forget(key - kFirstConnection);
      } else {
        AcceptFrom(key);
      }
    }
    if (SteadyNs() >= next_tick_ns) {
      Tick();
      next_tick_ns = SteadyNs() + 1'000'000'000;
    }
  }
}

void Acceptor::AcceptFrom(size_t listener) {
  for (int i = 0; i < kAcceptsPerTurn; ++i) {
    // Only what gRPC gets waits for gRPC.
    if (listeners_[listener].is_grpc && EndedThatAreHeld() >= kMaxEnded) {
      absl::SleepFor(absl::Milliseconds(1));  // what has closed is heard of next
      return;
    }
    sockaddr_storage address = {};
    socklen_t size = sizeof(address);
    const int fd = accept4(listeners_[listener].socket.fd(), reinterpret_cast<sockaddr*>(&address),
                           &size, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0) {
      TakeConnection(listener, fd, address);
    } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
      refused_.fetch_add(1);
      LogRefusal(absl::StrCat("accept: ", strerror(errno)));
      // The connection stays in the system's queue, so that trying again at once would spin.
      absl::SleepFor(absl::Milliseconds(20));
      return;
    } else if (errno != EINTR && errno != ECONNABORTED) {
      return;  // nobody is left; what else there is, the next turn meets
    }
  }
}

int64_t Acceptor::EndedThatAreHeld() const {
  if (!GuardTable::OfProcess().hears_of_closes()) return closing_;
  int64_t open = 0;
  for (const Listener& listener : listeners_) open += listener.is_grpc ? listener.open : 0;
  return held_->load() - open;
}

void Acceptor::TakeConnection(size_t listener, int fd, const sockaddr_storage& address) {
  Listener& from = listeners_[listener];
  absl::StatusOr<Peer> peer = PeerOfSocket(from, fd, address);
  absl::Status status = peer.status();
  if (status.ok()) status = MakeRoom(listener, peer->address);
  const int duplicate = status.ok() ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1;
  const uint64_t id = next_id_++;
  // With no events asked for, the end of both directions and errors are told.
  if (status.ok() && (duplicate < 0 || !Watch(duplicate, 0, kFirstConnection + id))) {
    status = absl::ResourceExhaustedError(absl::StrCat("watching: ", strerror(errno)));
  }
  if (!status.ok()) {
    // Users that are not allowed are failed logins, which are logged as such.
    const bool is_told = absl::IsPermissionDenied(status) && options_.failed_logins != nullptr;
    refused_.fetch_add(1);
    if (!is_told) LogRefusal(std::string(status.message()));
    if (duplicate >= 0) close(duplicate);
    close(fd);
    return;
  }
  if (from.socket.is_unix()) {  // whose buffers do not grow by themselves, as TCP's do
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &kUnixSendBytes, sizeof(kUnixSendBytes));
  }
  std::shared_ptr<GuardedConnection> guarded;
  if (from.is_grpc) {
    guarded = std::make_shared<GuardedConnection>(
        fd, std::move(peer->name), from.is_encrypted, options_.guard,
        [reporter = reporter_](GuardReason reason) { reporter->Report(reason); }, held_);
    GuardTable::OfProcess().Add(guarded);
  } else {
    GuardTable::OfProcess().Clear(fd);
  }
  connections_[id] = {.duplicate = duplicate,
                      .listener = listener,
                      .address = std::move(peer->address),
                      .guarded = guarded};
  ++from.open;
  open_.fetch_add(1);
  GuardTable::handed_over() = guarded;
  HandOver(from, fd, guarded.get());
  GuardTable::handed_over() = nullptr;
}

void Acceptor::HandOver(const Listener& listener, int fd, const GuardedConnection* guarded) {
  std::optional<HandshakeScope> handshakes;
  if (listener.is_encrypted && options_.failed_logins != nullptr) {
    handshakes.emplace(guarded->peer, options_.failed_logins);
  }
  listener.take(fd);
}

absl::StatusOr<Acceptor::Peer> Acceptor::PeerOfSocket(const Listener& listener, int fd,
                                                      const sockaddr_storage& address) {
  if (!listener.socket.is_unix()) {
    std::string name = PeerOf(address);
    std::string of_network = AddressOfPeer(name);
    return Peer{std::move(name), std::move(of_network)};
  }
  ucred peer = {};
  socklen_t size = sizeof(peer);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
    return absl::UnavailableError(absl::StrCat("SO_PEERCRED: ", strerror(errno)));
  }
  const std::vector<uint32_t>& allowed = options_.allowed_uids;
  if (!allowed.empty() && std::find(allowed.begin(), allowed.end(), peer.uid) == allowed.end()) {
    const std::string reason = absl::StrCat("user ", peer.uid, " is not one of --allow-uid");
    if (options_.failed_logins != nullptr) {
      options_.failed_logins->Add(FailedLogins::Kind::kUid, "unix", reason);
    }
    return absl::PermissionDeniedError(reason);
  }
  // Of the process, as the table of guards is, where names must not meet.
  static std::atomic<uint64_t> next_name = 0;
  return Peer{UnixPeerOf(peer.uid, next_name++), absl::StrCat("user ", peer.uid)};
}

absl::Status Acceptor::MakeRoom(size_t listener, const std::string& address) {
  int64_t of_address = 0, unproven = 0, unproven_of_address = 0;
  for (const auto& [id, connection] : connections_) {
    if (connection.is_closing) continue;
    const bool same = connection.address == address;
    of_address += same;
    unproven += connection.is_unproven();
    unproven_of_address += same && connection.is_unproven();
  }
  const auto of_same_address = [&](const Connection& c) { return c.address == address; };
  if (options_.max_per_address > 0 && of_address >= options_.max_per_address) {
    if (Displace(of_same_address)) return absl::OkStatus();
    return absl::ResourceExhaustedError(
        absl::StrCat(address, " has ", of_address, ", as many as --address-connections"));
  }
  const int64_t open = static_cast<int64_t>(connections_.size()) - closing_;
  if (open + KeptForOthers(listener) >= options_.max_connections) {
    const auto beyond_its_share = [&](const Connection& c) {
      return c.listener == listener || listeners_[c.listener].open > Share();
    };
    if (Displace(beyond_its_share)) return absl::OkStatus();
    return absl::ResourceExhaustedError(
        absl::StrCat("there are ", open, " already, as many as --max-connections"));
  }
  if (!listeners_[listener].is_grpc || unproven < options_.max_unproven) return absl::OkStatus();
  // Who has many of them goes before others.
  if (unproven_of_address * 4 > unproven) {
    Displace(of_same_address);
  } else {
    Displace([](const Connection&) { return true; });
  }
  return absl::OkStatus();
}

int64_t Acceptor::Share() const {
  return options_.max_connections / (4 * static_cast<int64_t>(listeners_.size()));
}

int64_t Acceptor::KeptForOthers(size_t listener) const {
  int64_t kept = 0;
  for (size_t i = 0; i < listeners_.size(); ++i) {
    if (i != listener) kept += std::max<int64_t>(0, Share() - listeners_[i].open);
  }
  return kept;
}

template <typename MayGo>
bool Acceptor::Displace(const MayGo& may_go) {
  for (auto& [id, connection] : connections_) {
    if (connection.is_closing || !connection.is_unproven() || !may_go(connection)) continue;
    // Before gRPC is told by the shutdown, so that it finds the end also where its peer is held back.
    connection.guarded->is_ended = true;
    shutdown(connection.duplicate, SHUT_RDWR);
    connection.is_closing = true;
    ++closing_;
    --listeners_[connection.listener].open;
    displaced_.fetch_add(1);
    LogRefusal(absl::StrCat(connection.address, " had made no call that was let in, and went for ",
                            "a newcomer"));
    return true;
  }
  return false;
}

void Acceptor::Reporter::Report(GuardReason reason) {
  MutexLock lock(&mutex);
  if (acceptor != nullptr) acceptor->OnGuardEnd(reason);
}

void Acceptor::OnGuardEnd(GuardReason reason) {
  if (options_.on_guard_end != nullptr) options_.on_guard_end(reason);
  LogRefusal(std::string(TextOf(reason)));
}

void Acceptor::LogRefusal(std::string what) {
  MutexLock lock(&log_mutex_);
  log_.Add(std::move(what), absl::Now(),
           [this](const std::string& last, int64_t events) { WriteRefusals(last, events); });
}

void Acceptor::WriteRefusals(const std::string& last, int64_t events) const {
  if (options_.logger == nullptr) return;
  options_.logger->warn("{} connection(s) refused or closed; the last one: {}", events, last);
}

void Acceptor::Tick() {
  {
    MutexLock lock(&log_mutex_);
    log_.Rest(absl::Now(),
              [this](const std::string& last, int64_t events) { WriteRefusals(last, events); });
  }
  if (options_.every_second != nullptr) options_.every_second();
}

bool Acceptor::Watch(int fd, uint32_t events, uint64_t key) {
  epoll_event event = {.events = events, .data = {.u64 = key}};
  return epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) == 0;
}

void Acceptor::Forget(uint64_t id) {
  const auto found = connections_.find(id);
  if (found == connections_.end()) return;
  Connection& connection = found->second;
  // Closing alone would leave the entry behind where gRPC still has the socket.
  epoll_ctl(epoll_, EPOLL_CTL_DEL, connection.duplicate, nullptr);
  close(connection.duplicate);
  if (connection.is_closing) {
    --closing_;
  } else {
    --listeners_[connection.listener].open;
  }
  if (connection.guarded != nullptr) GuardTable::OfProcess().RemovePeer(*connection.guarded);
  connections_.erase(found);
  open_.fetch_sub(1);
}

}  // namespace quantd
