#include "client/byte_source.h"

#include <errno.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"

namespace quantd {

absl::StatusOr<SourcePiece> MemorySource::Next(int64_t max_bytes) {
  const size_t count = std::min(static_cast<size_t>(max_bytes), bytes_.size() - position_);
  SourcePiece piece{bytes_.subspan(position_, count), owner_};
  position_ += count;
  return piece;
}

absl::Status MemorySource::Rewind() {
  position_ = 0;
  return absl::OkStatus();
}

FdSource::FdSource(int fd, int64_t size_bytes, std::string name)
    : fd_(fd), size_bytes_(size_bytes), name_(std::move(name)), start_(lseek(fd, 0, SEEK_CUR)) {}

absl::StatusOr<size_t> FdSource::ReadFull(std::span<std::byte> out) {
  size_t filled = 0;
  while (filled < out.size()) {
    const ssize_t got = read(fd_, out.data() + filled, out.size() - filled);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return absl::ErrnoToStatus(errno, absl::StrCat("reading ", name_));
    if (got == 0) break;
    filled += static_cast<size_t>(got);
  }
  return filled;
}

absl::StatusOr<SourcePiece> FdSource::Next(int64_t max_bytes) {
  const int64_t wanted = std::min(max_bytes, size_bytes_ - position_);
  if (wanted > 0) {
    // Not make_shared<[]>: that would zero the memory first.
    std::shared_ptr<std::byte[]> buffer(new std::byte[static_cast<size_t>(wanted)]);
    const std::span<std::byte> bytes(buffer.get(), static_cast<size_t>(wanted));
    QUANTD_ASSIGN_OR_RETURN(const size_t got, ReadFull(bytes));
    position_ += static_cast<int64_t>(got);
    if (static_cast<int64_t>(got) < wanted) {
      return absl::DataLossError(
          absl::StrCat(name_, " ended after ", position_, " of ", size_bytes_, " bytes"));
    }
    return SourcePiece{bytes, std::move(buffer)};
  }
  std::byte extra;
  QUANTD_ASSIGN_OR_RETURN(const size_t more, ReadFull({&extra, 1}));
  if (more != 0) {
    return absl::OutOfRangeError(absl::StrCat(name_, " goes on after the ", size_bytes_,
                                              " bytes that its dtype and shape say"));
  }
  return SourcePiece{};
}

absl::Status FdSource::Rewind() {
  if (position_ == 0) return absl::OkStatus();
  if (!can_rewind()) {
    return absl::FailedPreconditionError(
        absl::StrCat(name_, " is a pipe, which gives its bytes once; use a file"));
  }
  if (lseek(fd_, start_, SEEK_SET) < 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("rewinding ", name_));
  }
  position_ = 0;
  return absl::OkStatus();
}

}  // namespace quantd
