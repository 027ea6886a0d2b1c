#ifndef QUANTD_CORE_IO_INPUT_FILE_H_
#define QUANTD_CORE_IO_INPUT_FILE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace quantd {

// Bytes by their place. Thread-safe.
class FileBytes {
 public:
  virtual ~FileBytes() = default;

  virtual int64_t size_bytes() const = 0;

  // Fills `out` with the bytes from `offset_bytes` on. kDataLoss where there are not so many.
  virtual absl::Status ReadAt(int64_t offset_bytes, std::span<std::byte> out) const = 0;
};

// Bytes of memory that outlives this. Thread-safe.
class MemoryBytes final : public FileBytes {
 public:
  explicit MemoryBytes(std::span<const std::byte> bytes) : bytes_(bytes) {}

  int64_t size_bytes() const override { return static_cast<int64_t>(bytes_.size()); }
  absl::Status ReadAt(int64_t offset_bytes, std::span<std::byte> out) const override;

 private:
  const std::span<const std::byte> bytes_;
};

// Which file it is, by whatever name it is reached.
struct FileId {
  uint64_t device = 0, inode = 0;
  bool operator==(const FileId&) const = default;
};

// Returns which file is at `path`, links followed; nothing where there is none.
std::optional<FileId> FileIdOf(const std::string& path);

// A regular file that is open for reading. Thread-safe.
//
// It is read and not mapped: where the file has shrunk meanwhile or the disk fails, that is an
// error of ReadAt, and not a signal that ends the process.
class InputFile final : public FileBytes {
 public:
  // Opens the file at `path`, which may be empty. Errors name the path: kInvalidArgument if it is a
  // directory, a pipe or a device, else what the system's error stands for (kNotFound,
  // kPermissionDenied ...).
  static absl::StatusOr<std::unique_ptr<InputFile>> Open(const std::string& path);

  ~InputFile() override;
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  const std::string& path() const { return path_; }
  FileId id() const { return state_.id; }
  int64_t size_bytes() const override { return state_.size_bytes; }  // when it was opened

  // Errors name the path. kDataLoss: the file has become shorter, or another one has its name.
  absl::Status ReadAt(int64_t offset_bytes, std::span<std::byte> out) const override;

  // kDataLoss, naming the path, if the file was written to or replaced since it was opened: what
  // was read is then partly the one and partly the other.
  absl::Status CheckUnchanged() const;

  // Closes the file; ReadAt opens it each time. For many files, as a process may open only some.
  void Release();

 private:
  // What tells a file from another, and from itself when it has changed.
  struct State {
    FileId id;
    int64_t size_bytes = 0;
    int64_t modified_ns = 0;  // since 1970
    bool operator==(const State&) const = default;
  };

  InputFile(std::string path, int fd, State state)
      : path_(std::move(path)), fd_(fd), state_(state) {}

  static absl::StatusOr<State> StateOf(int fd, const std::string& path);
  absl::Status Changed() const;
  absl::Status ReadFrom(int fd, int64_t offset_bytes, std::span<std::byte> out) const;

  const std::string path_;
  int fd_;  // -1: released
  const State state_;
};

}  // namespace quantd

#endif  // QUANTD_CORE_IO_INPUT_FILE_H_
