#ifndef QUANTD_CLIENT_IN_PROCESS_H_
#define QUANTD_CLIENT_IN_PROCESS_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "client/client.h"

// Of the target quantd::in_process, which links the server: find_package(quantd COMPONENTS
// in_process).
namespace quantd {

struct InProcessOptions {
  // What tensors and calls may hold in all, 16 MiB at least; 0: half of what the machine or the
  // cgroup has, at most 1 GiB. One tensor may have three quarters of it.
  int64_t memory_budget_bytes = 0;
  // Threads that encode, up to 1,024; 0: one for each CPU.
  int worker_threads = 0;
};

// The service of the `quantd` server, running in this process: no other process, no socket, and the
// same bytes. A process may have several. It brings the messages google.rpc.Status and ErrorInfo
// along, which a process can have from one library only. Thread-safe.
class InProcessService {
 public:
  // kInvalidArgument: an option that is not allowed, named with what is.
  static absl::StatusOr<std::unique_ptr<InProcessService>> Start(
      const InProcessOptions& options = {});
  // Calls of its clients have ended, by a Cancellation where that is to be soon.
  ~InProcessService();
  InProcessService(const InProcessService&) = delete;
  InProcessService& operator=(const InProcessService&) = delete;

  // Returns a client of the service, whose messages are handed over in memory. It makes no calls
  // once this object has gone.
  Client MakeClient() const;

 private:
  struct Impl;
  InProcessService();
  const std::unique_ptr<Impl> impl_;
};

}  // namespace quantd

#endif  // QUANTD_CLIENT_IN_PROCESS_H_
