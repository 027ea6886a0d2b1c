#ifndef QUANTD_CORE_IO_SHARED_MEMORY_H_
#define QUANTD_CORE_IO_SHARED_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd {

// A file descriptor that is closed with its owner. Movable. Thread-compatible.
class OwnedFd {
 public:
  explicit OwnedFd(int fd = -1) : fd_(fd) {}
  OwnedFd(OwnedFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  OwnedFd& operator=(OwnedFd other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~OwnedFd();
  int get() const { return fd_; }

 private:
  int fd_;
};

// Memory that two processes share: a memfd whose size is sealed, mapped for reading and writing.
// The other process may change its content at any time, also while it is read. Thread-compatible.
class SharedMemory {
 public:
  // Makes memory of `size_bytes`, all zero. kResourceExhausted: the system has no more.
  static absl::StatusOr<std::unique_ptr<SharedMemory>> Create(int64_t size_bytes);
  // Maps what another process has made. kInvalidArgument: no memfd, or one that can change its size
  // or be unsealed, that is empty, of huge pages, or not to be written. kResourceExhausted: it has
  // more than `max_bytes`, or cannot be mapped.
  static absl::StatusOr<std::unique_ptr<SharedMemory>> Map(OwnedFd fd, int64_t max_bytes);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  std::span<std::byte> bytes() const { return bytes_; }
  int64_t size_bytes() const { return static_cast<int64_t>(bytes_.size()); }
  // Returns bytes [offset, + size_bytes); kInvalidArgument: it has no such bytes.
  absl::StatusOr<std::span<std::byte>> Range(int64_t offset, int64_t size_bytes) const;
  // Of Create: to be passed on. Of Map: none.
  int fd() const { return fd_.get(); }

 private:
  SharedMemory(OwnedFd fd, std::span<std::byte> bytes) : fd_(std::move(fd)), bytes_(bytes) {}

  const OwnedFd fd_;
  const std::span<std::byte> bytes_;  // owned
};

// How memory is passed to a server, over a socket of the kind SOCK_SEQPACKET beside that for gRPC.
// The client sends kMemoryOffer with the memfd, the server answers in one message: a status code,
// and then either kMemoryTokenBytes of a token, or an error's text. The token is good while the
// socket is open.
inline constexpr absl::string_view kMemoryOffer = "quantd/1";
inline constexpr size_t kMemoryTokenBytes = 32;
// What is added to the path of the socket for gRPC, and the metadata that has the token.
inline constexpr absl::string_view kMemorySocketSuffix = ".shm";
inline constexpr char kMemoryTokenKey[] = "quantd-shared-memory-bin";

// What came of an offer. Movable.
struct AcceptedMemory {
  OwnedFd connection;
  std::string token;
};

// Connects to the socket at `path` and passes `memory`. kUnavailable: nobody listens there, or
// answers in time; else the server's error.
absl::StatusOr<AcceptedMemory> OfferMemory(const std::string& path, const SharedMemory& memory);

// True if the other side of `connection` is still there.
bool IsConnected(const OwnedFd& connection);

// Reads an offer from `connection` without waiting. kInvalidArgument: it is none, or has not
// exactly one descriptor. kUnavailable: the peer is gone.
absl::StatusOr<OwnedFd> ReceiveOffer(int connection);

// Answers an offer without waiting; a peer that takes no answers gets none.
void AnswerOffer(int connection, const absl::StatusOr<std::string>& token);

// Returns a token that nobody can guess. kInternal: the system has no random bytes.
absl::StatusOr<std::string> MakeMemoryToken();

}  // namespace quantd

#endif  // QUANTD_CORE_IO_SHARED_MEMORY_H_
