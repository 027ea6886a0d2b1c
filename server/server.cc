#include "server/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "server/quantize_service.h"

namespace quantd {
namespace {

// Memory that is kept for reuse, at most.
constexpr int64_t kMaxKeptBytes = int64_t{64} << 20;
// Responses that wait in a stream. A window's output comes on top.
constexpr int64_t kMaxQueuedBytes = int64_t{4} << 20;
// Budgets below this could not hold a stream and a window.
constexpr int64_t kMinBudgetBytes = int64_t{16} << 20;
constexpr int64_t kMinMessageBytes = int64_t{64} << 10;
constexpr int kMaxThreads = 1024;

absl::Status CheckOption(absl::string_view name, int64_t value, int64_t min, int64_t max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, "=", value, " is not allowed; use ", min, " to ", max));
}

absl::Status CheckOptions(const ServerOptions& options) {
  constexpr int64_t kMaxInt = std::numeric_limits<int>::max();
  constexpr int64_t kMaxInt64 = std::numeric_limits<int64_t>::max();
  QUANTD_RETURN_IF_ERROR(CheckOption("threads", options.threads, 0, kMaxThreads));
  QUANTD_RETURN_IF_ERROR(CheckOption("memory budget in bytes", options.memory_budget_bytes,
                                     kMinBudgetBytes, kMaxInt64));
  QUANTD_RETURN_IF_ERROR(CheckOption("session budget in bytes", options.session_budget_bytes, 0,
                                     options.memory_budget_bytes));
  QUANTD_RETURN_IF_ERROR(
      CheckOption("message size in bytes", options.max_message_bytes, kMinMessageBytes, kMaxInt));
  QUANTD_RETURN_IF_ERROR(
      CheckOption("unary response size in bytes", options.max_unary_bytes, 1024, kMaxInt / 2));
  return CheckOption("open tensors", options.max_open_tensors, 1, kMaxInt);
}

void SetChannelArguments(const ServerOptions& options, grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(static_cast<int>(options.max_message_bytes));
  builder.SetMaxSendMessageSize(-1);  // what may be sent is decided by the calls
  // Else two servers silently share a port.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // Bounds what is read ahead of a stream; both together were measured to raise its rate.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 256 << 10);
  // A peer that is stopped is noticed by pings alone; those of peers are welcome every 5 s.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 60'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5'000);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, 1024);
}

}  // namespace

absl::string_view Version() { return QUANTD_VERSION; }

QuantdServer::QuantdServer(const ServerOptions& options, int threads)
    : budget_(options.memory_budget_bytes), executor_(threads) {
  const int64_t kept_bytes = std::min(kMaxKeptBytes, options.memory_budget_bytes / 4);
  context_.shared_pool = std::make_shared<BufferPool>(static_cast<size_t>(kept_bytes));
  context_.session = {
      .executor = &executor_, .pool = context_.shared_pool.get(), .budget = &budget_};
  context_.limits = {.max_message_bytes = options.max_message_bytes,
                     .max_unary_bytes = options.max_unary_bytes,
                     .session_budget_bytes = options.session_budget_bytes != 0
                                                 ? options.session_budget_bytes
                                                 : options.memory_budget_bytes / 4,
                     .max_queued_bytes = kMaxQueuedBytes,
                     .max_open_tensors = options.max_open_tensors};
  context_.logger = options.logger;
  context_.worker_threads = threads;
  service_ = MakeQuantizeService(context_);
}

absl::StatusOr<std::unique_ptr<QuantdServer>> QuantdServer::Start(const ServerOptions& options) {
  QUANTD_RETURN_IF_ERROR(CheckOptions(options));
  const int threads =
      options.threads != 0
          ? options.threads
          : std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, kMaxThreads);
  std::unique_ptr<QuantdServer> server(new QuantdServer(options, threads));
  QUANTD_RETURN_IF_ERROR(server->Listen(options));
  return server;
}

absl::Status QuantdServer::Listen(const ServerOptions& options) {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  SetChannelArguments(options, builder);
  std::vector<ListenAddress> listen;
  std::vector<int> ports(options.listen.size(), 0);  // filled in while the server is built
  for (const std::string& text : options.listen) {
    QUANTD_ASSIGN_OR_RETURN(const ListenAddress address, ParseListenAddress(text));
    if (!address.is_local() && !options.allow_insecure) {
      return absl::FailedPreconditionError(
          absl::StrCat("listening on ", address.text,
                       " without encryption needs to be allowed with --insecure"));
    }
    if (address.is_unix()) {
      QUANTD_ASSIGN_OR_RETURN(SocketLock lock, SocketLock::Acquire(address.unix_path));
      locks_.push_back(std::move(lock));
    }
    builder.AddListeningPort(address.text, grpc::InsecureServerCredentials(),
                             &ports[listen.size()]);
    listen.push_back(address);
  }
  builder.RegisterService(service_.get());
  server_ = builder.BuildAndStart();
  for (size_t i = 0; i < listen.size(); ++i) {
    if (ports[i] == 0) {
      return absl::FailedPreconditionError(
          absl::StrCat("cannot listen on ", listen[i].text,
                       ": the address is taken, or is not one of this machine"));
    }
    addresses_.push_back(listen[i].is_unix() ? listen[i].text
                                             : absl::StrCat(listen[i].host, ":", ports[i]));
  }
  if (server_ == nullptr) return absl::InternalError("the gRPC server does not start");
  server_->GetHealthCheckService()->SetServingStatus(v1::QuantizationService::service_full_name(),
                                                     true);
  return absl::OkStatus();
}

QuantdServer::~QuantdServer() { Shutdown(absl::ZeroDuration()); }

std::shared_ptr<grpc::Channel> QuantdServer::InProcessChannel(
    const grpc::ChannelArguments& arguments) {
  return server_->InProcessChannel(arguments);
}

void QuantdServer::Shutdown(absl::Duration drain) {
  MutexLock lock(&shutdown_mutex_);
  if (is_shut_down_ || server_ == nullptr) return;
  is_shut_down_ = true;
  // Watchers of the health service hear of it before their connections go away.
  server_->GetHealthCheckService()->SetServingStatus(false);
  using Clock = std::chrono::system_clock;
  server_->Shutdown(drain == absl::InfiniteDuration()
                        ? Clock::time_point::max()
                        : Clock::now() + absl::ToChronoMicroseconds(drain));
  server_->Wait();
}

}  // namespace quantd
