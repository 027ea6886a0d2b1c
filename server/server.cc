// One server put together, and its way down.
//
//   socket -> Acceptor -> guard, TLS -> gRPC -> service_ -> readers_, admission_ -> executor_
//
// Start checks all options before anything is opened (CheckOptions, as --check-config does), reads
// tokens and certificates, starts the metrics, opens the sockets, and has gRPC take what the
// acceptor accepts; where one of these fails, destruction undoes the others. Memory has one budget
// (budget_); what is read before a call is let in has a room of its own (reading_room_), and both
// pump those who wait whenever something is given back.
//
// Shutdown: health watchers hear of it, nothing more is accepted, calls get the time of the drain,
// and the workers are waited for that gRPC has done with. gRPC itself stays up (KeepGrpcUp).
//
// Tested by tests/server/server_test.cc and tests/e2e/test_operation.py.
#include "server/server.h"

#include <grpc/grpc.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/impl/server_builder_option.h>
#include <grpcpp/impl/server_builder_plugin.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/status_macros.h"
#include "core/io/machine_memory.h"
#include "core/simd/targets.h"
#include "core/stats/blas.h"
#include "proto/grpc_switches.h"
#include "server/calls/quantize_service.h"
#include "server/net/handshakes.h"
#include "server/observe/log.h"
#include "server/observe/metrics_endpoint.h"
#include "server/resolved_options.h"

namespace quantd {
namespace {

// Memory that is kept for reuse, at most.
constexpr int64_t kMaxKeptBytes = int64_t{64} << 20;
// Budgets below this could not hold a stream and a window.
constexpr int64_t kMinBudgetBytes = int64_t{16} << 20;
// What is left for small calls while large ones wait.
constexpr int64_t kMaxHeadroomBytes = int64_t{16} << 20;
constexpr int64_t kMinMessageBytes = int64_t{64} << 10;
// Requests of unary calls that are read at once: as many as an eighth of the budget has room for.
constexpr int64_t kMinReaders = 2;
// gRPC's limit of metadata; who exceeds it loses the connection with all its calls.
constexpr int kMaxMetadataBytes = 64 << 10;
// What gRPC may hold beside what the budget grants: buffers of sockets, and what a call takes.
constexpr int64_t kTransportBytes = int64_t{64} << 20;
// What a peer has for the handshakes of TLS and HTTP/2; gRPC itself allows two minutes.
constexpr int kHandshakeTimeoutMs = 20'000;
// What a connection may take of memory before a call of it was let in, in whole (measured by
// tests/attack: up to 0.2 MiB), against a tenth of the budget; and how many there are at least, so
// that clients that come together find room.
constexpr int64_t kBudgetPerUnproven = int64_t{2} << 20;
constexpr int64_t kMinUnproven = 64;
constexpr int64_t kMaxUnproven = 256;
constexpr absl::Duration kDrainPoll = absl::Milliseconds(5);
constexpr int kDrainIdlePolls = 40;
constexpr int kDrainWatchPolls = 400;  // while health watches have not taken the news
// gRPC reads a socket in pieces that grow to 4 MiB, and what waits of any stream in one keeps all
// of it: with 64 streams on 4 connections that was 95 MiB. Smaller ones take no longer.
constexpr int kMaxReadBytes = 256 << 10;

absl::Status CheckOption(absl::string_view name, int64_t value, int64_t min, int64_t max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, "=", value, " is not allowed; use ", min, " to ", max));
}

// kFailedPrecondition: other machines would reach `address` in plain text, and that is not allowed.
absl::Status CheckIsAllowed(const ListenAddress& address, bool encrypted,
                            const ServerOptions& options) {
  if (address.is_local() || encrypted || options.allow_insecure) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("listening on ", address.text,
                   " without encryption (--tls-cert) needs to be allowed with --insecure"));
}

absl::Status CheckLimits(const ServerOptions& options) {
  constexpr int64_t kMaxInt = std::numeric_limits<int>::max();
  constexpr int64_t kMaxInt64 = std::numeric_limits<int64_t>::max();
  QUANTD_RETURN_IF_ERROR(CheckOption("threads", options.threads, 0, kMaxThreads));
  QUANTD_RETURN_IF_ERROR(CheckOption("memory budget in bytes", options.memory_budget_bytes,
                                     kMinBudgetBytes, kMaxInt64));
  QUANTD_RETURN_IF_ERROR(CheckOption("session budget in bytes", options.session_budget_bytes, 0,
                                     options.memory_budget_bytes));
  QUANTD_RETURN_IF_ERROR(CheckOption("caller budget in bytes", options.caller_budget_bytes, 0,
                                     options.memory_budget_bytes));
  QUANTD_RETURN_IF_ERROR(CheckOption("caller streams", options.max_caller_streams, 1, kMaxInt));
  QUANTD_RETURN_IF_ERROR(CheckOption("waiting calls", options.max_waiting_calls, 0, kMaxInt));
  QUANTD_RETURN_IF_ERROR(
      CheckOption("message size in bytes", options.max_message_bytes, kMinMessageBytes, kMaxInt));
  QUANTD_RETURN_IF_ERROR(
      CheckOption("unary response size in bytes", options.max_unary_bytes, 1024, kMaxInt / 2));
  QUANTD_RETURN_IF_ERROR(CheckOption("connections", options.access.max_connections, 1, 1 << 20));
  QUANTD_RETURN_IF_ERROR(
      CheckOption("connections of an address", options.access.max_per_address, 0, 1 << 20));
  QUANTD_RETURN_IF_ERROR(
      CheckOption("metadata size in bytes", options.access.max_metadata_bytes, 1024, 1 << 20));
  QUANTD_RETURN_IF_ERROR(CheckOption("shared memory in bytes", options.access.shared_memory_bytes,
                                     0, int64_t{1} << 40));
  QUANTD_RETURN_IF_ERROR(CheckOption("socket mode", options.access.socket_mode, 0, 0777));
  QUANTD_RETURN_IF_ERROR(CheckOption(
      "idle timeout in seconds", absl::ToInt64Seconds(options.access.idle_timeout), 1, kMaxInt64));
  return CheckOption("open tensors", options.max_open_tensors, 1, kMaxInt);
}

// Durations beyond what gRPC's arguments hold have no effect.
int ArgumentMillis(absl::Duration duration) {
  return static_cast<int>(
      std::min<int64_t>(absl::ToInt64Milliseconds(duration), std::numeric_limits<int>::max()));
}

// What unary calls hold while their requests are read, which nobody can reserve before, since their
// size is not known.
int64_t ReadingRoomBytes(const ServerOptions& options) {
  const int64_t readers = options.memory_budget_bytes / 8 / options.max_message_bytes;
  return std::max(readers, kMinReaders) * options.max_message_bytes;
}

// A backstop: gRPC ends calls of its own choice where it would hold more. Above what could be
// granted even if gRPC held all of it.
size_t QuotaBytes(const ServerOptions& options) {
  const int64_t own_bytes = ReadingRoomBytes(options) + kTransportBytes;
  constexpr int64_t kMaxBytes = std::numeric_limits<int64_t>::max() / 2;  // gRPC computes with it
  return static_cast<size_t>(std::min(options.memory_budget_bytes, kMaxBytes - own_bytes) +
                             own_bytes);
}

void SetChannelArguments(const ServerOptions& options, grpc::ServerBuilder& builder) {
  // gRPC looks at a message's size when it holds all of it, so calls can as well, and say more.
  builder.SetMaxReceiveMessageSize(-1);
  builder.SetMaxSendMessageSize(-1);  // what may be sent is decided by the calls
  // gRPC looks at the size of a compressed message once it has unpacked all of it, and 1 MiB may
  // hold 1 GiB. Such calls end with UNIMPLEMENTED; tensors hardly shrink anyway.
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
  // Bounds what is read ahead of a stream; both together were measured to raise its rate.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 256 << 10);
  builder.AddChannelArgument(GRPC_ARG_TCP_MAX_READ_CHUNK_SIZE, kMaxReadBytes);
  if (options.max_connection_age > absl::ZeroDuration()) {
    builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS,
                               ArgumentMillis(options.max_connection_age));
    builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS,
                               ArgumentMillis(options.max_connection_age_grace));
  }
  // A peer that is stopped is noticed by pings alone. Those of peers are welcome every second:
  // common settings are 10 s and more, and gRPC would hang up on any below 5 minutes.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 60'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1'000);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, 1024);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE,
                             std::max(options.access.max_metadata_bytes, kMaxMetadataBytes));
  builder.SetResourceQuota(grpc::ResourceQuota("quantd").Resize(QuotaBytes(options)));
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
// Shuts down by `deadline`, but not later than when no call has anything to do. Calls of
// reflection, and health watches whose peers do not take the news, would hold it up to the
// deadline.
void ShutdownWhenIdle(grpc::Server& server, std::chrono::system_clock::time_point deadline,
                      const ServiceContext& context) {
  std::atomic<bool> over = false;
  std::thread shutdown([&server, deadline, &over] {
    server.Shutdown(deadline);
    over = true;
  });
  for (int idle_polls = 0; !over; absl::SleepFor(kDrainPoll)) {
    idle_polls = context.working_calls() == 0 ? idle_polls + 1 : 0;
    const int enough = context.health_calls == 0 ? kDrainIdlePolls : kDrainWatchPolls;
    if (idle_polls > enough) grpc_server_cancel_all_calls(server.c_server());
  }
  shutdown.join();
}

// Null: calls need no tokens.
absl::StatusOr<std::unique_ptr<TokenTable>> LoadTokens(const AccessOptions& access) {
  if (access.tokens_path.empty()) return nullptr;
  return TokenTable::Load(access.tokens_path);
}

// Null: plain TCP.
absl::StatusOr<std::unique_ptr<TlsCertificates>> LoadTls(const AccessOptions& access,
                                                         std::shared_ptr<spdlog::logger> logger) {
  if (access.tls.enabled()) return TlsCertificates::Load(access.tls, std::move(logger));
  if (!access.tls.key.empty() || !access.tls.client_ca.empty()) {
    return absl::InvalidArgumentError("TLS needs a certificate: --tls-cert");
  }
  return nullptr;
}

}  // namespace

absl::Status CheckOptions(const ServerOptions& options) {
  QUANTD_RETURN_IF_ERROR(CheckLimits(options));
  QUANTD_RETURN_IF_ERROR(CheckWorkable(WithDefaults(options)));
  QUANTD_ASSIGN_OR_RETURN(const std::unique_ptr<TokenTable> tokens, LoadTokens(options.access));
  if (tokens != nullptr && tokens->empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        options.access.tokens_path, ": has no token, so that nobody could make a call"));
  }
  QUANTD_RETURN_IF_ERROR(LoadTls(options.access, nullptr).status());
  for (const std::string& text : options.listen) {
    QUANTD_ASSIGN_OR_RETURN(const ListenAddress address, ParseListenAddress(text));
    QUANTD_RETURN_IF_ERROR(CheckIsAllowed(address, options.access.tls.enabled(), options));
  }
  if (options.metrics.empty()) return absl::OkStatus();
  QUANTD_ASSIGN_OR_RETURN(const ListenAddress address, ParseMetricsAddress(options.metrics));
  return CheckIsAllowed(address, /*encrypted=*/false, options);
}

absl::string_view Version() { return QUANTD_VERSION; }

// Who may send more metadata may send longer blocks of it, of fields that take 32 bytes and more.
GuardLimits GuardLimitsOf(const ServerOptions& options) {
  GuardLimits limits;
  const int64_t metadata_bytes = options.access.max_metadata_bytes;
  limits.block_bytes = std::max(limits.block_bytes, metadata_bytes + (int64_t{4} << 10));
  limits.block_fields = std::max(limits.block_fields, metadata_bytes / 32);
  return limits;
}

QuantdServer::QuantdServer(const ServerOptions& options)
    : budget_(options.memory_budget_bytes),
      waiting_room_(budget_, WaitingRoom::BytesFor(options.memory_budget_bytes,
                                                   options.max_waiting_calls)),
      region_budget_(options.memory_budget_bytes / 4, &budget_),
      reading_room_(std::make_shared<MemoryBudget>(ReadingRoomBytes(options))),
      health_(v1::QuantizationService::service_full_name()),
      accounts_(budget_, {.max_streams = options.max_caller_streams,
                          .max_memory_bytes = options.caller_budget_bytes}),
      idle_watch_(options.access.idle_timeout),
      failed_logins_(std::make_shared<FailedLogins>(options.logger)),
      admission_(
          budget_,
          {.max_waiting = options.max_waiting_calls,
           .max_wait = options.max_wait,
           .headroom_bytes = std::min(kMaxHeadroomBytes, options.memory_budget_bytes / 16)},
          [this](std::function<void()> task) { executor_.Submit(std::move(task)); }),
      readers_(*reading_room_,
               {.max_waiting = options.max_waiting_calls,
                .max_wait = options.max_wait,
                .whose = "for requests that are read",
                .settings = "--max-message, --memory"},
               [this](std::function<void()> task) { small_calls_.Submit(std::move(task)); }),
      executor_(options.threads),
      small_calls_(1),
      admission_timer_(admission_),
      readers_timer_(readers_) {
  budget_.SetReleaseListener([this] { admission_.Pump(); });
  reading_room_->SetReleaseListener([this] { readers_.Pump(); });
  FillContext(options);
  service_ = MakeQuantizeService(context_);
  health_service_ = MakeHealthService(context_);
  acceptor_ = std::make_unique<Acceptor>(AcceptorOptionsOf(options));
}

void QuantdServer::FillContext(const ServerOptions& options) {
  const int64_t kept_bytes = std::min(kMaxKeptBytes, options.memory_budget_bytes / 4);
  context_.shared_pool = std::make_shared<BufferPool>(static_cast<size_t>(kept_bytes));
  context_.session = {
      .executor = &executor_, .pool = context_.shared_pool.get(), .budget = &budget_};
  context_.limits = LimitsOf(options);
  context_.small_calls = &small_calls_;
  context_.admission = &admission_;
  context_.accounts = &accounts_;
  context_.waiting_room = &waiting_room_;
  context_.readers = &readers_;
  context_.reading_room = reading_room_;
  context_.health = &health_;
  context_.idle_watch = &idle_watch_;
  context_.failed_logins = failed_logins_.get();
  context_.logger = options.logger;
  if (options.logger != nullptr) context_.call_logger = options.logger->clone(kCallLoggerName);
  context_.json_log = options.json_log;
  context_.worker_threads = options.threads;
}

AcceptorOptions QuantdServer::AcceptorOptionsOf(const ServerOptions& options) {
  const int64_t unproven = options.memory_budget_bytes / kBudgetPerUnproven;
  return {.max_connections = options.access.max_connections,
          .max_per_address = options.access.max_per_address,
          .max_unproven = static_cast<int>(std::clamp(unproven, kMinUnproven, kMaxUnproven)),
          .guard = GuardLimitsOf(options),
          .allowed_uids = options.access.allowed_uids,
          .every_second =
              [this] {
                if (tls_ != nullptr) tls_->Refresh();
                idle_watch_.Look();
                failed_logins_->LogRest();
              },
          .on_guard_end = [this](GuardReason why) { context_.metrics.CountGuardEnd(NameOf(why)); },
          .logger = options.logger,
          .failed_logins = failed_logins_};
}

absl::StatusOr<std::unique_ptr<QuantdServer>> QuantdServer::Start(const ServerOptions& given) {
  QUANTD_RETURN_IF_ERROR(CheckOptions(given));
  const ServerOptions options = WithDefaults(given);
  KeepGrpcUp();
  WatchHandshakes();
  std::unique_ptr<QuantdServer> server(new QuantdServer(options));
  QUANTD_ASSIGN_OR_RETURN(server->tokens_, LoadTokens(options.access));
  server->context_.tokens = server->tokens_.get();
  QUANTD_ASSIGN_OR_RETURN(server->tls_, LoadTls(options.access, options.logger));
  if (!options.metrics.empty()) QUANTD_RETURN_IF_ERROR(server->StartMetrics(options));
  QUANTD_RETURN_IF_ERROR(server->Listen(options));
  return server;
}

absl::Status QuantdServer::OpenSockets(const ServerOptions& options, grpc::ServerBuilder& builder) {
  using Builder = grpc::ServerBuilder::experimental_type;
  const auto add_target = [&builder](std::shared_ptr<grpc::ServerCredentials> credentials) {
    return std::shared_ptr<Acceptor::Target>(builder.experimental().AddExternalConnectionAcceptor(
        Builder::ExternalConnectionType::FROM_FD, std::move(credentials)));
  };
  const auto plain = add_target(grpc::InsecureServerCredentials());
  const auto tcp = tls_ != nullptr ? add_target(tls_->MakeCredentials()) : plain;
  for (const std::string& text : options.listen) {
    QUANTD_ASSIGN_OR_RETURN(const ListenAddress address, ParseListenAddress(text));
    QUANTD_ASSIGN_OR_RETURN(std::vector<ListeningSocket> sockets,
                            ListeningSocket::Open(address, options.access.socket_mode));
    addresses_.push_back(
        address.is_unix() ? address.text : absl::StrCat(address.host, ":", sockets.front().port()));
    if (address.is_unix()) QUANTD_RETURN_IF_ERROR(OpenMemorySocket(address, options));
    for (ListeningSocket& socket : sockets) {
      acceptor_->Add(std::move(socket), address.is_unix() ? plain : tcp,
                     /*is_encrypted=*/!address.is_unix() && tls_ != nullptr);
    }
  }
  return absl::OkStatus();
}

absl::Status QuantdServer::OpenMemorySocket(const ListenAddress& address,
                                            const ServerOptions& options) {
  if (options.access.shared_memory_bytes == 0) return absl::OkStatus();
  absl::StatusOr<ListeningSocket> socket =
      ListeningSocket::OpenMemorySocket(address, options.access.socket_mode);
  if (!socket.ok()) {  // clients find none and go without
    if (options.logger != nullptr) {
      options.logger->warn("no shared memory: {}", std::string(socket.status().message()));
    }
    return absl::OkStatus();
  }
  if (regions_ == nullptr) {
    regions_ = std::make_unique<SharedRegions>(
        SharedRegionsOptions{.max_region_bytes = options.access.shared_memory_bytes,
                             .logger = options.logger},
        region_budget_);
    QUANTD_RETURN_IF_ERROR(regions_->Start());
    context_.regions = regions_.get();
  }
  acceptor_->Add(*std::move(socket), [this](int fd) { regions_->Adopt(OwnedFd(fd)); });
  return absl::OkStatus();
}

absl::Status QuantdServer::StartMetrics(const ServerOptions& options) {
  std::function<absl::Time()> expiry;
  if (tls_ != nullptr) expiry = [this] { return tls_->expiry(); };
  context_.metrics.TurnOn(
      {.version = std::string(Version()),
       .build = QUANTD_BUILD,
       .simd_target = std::string(ChosenSimdTarget()),
       .blas_core = BlasCoreName(),
       .start = context_.start_time,
       .memory_limit_bytes = budget_.limit_bytes(),
       .machine_memory_bytes = MachineMemoryBytes(),
       .memory_reserved_bytes = [this] { return budget_.used_bytes(); },
       .memory_bound_bytes =
           [this] { return MemoryBoundBytes(budget_.limit_bytes(), open_connections()); },
       .waiting_calls = [this] { return waiting_calls(); },
       .open_connections = [this] { return open_connections(); },
       .refused_connections = [this] { return refused_connections(); },
       .displaced_connections = [this] { return displaced_connections(); },
       .failed_logins = [logins = failed_logins_](FailedLogins::Kind kind) {
         return logins->count(kind);
       },
       .certificate_expiry = expiry});
  for (const GuardReason reason : kGuardReasons) context_.metrics.AddGuardReason(NameOf(reason));
  QUANTD_ASSIGN_OR_RETURN(const ListenAddress address, ParseMetricsAddress(options.metrics));
  QUANTD_ASSIGN_OR_RETURN(metrics_endpoint_, MetricsEndpoint::Start(address, context_.metrics));
  return absl::OkStatus();
}

absl::Status QuantdServer::Listen(const ServerOptions& options) {
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  SetChannelArguments(options, builder);
  if (tokens_ != nullptr) builder.SetOption(std::make_unique<WithoutReflection>());
  QUANTD_RETURN_IF_ERROR(OpenSockets(options, builder));
  builder.RegisterService(service_.get());
  builder.RegisterService(health_service_.get());
  server_ = builder.BuildAndStart();
  if (server_ == nullptr) return absl::InternalError("the gRPC server does not start");
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
  health_.Stop();
  acceptor_->Stop();
  using Clock = std::chrono::system_clock;
  const Clock::time_point deadline = drain == absl::InfiniteDuration()
                                         ? Clock::time_point::max()
                                         : Clock::now() + absl::ToChronoMicroseconds(drain);
  if (drain <= absl::ZeroDuration()) {
    server_->Shutdown(deadline);
  } else {
    ShutdownWhenIdle(*server_, deadline, context_);
  }
  server_->Wait();
  if (regions_ != nullptr) regions_->Stop();
  // Workers may still be at calls that gRPC has done with.
  while (context_.active_calls > 0) absl::SleepFor(kDrainPoll);
}

}  // namespace quantd
