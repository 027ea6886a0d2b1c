#ifndef QUANTD_CORE_IO_OUTPUT_FILE_H_
#define QUANTD_CORE_IO_OUTPUT_FILE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd {

// Writes all of `bytes` at `offset_bytes` of the file `fd`, however many system calls that takes.
// The error names `path`, how far the write came and the system's reason (kResourceExhausted where
// the disk is full). Thread-safe.
absl::Status WriteFullyAt(int fd, absl::string_view path, int64_t offset_bytes,
                          std::span<const std::byte> bytes);

// Gives `fd` its final size and, where the file system can, its blocks, so that a full disk is
// noticed before the work and not after it. The error names `path`.
absl::Status ReserveSize(int fd, absl::string_view path, int64_t size_bytes);

// Returns the folder of `path`: "a/" of "a/b", "." of "b".
std::string FolderOf(const std::string& path);

// Returns a path beside `path` that is not likely to exist: ".NAME.XXXXXXXXXXXXXXXX.tmp".
std::string TemporaryNameFor(const std::string& path);

// A file that appears under its name when it is complete, or not at all: it is written without a
// name, or under a temporary one where the file system cannot do that, in the same directory, and
// Commit names it. Destroying it uncommitted removes it; what a process that is killed may leave is
// found by LeftBehind.
//
// WriteAt may be called from several threads at once; everything else is not thread-safe.
class OutputFile {
 public:
  // Starts a file of `size_bytes` bytes that will replace what is at `path`, and that no more
  // people may read than that (nor than the umask says); bytes that are never written are 0. A
  // symbolic link is followed. kInvalidArgument if `path` is a directory, a device or a pipe,
  // kResourceExhausted if the disk has not `size_bytes` left, else what the system's error stands
  // for (kNotFound: no such directory; kPermissionDenied ...). `may_be_unnamed` is false in tests
  // of what happens on file systems that have no files without names.
  static absl::StatusOr<OutputFile> Create(const std::string& path, int64_t size_bytes,
                                           bool may_be_unnamed = true);

  ~OutputFile();
  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&& other) noexcept;

  // Writes `bytes` at `offset_bytes`, in any order, over what was there. kOutOfRange past the end
  // of the file, kResourceExhausted if the disk is full.
  absl::Status WriteAt(int64_t offset_bytes, std::span<const std::byte> bytes);

  // Brings the bytes to the disk and the file under its name. To be called once, as the last call.
  absl::Status Commit();

  const std::string& path() const { return path_; }

 private:
  OutputFile(std::string path, std::string temporary_path, int fd, int64_t size_bytes);
  void Abandon();
  absl::Status LinkAs(const std::string& name) const;
  absl::Status TakeName();

  std::string path_, temporary_path_;  // temporary_path_ is empty while the file has no name
  int fd_ = -1;  // -1: committed or moved from
  int64_t size_bytes_ = 0;
};

}  // namespace quantd

#endif  // QUANTD_CORE_IO_OUTPUT_FILE_H_
