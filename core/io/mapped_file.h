#ifndef QUANTD_CORE_IO_MAPPED_FILE_H_
#define QUANTD_CORE_IO_MAPPED_FILE_H_

#include <cstddef>
#include <span>
#include <string>

#include "absl/status/statusor.h"

namespace quantd {

// A regular file mapped for reading from front to back. The system pages it in and out, so that the
// file may be larger than the memory. Thread-compatible.
//
// The file must not shrink while it is mapped: reading a page that is gone raises SIGBUS.
class MappedFile {
 public:
  // Maps the file at `path`, which may be empty. Errors name the path: kInvalidArgument if it is a
  // directory, a pipe or a device, else what the system's error stands for (kNotFound,
  // kPermissionDenied ...).
  static absl::StatusOr<MappedFile> Open(const std::string& path);

  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  explicit MappedFile(std::span<const std::byte> bytes) : bytes_(bytes) {}

  std::span<const std::byte> bytes_;  // owned; no mapping where empty
};

}  // namespace quantd

#endif  // QUANTD_CORE_IO_MAPPED_FILE_H_
