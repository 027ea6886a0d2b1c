#ifndef QUANTD_CLIENT_CLI_SPOOL_H_
#define QUANTD_CLIENT_CLI_SPOOL_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace quantd::cli {

// True if output to `path` goes through a pipe: "-", which is standard output, or a FIFO, as >(...)
// of a shell is.
bool IsPipeOutput(const std::string& path);

// What goes to a pipe although it is not made in order: a file in a folder of its own under
// $TMPDIR (or /tmp), which nobody else may enter, and which goes with this object. Not thread-safe.
class Spool {
 public:
  // For the pipe `output`, as IsPipeOutput has it; opens a FIFO, which waits for its reader.
  // kFailedPrecondition: standard output is a terminal. Errors name what they are about.
  static absl::StatusOr<std::unique_ptr<Spool>> Create(const std::string& output);
  ~Spool();

  // Where the file is to be made.
  const std::string& path() const { return path_; }

  // Takes the file, which is complete, from its folder, so that nothing is left to be removed.
  absl::Status Take();

  // Writes all of it, once it was taken, to the pipe.
  absl::Status Send();

 private:
  Spool() = default;
  void Remove();

  std::string output_, folder_, path_;  // folder_ is empty once removed
  int output_fd_ = -1, file_fd_ = -1;
  bool close_output_ = false;
};

}  // namespace quantd::cli

#endif  // QUANTD_CLIENT_CLI_SPOOL_H_
