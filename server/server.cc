#include "server/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/impl/server_builder_option.h>
#include <grpcpp/impl/server_builder_plugin.h>

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
// What a peer has for the handshakes of TLS and HTTP/2; gRPC itself allows two minutes.
constexpr int kHandshakeTimeoutMs = 20'000;

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
  QUANTD_RETURN_IF_ERROR(CheckOption("connections", options.access.max_connections, 1, 1 << 20));
  QUANTD_RETURN_IF_ERROR(
      CheckOption("metadata size in bytes", options.access.max_metadata_bytes, 1024, 1 << 20));
  QUANTD_RETURN_IF_ERROR(CheckOption("socket mode", options.access.socket_mode, 0, 0777));
  QUANTD_RETURN_IF_ERROR(CheckOption(
      "idle timeout in seconds", absl::ToInt64Seconds(options.access.idle_timeout), 1, kMaxInt64));
  return CheckOption("open tensors", options.max_open_tensors, 1, kMaxInt);
}

void SetChannelArguments(const ServerOptions& options, grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(static_cast<int>(options.max_message_bytes));
  builder.SetMaxSendMessageSize(-1);  // what may be sent is decided by the calls
  // Bounds what is read ahead of a stream; both together were measured to raise its rate.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 256 << 10);
  // A peer that is stopped is noticed by pings alone; those of peers are welcome every 5 s.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 60'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5'000);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, 1024);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, options.access.max_metadata_bytes);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeTimeoutMs);
}

// Takes the reflection service out again, which linking it has put into all servers: it cannot be
// made to ask for tokens.
class WithoutReflection final : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    std::erase_if(*plugins, [](const std::unique_ptr<grpc::ServerBuilderPlugin>& plugin) {
      return plugin->name() == grpc::reflection::ProtoServerReflectionPlugin().name();
    });
  }
};

}  // namespace

absl::string_view Version() { return QUANTD_VERSION; }

QuantdServer::QuantdServer(const ServerOptions& options, int threads)
    : budget_(options.memory_budget_bytes),
      idle_watch_(options.access.idle_timeout),
      executor_(threads) {
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
  context_.idle_watch = &idle_watch_;
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
  QUANTD_RETURN_IF_ERROR(server->LoadAccess(options.access));
  QUANTD_RETURN_IF_ERROR(server->Listen(options));
  return server;
}

absl::Status QuantdServer::LoadAccess(const AccessOptions& access) {
  if (!access.tokens_path.empty()) {
    QUANTD_ASSIGN_OR_RETURN(tokens_, TokenTable::Load(access.tokens_path));
    context_.tokens = tokens_.get();
  }
  if (access.tls.enabled()) {
    QUANTD_ASSIGN_OR_RETURN(tls_, TlsCertificates::Load(access.tls, context_.logger));
  } else if (!access.tls.key.empty() || !access.tls.client_ca.empty()) {
    return absl::InvalidArgumentError("TLS needs a certificate: --tls-cert");
  }
  return absl::OkStatus();
}

absl::Status QuantdServer::OpenSockets(const ServerOptions& options, grpc::ServerBuilder& builder) {
  acceptor_ =
      std::make_unique<Acceptor>(AcceptorOptions{.max_connections = options.access.max_connections,
                                                 .allowed_uids = options.access.allowed_uids,
                                                 .every_second =
                                                     [this] {
                                                       if (tls_ != nullptr) tls_->Refresh();
                                                       idle_watch_.Look();
                                                     },
                                                 .logger = options.logger});
  using Builder = grpc::ServerBuilder::experimental_type;
  const auto add_target = [&builder](std::shared_ptr<grpc::ServerCredentials> credentials) {
    return std::shared_ptr<Acceptor::Target>(builder.experimental().AddExternalConnectionAcceptor(
        Builder::ExternalConnectionType::FROM_FD, std::move(credentials)));
  };
  const auto plain = add_target(grpc::InsecureServerCredentials());
  const auto tcp = tls_ != nullptr ? add_target(tls_->MakeCredentials()) : plain;
  for (const std::string& text : options.listen) {
    QUANTD_ASSIGN_OR_RETURN(const ListenAddress address, ParseListenAddress(text));
    if (!address.is_local() && tls_ == nullptr && !options.allow_insecure) {
      return absl::FailedPreconditionError(
          absl::StrCat("listening on ", address.text,
                       " without encryption (--tls-cert) needs to be allowed with --insecure"));
    }
    QUANTD_ASSIGN_OR_RETURN(std::vector<ListeningSocket> sockets,
                            ListeningSocket::Open(address, options.access.socket_mode));
    addresses_.push_back(
        address.is_unix() ? address.text : absl::StrCat(address.host, ":", sockets.front().port()));
    for (ListeningSocket& socket : sockets) {
      acceptor_->Add(std::move(socket), address.is_unix() ? plain : tcp);
    }
  }
  return absl::OkStatus();
}

absl::Status QuantdServer::Listen(const ServerOptions& options) {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  SetChannelArguments(options, builder);
  if (tokens_ != nullptr) builder.SetOption(std::make_unique<WithoutReflection>());
  QUANTD_RETURN_IF_ERROR(OpenSockets(options, builder));
  builder.RegisterService(service_.get());
  server_ = builder.BuildAndStart();
  if (server_ == nullptr) return absl::InternalError("the gRPC server does not start");
  server_->GetHealthCheckService()->SetServingStatus(v1::QuantizationService::service_full_name(),
                                                     true);
  return options.listen.empty() ? absl::OkStatus() : acceptor_->Start();
}

QuantdServer::~QuantdServer() { Shutdown(absl::ZeroDuration()); }

std::shared_ptr<grpc::Channel> QuantdServer::InProcessChannel(
    const grpc::ChannelArguments& arguments) {
  return server_->InProcessChannel(arguments);
}

absl::Status QuantdServer::ReloadTokens() {
  return tokens_ != nullptr ? tokens_->Reload() : absl::OkStatus();
}

void QuantdServer::Shutdown(absl::Duration drain) {
  MutexLock lock(&shutdown_mutex_);
  if (is_shut_down_ || server_ == nullptr) return;
  is_shut_down_ = true;
  // Watchers of the health service hear of it before their connections go away.
  server_->GetHealthCheckService()->SetServingStatus(false);
  acceptor_->Stop();
  using Clock = std::chrono::system_clock;
  server_->Shutdown(drain == absl::InfiniteDuration()
                        ? Clock::time_point::max()
                        : Clock::now() + absl::ToChronoMicroseconds(drain));
  server_->Wait();
}

}  // namespace quantd
