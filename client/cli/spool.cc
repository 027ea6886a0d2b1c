// Tested by tests/e2e/test_pipes.py.
#include "client/cli/spool.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/exit_code.h"
#include "core/base/status_macros.h"

namespace quantd::cli {
namespace {

constexpr size_t kCopyBytes = size_t{1} << 20;

absl::Status Errno(absl::string_view what) {
  return FileError(absl::ErrnoToStatus(errno, what));
}

// Writes `size_bytes` from `bytes`, however many system calls that takes.
bool WriteFully(int fd, const char* bytes, size_t size_bytes) {
  while (size_bytes > 0) {
    const ssize_t step = write(fd, bytes, size_bytes);
    if (step < 0 && errno == EINTR) continue;
    if (step < 0) return false;
    bytes += step;
    size_bytes -= static_cast<size_t>(step);
  }
  return true;
}

}  // namespace

bool IsPipeOutput(const std::string& path) {
  if (path == "-") return true;
  struct stat info;
  return stat(path.c_str(), &info) == 0 && S_ISFIFO(info.st_mode);
}

absl::StatusOr<std::unique_ptr<Spool>> Spool::Create(const std::string& output) {
  std::unique_ptr<Spool> spool(new Spool);
  spool->output_ = output == "-" ? "standard output" : output;
  if (output == "-") {
    spool->output_fd_ = STDOUT_FILENO;
    if (isatty(STDOUT_FILENO) == 1) {
      return absl::FailedPreconditionError(
          "standard output is a terminal, and what would go there is no text; redirect it");
    }
  } else {
    spool->output_fd_ = open(output.c_str(), O_WRONLY | O_CLOEXEC);
    spool->close_output_ = true;
    if (spool->output_fd_ < 0) return Errno(output);
  }
  const char* const temporary = getenv("TMPDIR");
  std::string folder = absl::StrCat(
      temporary != nullptr && *temporary != '\0' ? temporary : "/tmp", "/quantctl.XXXXXX");
  if (mkdtemp(folder.data()) == nullptr) {
    return Errno(absl::StrCat("a folder for what goes to ", spool->output_, ", ", folder));
  }
  spool->folder_ = std::move(folder);
  spool->path_ = absl::StrCat(spool->folder_, "/output");
  return spool;
}

Spool::~Spool() {
  Remove();
  if (file_fd_ >= 0) close(file_fd_);
  if (close_output_ && output_fd_ >= 0) close(output_fd_);
}

void Spool::Remove() {
  if (folder_.empty()) return;
  unlink(path_.c_str());
  rmdir(folder_.c_str());
  folder_.clear();
}

absl::Status Spool::Take() {
  file_fd_ = open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (file_fd_ < 0) return Errno(path_);
  Remove();
  return absl::OkStatus();
}

absl::Status Spool::Send() {
  std::vector<char> buffer(kCopyBytes);
  while (true) {
    const ssize_t got = read(file_fd_, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Errno(path_);
    if (got == 0) return absl::OkStatus();
    if (!WriteFully(output_fd_, buffer.data(), static_cast<size_t>(got))) return Errno(output_);
  }
}

}  // namespace quantd::cli
