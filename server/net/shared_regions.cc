#include "server/net/shared_regions.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/status_macros.h"

namespace quantd {
namespace {

// While connections have not offered anything, their deadlines are looked at this often.
constexpr int kLookMs = 500;

}  // namespace

SharedRegions::SharedRegions(SharedRegionsOptions options, MemoryBudget& budget)
    : options_(std::move(options)), budget_(budget) {}

SharedRegions::~SharedRegions() { Stop(); }

absl::Status SharedRegions::Start() {
  epoll_ = OwnedFd(epoll_create1(EPOLL_CLOEXEC));
  wake_ = OwnedFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  epoll_event event = {.events = EPOLLIN, .data = {.fd = wake_.get()}};
  if (epoll_.get() < 0 || wake_.get() < 0 ||
      epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event) != 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat("connections for shared memory cannot be watched: ", strerror(errno)));
  }
  thread_ = std::thread([this] { Run(); });
  return absl::OkStatus();
}

void SharedRegions::Stop() {
  if (thread_.joinable()) {
    {
      MutexLock lock(&mutex_);
      stopping_ = true;
    }
    eventfd_write(wake_.get(), 1);
    thread_.join();
  }
  MutexLock lock(&mutex_);
  for (auto connection = connections_.begin(); connection != connections_.end();) {
    connection = Close(connection);
  }
}

void SharedRegions::Adopt(OwnedFd connection) {
  const int fd = connection.get();
  MutexLock lock(&mutex_);
  epoll_event event = {.events = EPOLLIN | EPOLLRDHUP, .data = {.fd = fd}};
  if (static_cast<int>(connections_.size()) >= options_.max_connections) {
    AnswerOffer(fd, absl::ResourceExhaustedError(
                        absl::StrCat("there are ", connections_.size(),
                                     " connections for shared memory already, as many as may be")));
  } else if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0) {
    const absl::Time deadline = absl::Now() + options_.offer_timeout;
    connections_[fd] = {std::move(connection), deadline, ""};
    eventfd_write(wake_.get(), 1);  // its deadline is to be watched
    return;
  }
  shutdown(fd, SHUT_RDWR);  // tells whoever watches a duplicate
}

absl::StatusOr<std::shared_ptr<const SharedRegion>> SharedRegions::Find(absl::string_view token) {
  MutexLock lock(&mutex_);
  const auto found = regions_.find(std::string(token));
  if (found != regions_.end()) return found->second;
  return absl::UnavailableError(
      "no shared memory has the token of the call: the connection that it was passed over has "
      "ended, or was to another server");
}

int64_t SharedRegions::connections() const {
  MutexLock lock(&mutex_);
  return static_cast<int64_t>(connections_.size());
}

int64_t SharedRegions::regions() const {
  MutexLock lock(&mutex_);
  return static_cast<int64_t>(regions_.size());
}

void SharedRegions::Run() {
  std::array<epoll_event, 16> events;
  bool any_silent = false;
  for (;;) {
    const int count =
        epoll_wait(epoll_.get(), events.data(), events.size(), any_silent ? kLookMs : -1);
    MutexLock lock(&mutex_);
    for (int i = 0; i < count; ++i) {
      const int fd = events[static_cast<size_t>(i)].data.fd;
      if (fd == wake_.get()) {
        if (stopping_) return;
        eventfd_t ignored;
        eventfd_read(wake_.get(), &ignored);
        continue;
      }
      const auto connection = connections_.find(fd);
      if (connection == connections_.end()) continue;
      // Whatever comes after the offer, its end or more, ends it.
      const bool more = !connection->second.token.empty();
      if (!more) Take(connection->second);
      if (more || connection->second.token.empty()) Close(connection);
    }
    any_silent = false;
    const absl::Time now = absl::Now();
    for (auto it = connections_.begin(); it != connections_.end();) {
      const bool silent = it->second.token.empty();
      any_silent |= silent && now < it->second.deadline;
      it = silent && now >= it->second.deadline ? Close(it) : std::next(it);
    }
  }
}

void SharedRegions::Take(Connection& connection) {
  const absl::StatusOr<std::string> token = Accept(connection.fd.get());
  if (token.ok()) connection.token = *token;
  AnswerOffer(connection.fd.get(), token);
  if (!token.ok() && options_.logger != nullptr && !absl::IsUnavailable(token.status())) {
    options_.logger->warn("shared memory refused: {}", std::string(token.status().message()));
  }
}

absl::StatusOr<std::string> SharedRegions::Accept(int fd) {
  QUANTD_ASSIGN_OR_RETURN(OwnedFd memory_fd, ReceiveOffer(fd));
  auto region = std::make_shared<SharedRegion>();
  QUANTD_ASSIGN_OR_RETURN(region->memory,
                          SharedMemory::Map(std::move(memory_fd), options_.max_region_bytes));
  QUANTD_ASSIGN_OR_RETURN(region->reservation,
                          budget_.Reserve(region->memory->size_bytes(), "a shared region"));
  QUANTD_ASSIGN_OR_RETURN(std::string token, MakeMemoryToken());
  regions_[token] = std::move(region);
  return token;
}

SharedRegions::Connections::iterator SharedRegions::Close(Connections::iterator connection) {
  const auto region = regions_.find(connection->second.token);
  if (region != regions_.end()) regions_.erase(region);
  shutdown(connection->first, SHUT_RDWR);  // tells whoever watches a duplicate
  // Closing alone would leave the entry behind where there is a duplicate.
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, connection->first, nullptr);
  return connections_.erase(connection);
}

}  // namespace quantd
