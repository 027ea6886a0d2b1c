#ifndef QUANTD_CLIENT_CLI_INTERRUPTS_H_
#define QUANTD_CLIENT_CLI_INTERRUPTS_H_

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "client/cli/spool.h"
#include "core/base/mutex.h"
#include "core/io/container.h"

namespace quantd::cli {

// Ends the process with 128 + signal on SIGINT, SIGTERM and SIGHUP, after removing what is being
// written. One at a time. Thread-safe.
class Interrupts {
 public:
  Interrupts();
  ~Interrupts();

  // While it is held, a signal waits.
  Mutex& mutex() { return mutex_; }

 private:
  friend class GuardedWriter;
  void Main();

  Mutex mutex_;
  // Owned by a GuardedWriter.
  TensorWriter* writer_ ABSL_GUARDED_BY(mutex_) = nullptr;
  Spool* spool_ ABSL_GUARDED_BY(mutex_) = nullptr;
  int pipe_fds_[2] = {-1, -1};  // from the signal handler to the thread
  std::thread thread_;
};

// Says on stderr what runs that were killed have left beside the output `path`.
void SayWhatIsLeftBehind(const std::string& path);

// A writer whose files a signal removes; what goes to a pipe (IsPipeOutput) lies in a file until it
// is complete. At most one at a time. WriteAt may be called from several threads at once;
// everything else is not thread-safe.
class GuardedWriter {
 public:
  // Starts an output as Container::create does; errors name `path`. `interrupts` outlives it.
  static absl::StatusOr<std::unique_ptr<GuardedWriter>> Create(const Container& container,
                                                               const std::string& path,
                                                               std::vector<StoredTensor> tensors,
                                                               const Metadata& announced,
                                                               Interrupts* interrupts);
  ~GuardedWriter();

  // As TensorWriter has them.
  absl::Status WriteAt(size_t tensor, int64_t offset_bytes, std::span<const std::byte> bytes);
  absl::Status Finish(const Metadata& metadata);

 private:
  explicit GuardedWriter(Interrupts* interrupts) : interrupts_(interrupts) {}

  Interrupts* const interrupts_;
  std::unique_ptr<TensorWriter> writer_;
  std::unique_ptr<Spool> spool_;  // null: the output is no pipe
};

}  // namespace quantd::cli

#endif  // QUANTD_CLIENT_CLI_INTERRUPTS_H_
