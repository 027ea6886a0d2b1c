#include "client/in_process.h"

#include <algorithm>
#include <utility>

#include "core/base/status_macros.h"
#include "core/io/machine_memory.h"
#include "server/server.h"

namespace quantd {
namespace {

constexpr int64_t kMaxDefaultBudgetBytes = int64_t{1} << 30;

}  // namespace

struct InProcessService::Impl {
  std::unique_ptr<QuantdServer> server;
};

InProcessService::InProcessService() : impl_(std::make_unique<Impl>()) {}
InProcessService::~InProcessService() = default;

absl::StatusOr<std::unique_ptr<InProcessService>> InProcessService::Start(
    const InProcessOptions& options) {
  ServerOptions server_options;
  // As the server's own default, but no more than a program beside others should take.
  server_options.memory_budget_bytes =
      options.memory_budget_bytes != 0 ? options.memory_budget_bytes
                                       : std::min(kMaxDefaultBudgetBytes, MachineMemoryBytes() / 2);
  // One client only: a tensor may have most of what there is.
  server_options.session_budget_bytes = server_options.memory_budget_bytes / 4 * 3;
  server_options.threads = options.worker_threads;
  std::unique_ptr<InProcessService> service(new InProcessService);
  QUANTD_ASSIGN_OR_RETURN(service->impl_->server, QuantdServer::Start(server_options));
  return service;
}

Client InProcessService::MakeClient() const {
  return Client(impl_->server->InProcessChannel(ClientChannelArguments()), Transport::kInProcess);
}

}  // namespace quantd
