#include "core/io/small_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"

namespace quantd {
namespace {

absl::StatusOr<std::string> ReadAll(int fd, const std::string& path, size_t max_bytes,
                                    size_t max_pipe_bytes) {
  struct stat info;
  if (fstat(fd, &info) != 0) return absl::ErrnoToStatus(errno, path);
  const bool is_pipe = S_ISFIFO(info.st_mode) && max_pipe_bytes > 0;
  if (!S_ISREG(info.st_mode) && !is_pipe) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": is not a regular file"));
  }
  if (is_pipe) max_bytes = max_pipe_bytes;
  std::string content;
  char buffer[16 << 10];
  for (;;) {
    const ssize_t count = read(fd, buffer, sizeof(buffer));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return absl::ErrnoToStatus(errno, path);
    if (count == 0) return content;
    content.append(buffer, static_cast<size_t>(count));
    if (content.size() > max_bytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat(path, ": is larger than ", max_bytes, " bytes, the most that is read"));
    }
  }
}

}  // namespace

absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t max_bytes,
                                          size_t max_pipe_bytes) {
  // O_NONBLOCK: opening a pipe without a writer would otherwise wait for one.
  const int wait = max_pipe_bytes > 0 ? 0 : O_NONBLOCK;
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | wait);
  if (fd < 0) return absl::ErrnoToStatus(errno, path);
  absl::StatusOr<std::string> content = ReadAll(fd, path, max_bytes, max_pipe_bytes);
  close(fd);
  return content;
}

}  // namespace quantd
