#ifndef QUANTD_SERVER_SERVER_H_
#define QUANTD_SERVER_SERVER_H_

#include <grpcpp/grpcpp.h>
#include <spdlog/logger.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/base/mutex.h"
#include "core/exec/buffer_pool.h"
#include "core/exec/executor.h"
#include "core/exec/memory_budget.h"
#include "server/admit/admission.h"
#include "server/admit/admission_timer.h"
#include "server/admit/caller_accounts.h"
#include "server/admit/idle_watch.h"
#include "server/admit/waiting_room.h"
#include "server/calls/health.h"
#include "server/net/acceptor.h"
#include "server/net/access.h"
#include "server/net/shared_regions.h"
#include "server/net/tls.h"
#include "server/net/tokens.h"
#include "server/observe/metrics_endpoint.h"
#include "server/service_context.h"

namespace quantd {

struct ServerOptions {
  std::vector<std::string> listen;  // "HOST:PORT" or "unix:PATH"; none: in-process channels only
  bool allow_insecure = false;      // plain TCP on addresses that other machines reach
  AccessOptions access;
  int threads = 0;  // that work; 0: one for each CPU
  int64_t memory_budget_bytes = int64_t{1} << 30;
  int64_t session_budget_bytes = 0;  // what one tensor may hold; 0: a quarter of the budget
  int64_t caller_budget_bytes = 0;   // what one caller may hold; 0: three quarters of the budget
  int max_caller_streams = 512;      // at once
  int max_waiting_calls = 1024;      // for memory
  absl::Duration max_wait = absl::Seconds(30);
  int64_t max_message_bytes = int64_t{16} << 20;
  // Foreign clients refuse responses of more than 4 MiB; the rest is for everything but the
  // payload.
  int64_t max_unary_bytes = (int64_t{4} << 20) - (int64_t{256} << 10);
  int max_open_tensors = 256;                                // of a stream
  absl::Duration max_connection_age = absl::ZeroDuration();  // zero: any
  absl::Duration max_connection_age_grace = absl::Seconds(30);
  std::string metrics;  // "HOST:PORT", or "PORT" of loopback: where to serve them; empty: nowhere
  std::shared_ptr<spdlog::logger> logger;  // null: silent
  bool json_log = false;                   // the logger's lines are those of MakeLogger's JSON
};

// Checks everything of `options` that can be checked without taking any of it into use.
// kInvalidArgument: an option. kFailedPrecondition: an address that needs allow_insecure.
absl::Status CheckOptions(const ServerOptions& options);

// A quantization service with its threads, memory and listening sockets. Beside its own service it
// answers grpc.health.v1, which is open to all, and, where no tokens are needed, reflection.
// Thread-safe.
class QuantdServer {
 public:
  // Returns a server that listens. kInvalidArgument: an option. kFailedPrecondition: an address is
  // taken, or insecure. Others: those of files that cannot be read.
  static absl::StatusOr<std::unique_ptr<QuantdServer>> Start(const ServerOptions& given);
  // Shuts down without waiting for calls.
  ~QuantdServer();
  QuantdServer(const QuantdServer&) = delete;
  QuantdServer& operator=(const QuantdServer&) = delete;

  // Returns where the server listens, in the order of the options, with the ports that were chosen.
  const std::vector<std::string>& addresses() const { return addresses_; }

  // Returns where metrics are served, as HOST:PORT; empty: nowhere.
  std::string metrics_address() const {
    return metrics_endpoint_ == nullptr ? "" : metrics_endpoint_->address();
  }

  // Returns what is served there.
  std::string MetricsText() const { return context_.metrics.Text(); }

  // Returns a channel to the server that goes through memory. Make no call on it after Shutdown:
  // gRPC 1.51 crashes.
  std::shared_ptr<grpc::Channel> InProcessChannel(const grpc::ChannelArguments& arguments);

  // Refuses new calls, lets those that run finish for up to `drain`, then cancels them. Returns
  // when all are gone.
  void Shutdown(absl::Duration drain);

  // Reads the tokens again; on an error those that were there stay.
  absl::Status ReloadTokens();

  // Calls of the health service do not count.
  int64_t active_calls() const { return context_.working_calls(); }
  int64_t started_calls() const { return context_.started_calls.load(); }
  int64_t open_connections() const { return acceptor_->open_connections(); }
  int64_t refused_connections() const { return acceptor_->refused_connections(); }
  int64_t displaced_connections() const { return acceptor_->displaced_connections(); }
  int64_t shared_regions() const { return regions_ == nullptr ? 0 : regions_->regions(); }
  int64_t idle_streams_ended() const { return idle_watch_.ended(); }
  const MemoryBudget& budget() const { return budget_; }
  int64_t waiting_calls() const { return admission_.waiting(); }
  int worker_threads() const { return context_.worker_threads; }

  // Gives pooled memory that nobody uses back to the allocator.
  void TrimMemory() { context_.shared_pool->Trim(); }

 private:
  // `options` are resolved.
  explicit QuantdServer(const ServerOptions& options);
  void FillContext(const ServerOptions& options);
  AcceptorOptions AcceptorOptionsOf(const ServerOptions& options);
  absl::Status Listen(const ServerOptions& options);
  absl::Status OpenSockets(const ServerOptions& options, grpc::ServerBuilder& builder);
  // Listens beside a UNIX socket for memory that clients share.
  absl::Status OpenMemorySocket(const ListenAddress& address, const ServerOptions& options);
  absl::Status StartMetrics(const ServerOptions& options);

  MemoryBudget budget_;
  WaitingRoom waiting_room_;
  MemoryBudget region_budget_;
  const std::shared_ptr<MemoryBudget> reading_room_;
  HealthStatus health_;
  CallerAccounts accounts_;
  IdleWatch idle_watch_;
  const std::shared_ptr<FailedLogins> failed_logins_;  // gRPC's last handshakes may outlive this
  std::unique_ptr<TokenTable> tokens_;    // null: calls need none
  std::unique_ptr<TlsCertificates> tls_;  // null: plain TCP
  std::unique_ptr<SharedRegions> regions_;  // null: no UNIX socket, or turned off
  ServiceContext context_;                // outlives the executor's tasks
  Admission admission_;                   // likewise, for they give memory back
  Admission readers_;                     // likewise
  Executor executor_;
  Executor small_calls_;
  AdmissionTimer admission_timer_;
  AdmissionTimer readers_timer_;
  std::unique_ptr<grpc::Service> service_, health_service_;
  std::vector<std::string> addresses_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<Acceptor> acceptor_;                 // goes before the server
  std::unique_ptr<MetricsEndpoint> metrics_endpoint_;  // goes before all that it tells of
  Mutex shutdown_mutex_;
  bool is_shut_down_ ABSL_GUARDED_BY(shutdown_mutex_) = false;
};

// Returns the version of quantd.
absl::string_view Version();

}  // namespace quantd

#endif  // QUANTD_SERVER_SERVER_H_
