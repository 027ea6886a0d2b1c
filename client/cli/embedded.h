#ifndef QUANTD_CLIENT_CLI_EMBEDDED_H_
#define QUANTD_CLIENT_CLI_EMBEDDED_H_

#include <grpcpp/channel.h>

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"

namespace quantd::cli {

struct EmbeddedOptions {
  // 0: half of what the machine or the cgroup has, at most 1 GiB
  int64_t memory_budget_bytes = 0;
  int worker_threads = 0;           // 0: the server's default
};

// The service of the `quantd` server, running in this process. Thread-compatible.
class EmbeddedService {
 public:
  static absl::StatusOr<std::unique_ptr<EmbeddedService>> Start(const EmbeddedOptions& options);
  ~EmbeddedService();

  // Returns a channel that hands messages over in memory. It must go before this object.
  std::shared_ptr<grpc::Channel> Channel();

 private:
  struct Impl;
  EmbeddedService();
  std::unique_ptr<Impl> impl_;
};

}  // namespace quantd::cli

#endif  // QUANTD_CLIENT_CLI_EMBEDDED_H_
