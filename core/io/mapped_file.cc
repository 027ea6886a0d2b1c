// Entry: MappedFile::Open. Tested by tests/core/io/mapped_file_test.cc.
#include "core/io/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"

namespace quantd {
namespace {

absl::StatusOr<std::span<const std::byte>> MapAll(int fd, const std::string& path) {
  struct stat info;
  if (fstat(fd, &info) != 0) return absl::ErrnoToStatus(errno, path);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": is ", S_ISDIR(info.st_mode) ? "a directory" : "a pipe or a device",
                     "; only regular files can be mapped"));
  }
  if (info.st_size == 0) return std::span<const std::byte>();
  const size_t size_bytes = static_cast<size_t>(info.st_size);
  void* const memory = mmap(nullptr, size_bytes, PROT_READ, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) {
    return absl::ErrnoToStatus(errno, absl::StrCat(path, ": mapping ", size_bytes, " bytes"));
  }
  madvise(memory, size_bytes, MADV_SEQUENTIAL);  // a hint: no harm if it is not taken
  return std::span(static_cast<const std::byte*>(memory), size_bytes);
}

}  // namespace

absl::StatusOr<MappedFile> MappedFile::Open(const std::string& path) {
  // O_NONBLOCK: opening a pipe without a writer would otherwise wait for one.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) return absl::ErrnoToStatus(errno, path);
  absl::StatusOr<std::span<const std::byte>> bytes = MapAll(fd, path);
  close(fd);  // the mapping stays
  if (!bytes.ok()) return std::move(bytes).status();
  return MappedFile(*bytes);
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

MappedFile::MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  return *this;
}

}  // namespace quantd
