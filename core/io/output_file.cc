// A file that is there as a whole or not at all:
//
//   O_TMPFILE                  no name yet; blocks are reserved: a full disk shows at once
//     write ... write          in any order, by any threads
//     fsync, link as NAME      NAME is the old file until here, then the new one
//     fsync of the directory   so that the name outlasts a crash as well
//
// A process that is killed leaves nothing, for the system frees what has no name. Linking replaces
// nothing, so over an old file the new one is linked as .NAME.0123456789abcdef.tmp and renamed at
// once. File systems without O_TMPFILE (NFS, FUSE and overlays of older kernels) get a file of that
// name from the beginning; left_behind.h finds it if it stays.
//
// Links are followed first, so that the file behind is replaced and not the link; /dev/null, which
// a rename would replace by a file, is refused.
//
// Entry: OutputFile. Tested by tests/core/io/output_file_test.cc.
#include "core/io/output_file.h"

#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/io/file_access.h"
#include "core/io/left_behind.h"

namespace quantd {
namespace {

// Returns the path of the regular file to replace or to make: links followed, everything refused
// that a rename would destroy (as root, "-o /dev/null" would replace the device).
absl::StatusOr<std::string> ResolveTarget(const std::string& path) {
  if (path.empty() || path.back() == '/') {
    return absl::InvalidArgumentError(absl::StrCat("\"", path, "\" is not the name of a file"));
  }
  struct stat info;
  if (stat(path.c_str(), &info) != 0) {
    if (errno != ENOENT) return absl::ErrnoToStatus(errno, path);
    if (lstat(path.c_str(), &info) == 0) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": is a symbolic link to nothing"));
    }
    return path;
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": is ", S_ISDIR(info.st_mode) ? "a directory" : "a pipe or a device",
                     "; only a regular file can be replaced"));
  }
  if (access(path.c_str(), W_OK) != 0) return absl::ErrnoToStatus(errno, path);
  const std::unique_ptr<char, decltype(&free)> real(realpath(path.c_str(), nullptr), free);
  if (real == nullptr) return absl::ErrnoToStatus(errno, path);
  return std::string(real.get());
}

// Where the system shows an open file, so that it can be linked.
std::string ProcPathOf(int fd) { return absl::StrCat("/proc/self/fd/", fd); }

// Returns a file without a name beside `path`, or -1 where there is none that can be named later.
int OpenUnnamed(const std::string& path, mode_t mode) {
  const int fd = open(FolderOf(path).c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, mode);
  if (fd >= 0 && access(ProcPathOf(fd).c_str(), F_OK) == 0) return fd;
  if (fd >= 0) close(fd);
  return -1;
}

// Makes the name durable. A directory that cannot be synced (some network and FUSE file systems)
// is no error: the file is complete under its name.
void SyncParent(const std::string& path) {
  const int fd = open(FolderOf(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  (void)fsync(fd);
  close(fd);
}

}  // namespace

std::string FolderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash + 1);
}

absl::Status WriteFullyAt(int fd, absl::string_view path, int64_t offset_bytes,
                          std::span<const std::byte> bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t step = pwrite(fd, bytes.data() + done, bytes.size() - done,
                                offset_bytes + static_cast<int64_t>(done));
    if (step < 0 && errno == EINTR) continue;
    if (step <= 0) {
      return absl::ErrnoToStatus(
          step < 0 ? errno : EIO,
          absl::StrCat(path, ": wrote ", done, " of ", bytes.size(), " bytes at ", offset_bytes));
    }
    done += static_cast<size_t>(step);
  }
  return absl::OkStatus();
}

absl::Status ReserveSize(int fd, absl::string_view path, int64_t size_bytes) {
  if (size_bytes == 0) return absl::OkStatus();
  int result;
  do {
    result = fallocate(fd, 0, 0, size_bytes);
  } while (result != 0 && errno == EINTR);
  // Not posix_fallocate: where this is not supported, that writes every block.
  if (result != 0 && (errno == EOPNOTSUPP || errno == ENOSYS)) result = ftruncate(fd, size_bytes);
  if (result == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrCat(path, ": reserving ", size_bytes, " bytes"));
}

std::string TemporaryNameFor(const std::string& path) {
  constexpr size_t kKeptBytes = 200;  // NAME_MAX is 255
  uint64_t nonce = 0;
  if (getrandom(&nonce, sizeof(nonce), 0) < 0) nonce = static_cast<uint64_t>(getpid());
  const size_t slash = path.rfind('/');
  const size_t base = slash == std::string::npos ? 0 : slash + 1;
  return absl::StrCat(path.substr(0, base), ".", path.substr(base, kKeptBytes), ".",
                      absl::Hex(nonce, absl::kZeroPad16), ".tmp");
}

absl::StatusOr<OutputFile> OutputFile::Create(const std::string& path, int64_t size_bytes,
                                              bool may_be_unnamed) {
  QUANTD_ASSIGN_OR_RETURN(std::string target, ResolveTarget(path));
  struct stat old;
  const mode_t mode = stat(target.c_str(), &old) == 0 ? NoWiderThan(old, target) : 0666;
  std::string temporary;
  int fd = may_be_unnamed ? OpenUnnamed(target, mode) : -1;
  if (fd < 0) {
    temporary = TemporaryNameFor(target);
    // O_EXCL: never writes through a name that somebody else has put there.
    fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
  }
  if (fd < 0) return absl::ErrnoToStatus(errno, path);
  MarkAsInUse(fd);
  OutputFile file(std::move(target), std::move(temporary), fd, size_bytes);
  QUANTD_RETURN_IF_ERROR(ReserveSize(fd, path, size_bytes));
  return file;
}

OutputFile::OutputFile(std::string path, std::string temporary_path, int fd, int64_t size_bytes)
    : path_(std::move(path)),
      temporary_path_(std::move(temporary_path)),
      fd_(fd),
      size_bytes_(size_bytes) {}

OutputFile::~OutputFile() { Abandon(); }

OutputFile::OutputFile(OutputFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_path_(std::move(other.temporary_path_)),
      fd_(std::exchange(other.fd_, -1)),
      size_bytes_(other.size_bytes_) {}

OutputFile& OutputFile::operator=(OutputFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(temporary_path_, other.temporary_path_);
  std::swap(fd_, other.fd_);
  std::swap(size_bytes_, other.size_bytes_);
  return *this;
}

void OutputFile::Abandon() {
  if (fd_ < 0) return;
  close(fd_);
  if (!temporary_path_.empty()) unlink(temporary_path_.c_str());
  fd_ = -1;
}

absl::Status OutputFile::WriteAt(int64_t offset_bytes, std::span<const std::byte> bytes) {
  if (fd_ < 0) return absl::FailedPreconditionError(absl::StrCat(path_, ": is already complete"));
  if (offset_bytes < 0 || offset_bytes > size_bytes_ ||
      bytes.size() > static_cast<uint64_t>(size_bytes_ - offset_bytes)) {
    return absl::OutOfRangeError(absl::StrCat(path_, ": ", bytes.size(), " bytes at ", offset_bytes,
                                              " do not lie within its ", size_bytes_, " bytes"));
  }
  return WriteFullyAt(fd_, path_, offset_bytes, bytes);
}

absl::Status OutputFile::LinkAs(const std::string& name) const {
  if (linkat(AT_FDCWD, ProcPathOf(fd_).c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) == 0) {
    return absl::OkStatus();
  }
  return absl::ErrnoToStatus(errno, absl::StrCat(path_, ": linking it as ", name));
}

absl::Status OutputFile::TakeName() {
  if (temporary_path_.empty()) {
    const absl::Status linked = LinkAs(path_);
    if (!absl::IsAlreadyExists(linked)) return linked;
    const std::string temporary = TemporaryNameFor(path_);
    QUANTD_RETURN_IF_ERROR(LinkAs(temporary));
    temporary_path_ = temporary;
  }
  if (rename(temporary_path_.c_str(), path_.c_str()) == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrCat(path_, ": renaming ", temporary_path_));
}

absl::Status OutputFile::Commit() {
  if (fd_ < 0) return absl::FailedPreconditionError(absl::StrCat(path_, ": is already complete"));
  if (fsync(fd_) != 0) return absl::ErrnoToStatus(errno, absl::StrCat(path_, ": syncing"));
  QUANTD_RETURN_IF_ERROR(TakeName());
  close(std::exchange(fd_, -1));  // nothing is left to write: fsync has reported what there was
  SyncParent(path_);
  return absl::OkStatus();
}

}  // namespace quantd
