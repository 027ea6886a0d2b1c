// Entry: InputFile::Open. Tested by tests/core/io/input_file_test.cc.
#include "core/io/input_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/io/scoped_fd.h"

namespace quantd {
namespace {

FileId IdOf(const struct stat& info) {
  return {static_cast<uint64_t>(info.st_dev), static_cast<uint64_t>(info.st_ino)};
}

// O_NONBLOCK: opening a pipe without a writer would otherwise wait for one.
int OpenToRead(const std::string& path) {
  return open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
}

}  // namespace

absl::Status MemoryBytes::ReadAt(int64_t offset_bytes, std::span<std::byte> out) const {
  if (offset_bytes < 0 || offset_bytes > size_bytes() ||
      out.size() > bytes_.size() - static_cast<size_t>(offset_bytes)) {
    return absl::DataLossError(absl::StrCat("file ends at byte ", bytes_.size()));
  }
  if (!out.empty()) std::memcpy(out.data(), bytes_.data() + offset_bytes, out.size());
  return absl::OkStatus();
}

std::optional<FileId> FileIdOf(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0) return std::nullopt;
  return IdOf(info);
}

absl::StatusOr<InputFile::State> InputFile::StateOf(int fd, const std::string& path) {
  struct stat info;
  if (fstat(fd, &info) != 0) return absl::ErrnoToStatus(errno, path);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": is ", S_ISDIR(info.st_mode) ? "a directory" : "a pipe or a device",
                     "; only regular files can be read in any order"));
  }
  return State{IdOf(info), info.st_size,
               int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec};
}

absl::StatusOr<std::unique_ptr<InputFile>> InputFile::Open(const std::string& path) {
  const int fd = OpenToRead(path);
  if (fd < 0) return absl::ErrnoToStatus(errno, path);
  const absl::StatusOr<State> state = StateOf(fd, path);
  if (!state.ok()) {
    close(fd);
    return state.status();
  }
  (void)posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);  // a hint: no harm if it is not taken
  return std::unique_ptr<InputFile>(new InputFile(path, fd, *state));
}

InputFile::~InputFile() { Release(); }

void InputFile::Release() {
  if (fd_ >= 0) close(std::exchange(fd_, -1));
}

absl::Status InputFile::Changed() const {
  return absl::DataLossError(
      absl::StrCat(path_,
                   ": was written to or replaced while it was read; once nobody changes it, "
                   "run the command again"));
}

absl::Status InputFile::ReadFrom(int fd, int64_t offset_bytes, std::span<std::byte> out) const {
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t step =
        pread(fd, out.data() + done, out.size() - done, offset_bytes + static_cast<int64_t>(done));
    if (step < 0 && errno == EINTR) continue;
    if (step < 0) {
      return absl::ErrnoToStatus(
          errno, absl::StrCat(path_, ": reading ", out.size(), " bytes at ", offset_bytes));
    }
    if (step == 0) {
      return absl::DataLossError(absl::StrCat(
          path_, ": ends at byte ", offset_bytes + static_cast<int64_t>(done), " and had ",
          state_.size_bytes, " bytes when it was opened; it has become shorter meanwhile"));
    }
    done += static_cast<size_t>(step);
  }
  return absl::OkStatus();
}

absl::Status InputFile::ReadAt(int64_t offset_bytes, std::span<std::byte> out) const {
  if (fd_ >= 0) return ReadFrom(fd_, offset_bytes, out);
  const ScopedFd fd(OpenToRead(path_));
  if (fd.get() < 0) return absl::ErrnoToStatus(errno, path_);
  QUANTD_ASSIGN_OR_RETURN(const State now, StateOf(fd.get(), path_));
  if (!(now.id == state_.id)) return Changed();
  return ReadFrom(fd.get(), offset_bytes, out);
}

absl::Status InputFile::CheckUnchanged() const {
  if (fd_ >= 0) {
    QUANTD_ASSIGN_OR_RETURN(const State now, StateOf(fd_, path_));
    return now == state_ ? absl::OkStatus() : Changed();
  }
  const ScopedFd fd(OpenToRead(path_));
  if (fd.get() < 0) return absl::ErrnoToStatus(errno, path_);
  QUANTD_ASSIGN_OR_RETURN(const State now, StateOf(fd.get(), path_));
  return now == state_ ? absl::OkStatus() : Changed();
}

}  // namespace quantd
