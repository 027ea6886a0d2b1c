#include "client/cli/embedded.h"

#include <algorithm>
#include <utility>

#include "client/client.h"
#include "client/connect.h"
#include "core/base/status_macros.h"
#include "core/io/machine_memory.h"
#include "server/server.h"

namespace quantd::cli {
namespace {

constexpr int64_t kMaxDefaultBudgetBytes = int64_t{1} << 30;

}  // namespace

struct EmbeddedService::Impl {
  std::unique_ptr<QuantdServer> server;
};

EmbeddedService::EmbeddedService() : impl_(std::make_unique<Impl>()) {}
EmbeddedService::~EmbeddedService() = default;

absl::StatusOr<std::unique_ptr<EmbeddedService>> EmbeddedService::Start(
    const EmbeddedOptions& options) {
  KeepGrpcUp();
  ServerOptions server_options;
  // As the server's own default, but no more than a program beside others should take.
  server_options.memory_budget_bytes =
      options.memory_budget_bytes != 0 ? options.memory_budget_bytes
                                       : std::min(kMaxDefaultBudgetBytes, MachineMemoryBytes() / 2);
  // One client only: a tensor may have most of what there is.
  server_options.session_budget_bytes = server_options.memory_budget_bytes / 4 * 3;
  server_options.threads = options.worker_threads;
  std::unique_ptr<EmbeddedService> service(new EmbeddedService);
  QUANTD_ASSIGN_OR_RETURN(service->impl_->server, QuantdServer::Start(server_options));
  return service;
}

std::shared_ptr<grpc::Channel> EmbeddedService::Channel() {
  return impl_->server->InProcessChannel(ClientChannelArguments());
}

}  // namespace quantd::cli
