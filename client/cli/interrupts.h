#ifndef QUANTD_CLIENT_CLI_INTERRUPTS_H_
#define QUANTD_CLIENT_CLI_INTERRUPTS_H_

#include <memory>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "core/io/tensor_writer.h"

namespace quantd::cli {

// Ends the process on SIGINT, SIGTERM and SIGHUP after removing what is being written. The signals
// are blocked from construction on, so construct it before any other thread. Thread-safe.
class Interrupts {
 public:
  Interrupts();
  ~Interrupts();

 private:
  friend class GuardedWriter;
  void Main();

  absl::Mutex mutex_;
  TensorWriter* writer_ ABSL_GUARDED_BY(mutex_) = nullptr;  // owned by a GuardedWriter
  std::thread thread_;
};

// A writer whose files a signal removes. At most one at a time. WriteAt may be called from several
// threads at once; everything else is not thread-safe.
class GuardedWriter {
 public:
  // `interrupts` outlives this.
  GuardedWriter(std::unique_ptr<TensorWriter> writer, Interrupts* interrupts);
  ~GuardedWriter();

  // As TensorWriter has them.
  absl::Status WriteAt(size_t tensor, int64_t offset_bytes, std::span<const std::byte> bytes);
  absl::Status Finish(const Metadata& metadata);

 private:
  Interrupts* const interrupts_;
  std::unique_ptr<TensorWriter> writer_;
};

}  // namespace quantd::cli

#endif  // QUANTD_CLIENT_CLI_INTERRUPTS_H_
