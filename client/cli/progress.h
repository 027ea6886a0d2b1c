#ifndef QUANTD_CLIENT_CLI_PROGRESS_H_
#define QUANTD_CLIENT_CLI_PROGRESS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "core/base/mutex.h"

namespace quantd::cli {

// Shows how far a long command is, on stderr: a bar with rate and remaining time on a terminal,
// else a line now and then. A bar never takes more than the terminal's line. Thread-safe.
class Progress {
 public:
  // `what` says what is going on: "quantizing".
  Progress(std::string what, int64_t total_bytes, bool quiet);
  // Wipes the bar.
  ~Progress();

  // Counts bytes that have been sent (negative: that will be sent again).
  void Add(int64_t bytes) ABSL_LOCKS_EXCLUDED(mutex_);
  // Counts bytes that are no longer expected.
  void Skip(int64_t bytes) ABSL_LOCKS_EXCLUDED(mutex_);

  absl::Duration elapsed() const { return absl::Now() - start_; }

 private:
  void Draw(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string what_;
  const bool quiet_, terminal_;
  const absl::Time start_;
  Mutex mutex_;
  int64_t total_bytes_ ABSL_GUARDED_BY(mutex_);
  int64_t done_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Time next_ ABSL_GUARDED_BY(mutex_);
  bool drawn_ ABSL_GUARDED_BY(mutex_) = false;
};

// Returns the line of a bar that is `part` (0 to 1) full, in at most `columns`: of `parts`, ASCII,
// the last ones are left out first, then the bar, where there is no room.
std::string ProgressLine(const std::string& what, double part, std::vector<std::string> parts,
                         size_t columns);

}  // namespace quantd::cli

#endif  // QUANTD_CLIENT_CLI_PROGRESS_H_
