#ifndef QUANTD_CLIENT_BYTE_SOURCE_H_
#define QUANTD_CLIENT_BYTE_SOURCE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace quantd {

// Some bytes of a source.
struct SourcePiece {
  std::span<const std::byte> bytes;
  // Keeps `bytes` alive; null where they outlive the call that reads the source.
  std::shared_ptr<const void> owner;
};

// Gives the bytes of one plane, in order. Not thread-safe.
class ByteSource {
 public:
  virtual ~ByteSource() = default;

  // Returns how many bytes the source gives in all.
  virtual int64_t size_bytes() const = 0;

  // Returns the next bytes, at most `max_bytes` (> 0) of them; no bytes at the end. kDataLoss: the
  // source ended before size_bytes(). kOutOfRange: it goes on after them.
  virtual absl::StatusOr<SourcePiece> Next(int64_t max_bytes) = 0;

  // Reads the next bytes into `out`, which is not empty, and returns how many; 0 at the end. Errors
  // are those of Next. The default copies what Next gives; sources that read, or make values, can
  // do so right into the memory that goes to the server.
  virtual absl::StatusOr<size_t> Read(std::span<std::byte> out);

  // True where Rewind works.
  virtual bool can_rewind() const = 0;

  // Goes back to the first byte. kFailedPrecondition: the source gives its bytes once only.
  virtual absl::Status Rewind() = 0;
};

// Memory that the caller keeps for as long as a call reads the source, or that `owner` keeps: a
// tensor of the program, a buffer that was read. Gives pieces without copying.
class MemorySource final : public ByteSource {
 public:
  explicit MemorySource(std::span<const std::byte> bytes,
                        std::shared_ptr<const void> owner = nullptr)
      : bytes_(bytes), owner_(std::move(owner)) {}

  int64_t size_bytes() const override { return static_cast<int64_t>(bytes_.size()); }
  absl::StatusOr<SourcePiece> Next(int64_t max_bytes) override;
  bool can_rewind() const override { return true; }
  absl::Status Rewind() override;

 private:
  const std::span<const std::byte> bytes_;
  const std::shared_ptr<const void> owner_;
  size_t position_ = 0;
};

// A file descriptor that is read to its end: a pipe, a socket, standard input. Rewinds where the
// descriptor seeks.
class FdSource final : public ByteSource {
 public:
  // Reads `size_bytes` from `fd`, which stays the caller's; `name` appears in errors.
  FdSource(int fd, int64_t size_bytes, std::string name);

  int64_t size_bytes() const override { return size_bytes_; }
  absl::StatusOr<SourcePiece> Next(int64_t max_bytes) override;
  absl::StatusOr<size_t> Read(std::span<std::byte> out) override;
  bool can_rewind() const override { return start_ >= 0; }
  absl::Status Rewind() override;

 private:
  // Reads up to `out.size()` bytes; fewer only at the end of the file.
  absl::StatusOr<size_t> ReadFull(std::span<std::byte> out);

  const int fd_;
  const int64_t size_bytes_;
  const std::string name_;
  const int64_t start_;  // where the descriptor stood; -1 if it does not seek
  int64_t position_ = 0;
};

}  // namespace quantd

#endif  // QUANTD_CLIENT_BYTE_SOURCE_H_
