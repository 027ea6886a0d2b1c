#ifndef QUANTD_CORE_IO_OUTPUT_DIR_H_
#define QUANTD_CORE_IO_OUTPUT_DIR_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace quantd {

// A directory of files that appears under its name when it is complete, or not at all. Holds none
// of them open between calls, so that the number of files is not limited by that of descriptors. A
// process that is killed leaves it under a temporary name, where LeftBehind finds it.
//
// WriteAt may be called from several threads at once; everything else is not thread-safe.
class OutputDir {
 public:
  // Starts the directory. `path` must not exist or be an empty directory (kFailedPrecondition):
  // what is in a directory is not ours to delete.
  static absl::StatusOr<OutputDir> Create(const std::string& path);

  ~OutputDir();
  OutputDir(OutputDir&& other) noexcept;
  OutputDir& operator=(OutputDir&& other) noexcept;

  // Adds a file of `size_bytes` zeros. kAlreadyExists if there is one of that name.
  absl::Status AddFile(const std::string& name, int64_t size_bytes);

  // Writes `bytes` at `offset_bytes` of a file that was added. The caller keeps within its size.
  absl::Status WriteAt(const std::string& name, int64_t offset_bytes,
                       std::span<const std::byte> bytes);

  // Brings all files to the disk and the directory under its name. To be called once, as the last
  // call.
  absl::Status Commit();

 private:
  OutputDir(std::string path, std::string temporary_path, int fd);
  void Abandon();

  std::string path_, temporary_path_;  // temporary_path_ is empty once committed or moved from
  int fd_ = -1;                        // of the temporary folder, which it marks as in use
  std::vector<std::string> names_;
};

}  // namespace quantd

#endif  // QUANTD_CORE_IO_OUTPUT_DIR_H_
