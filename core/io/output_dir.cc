// The same as output_file.cc for a directory of files: made under another name, each file synced,
// then renamed. rename(2) replaces an empty directory but no other, so an old one is never merged
// with, or deleted.
//
// Entry: OutputDir. Tested by tests/core/io/output_dir_test.cc.
#include "core/io/output_dir.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/io/file_access.h"
#include "core/io/left_behind.h"
#include "core/io/output_file.h"
#include "core/io/scoped_fd.h"

namespace quantd {
namespace {

absl::Status CheckAbsentOrEmpty(const std::string& path) {
  struct stat info;
  if (lstat(path.c_str(), &info) != 0) {
    return errno == ENOENT ? absl::OkStatus() : absl::ErrnoToStatus(errno, path);
  }
  if (!S_ISDIR(info.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": exists and is not a directory"));
  }
  DIR* const dir = opendir(path.c_str());
  if (dir == nullptr) return absl::ErrnoToStatus(errno, path);
  int entries = 0;
  while (entries <= 2 && readdir(dir) != nullptr) ++entries;  // "." and ".."
  closedir(dir);
  if (entries <= 2) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(path, ": exists and is not empty; name a new directory"));
}

// Returns the mode of the folder that comes to `path`: no wider than that of an empty one there.
mode_t ModeOf(const std::string& path) {
  struct stat old;
  if (stat(path.c_str(), &old) != 0) return 0777;
  const mode_t allowed = NoWiderThan(old, path);
  const mode_t denied =
      ((allowed & S_IRGRP) == 0 ? S_IRWXG : 0) | ((allowed & S_IROTH) == 0 ? S_IRWXO : 0);
  return S_IRWXU | (old.st_mode & 0777 & ~denied);
}

absl::Status SyncPath(const std::string& path, int flags) {
  const ScopedFd fd(open(path.c_str(), flags | O_CLOEXEC));
  if (fd.get() < 0 || fsync(fd.get()) != 0) return absl::ErrnoToStatus(errno, path);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<OutputDir> OutputDir::Create(const std::string& path) {
  std::string target = path;
  while (target.size() > 1 && target.back() == '/') target.pop_back();
  if (target.empty()) return absl::InvalidArgumentError("\"\" is not the name of a directory");
  QUANTD_RETURN_IF_ERROR(CheckAbsentOrEmpty(target));
  std::string temporary = TemporaryNameFor(target);
  if (mkdir(temporary.c_str(), ModeOf(target)) != 0) return absl::ErrnoToStatus(errno, path);
  const int fd = open(temporary.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  OutputDir dir(std::move(target), std::move(temporary), fd);
  if (fd < 0) return absl::ErrnoToStatus(errno, path);
  MarkAsInUse(fd);
  return dir;
}

OutputDir::OutputDir(std::string path, std::string temporary_path, int fd)
    : path_(std::move(path)), temporary_path_(std::move(temporary_path)), fd_(fd) {}

OutputDir::~OutputDir() { Abandon(); }

OutputDir::OutputDir(OutputDir&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_path_(std::exchange(other.temporary_path_, {})),
      fd_(std::exchange(other.fd_, -1)),
      names_(std::move(other.names_)) {}

OutputDir& OutputDir::operator=(OutputDir&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(temporary_path_, other.temporary_path_);
  std::swap(fd_, other.fd_);
  std::swap(names_, other.names_);
  return *this;
}

void OutputDir::Abandon() {
  if (fd_ >= 0) close(std::exchange(fd_, -1));
  if (temporary_path_.empty()) return;
  for (const std::string& name : names_) unlink(absl::StrCat(temporary_path_, "/", name).c_str());
  rmdir(temporary_path_.c_str());
  temporary_path_.clear();
}

absl::Status OutputDir::AddFile(const std::string& name, int64_t size_bytes) {
  const std::string path = absl::StrCat(temporary_path_, "/", name);
  const std::string shown = absl::StrCat(path_, "/", name);
  const ScopedFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (fd.get() < 0) return absl::ErrnoToStatus(errno, shown);
  names_.push_back(name);
  return ReserveSize(fd.get(), shown, size_bytes);
}

absl::Status OutputDir::WriteAt(const std::string& name, int64_t offset_bytes,
                                std::span<const std::byte> bytes) {
  const std::string shown = absl::StrCat(path_, "/", name);
  const ScopedFd fd(open(absl::StrCat(temporary_path_, "/", name).c_str(), O_WRONLY | O_CLOEXEC));
  if (fd.get() < 0) return absl::ErrnoToStatus(errno, shown);
  return WriteFullyAt(fd.get(), shown, offset_bytes, bytes);
}

absl::Status OutputDir::Commit() {
  if (temporary_path_.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(path_, ": is already complete"));
  }
  for (const std::string& name : names_) {
    QUANTD_RETURN_IF_ERROR(SyncPath(absl::StrCat(temporary_path_, "/", name), O_WRONLY));
  }
  (void)SyncPath(temporary_path_, O_RDONLY | O_DIRECTORY);  // as for OutputFile: not everywhere
  if (rename(temporary_path_.c_str(), path_.c_str()) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat(path_, ": renaming ", temporary_path_));
  }
  temporary_path_.clear();
  close(std::exchange(fd_, -1));
  (void)SyncPath(FolderOf(path_), O_RDONLY | O_DIRECTORY);
  return absl::OkStatus();
}

}  // namespace quantd
