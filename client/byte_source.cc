#include "client/byte_source.h"

#include <errno.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"

namespace quantd {

absl::StatusOr<size_t> ByteSource::Read(std::span<std::byte> out) {
  size_t filled = 0;
  while (filled < out.size()) {
    QUANTD_ASSIGN_OR_RETURN(const SourcePiece piece,
                            Next(static_cast<int64_t>(out.size() - filled)));
    if (piece.bytes.empty()) break;
    std::memcpy(out.data() + filled, piece.bytes.data(), piece.bytes.size());
    filled += piece.bytes.size();
  }
  return filled;
}

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
  const auto wanted = static_cast<size_t>(std::min(max_bytes, size_bytes_ - position_));
  // Not make_shared<[]>: that would zero the memory first. A byte at the end shows what goes on.
  std::shared_ptr<std::byte[]> buffer(new std::byte[std::max<size_t>(wanted, 1)]);
  QUANTD_ASSIGN_OR_RETURN(const size_t got, Read({buffer.get(), std::max<size_t>(wanted, 1)}));
  if (got == 0) return SourcePiece{};
  return SourcePiece{{buffer.get(), got}, std::move(buffer)};
}

absl::StatusOr<size_t> FdSource::Read(std::span<std::byte> out) {
  const size_t wanted = std::min(out.size(), static_cast<size_t>(size_bytes_ - position_));
  if (wanted > 0) {
    QUANTD_ASSIGN_OR_RETURN(const size_t got, ReadFull(out.first(wanted)));
    position_ += static_cast<int64_t>(got);
    if (got < wanted) {
      return absl::DataLossError(
          absl::StrCat(name_, " ended after ", position_, " of ", size_bytes_, " bytes"));
    }
    return got;
  }
  std::byte extra;
  QUANTD_ASSIGN_OR_RETURN(const size_t more, ReadFull({&extra, 1}));
  if (more != 0) {
    return absl::OutOfRangeError(absl::StrCat(name_, " goes on after the ", size_bytes_,
                                              " bytes that its dtype and shape say"));
  }
  return size_t{0};
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
