// A call's way from gRPC to its machine: who calls, and what memory it shares, is asked before
// anything is read; then gRPC's reactions become events, and the machine's actions operations.
//
// Entry: Serve. Tested by all of tests/server.
#include "server/calls/reactors.h"

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "core/base/hand_over.h"
#include "core/base/mutex.h"
#include "core/base/status_detail.h"
#include "core/base/status_macros.h"
#include "server/calls/grpc_status.h"
#include "server/net/caller.h"
#include "server/net/guard_table.h"
#include "server/net/shared_regions.h"

namespace quantd {
namespace {

absl::string_view MetadataOf(const grpc::CallbackServerContext& call, const char* key) {
  const auto found = call.client_metadata().find(key);
  if (found == call.client_metadata().end()) return {};
  return {found->second.data(), found->second.size()};
}

// Returns what gRPC tells of a call of `caller`.
CallFacts FactsOf(const grpc::CallbackServerContext& call, const Caller& caller,
                  absl::string_view rpc, CallKind kind) {
  CallFacts facts;
  facts.kind = kind;
  facts.rpc = std::string(rpc);
  facts.caller = caller.name;
  facts.peer = call.peer();
  if (call.deadline() != std::chrono::system_clock::time_point::max()) {
    facts.deadline = absl::FromChrono(call.deadline());
  }
  facts.traceparent = std::string(MetadataOf(call, "traceparent"));
  return facts;
}

void AddTrailers(const CallTrailers& trailers, grpc::CallbackServerContext& call) {
  for (const auto& [key, value] : trailers) call.AddTrailingMetadata(key, value);
}

// The reactor of a call that is not served: ends it with an error, and deletes itself.
class Refused final : public CallReactor {
 public:
  Refused(const absl::Status& status, grpc::CallbackServerContext& call)
      : refused_call_(call.peer()) {
    MutexLock lock(&mutex_);  // tells ThreadSanitizer what gRPC's own threads do in which order
    if (const auto delay = RetryAfterOf(status)) AddTrailers({RetryTrailer(*delay)}, call);
    Finish(ToGrpc(status));
  }
  void OnDone() override { delete this; }
  ~Refused() override { MutexLock lock(&mutex_); }

 private:
  const RefusedCall refused_call_;
  Mutex mutex_;
};

// A reactor as the port of a call; deletes itself when gRPC is done.
class Shell final : public CallReactor, public CallPort {
 public:
  explicit Shell(grpc::CallbackServerContext& context) : context_(context) {}
  // `call` is this port's.
  void Run(std::shared_ptr<Call> call, CallKind kind, MakeHandler make_handler) {
    call_ = std::move(call);
    // Whoever asks for the server's health needs no token, and proves nothing by it.
    if (kind != CallKind::kHealth) let_in_.emplace(context_.peer());
    HandOver(this);
    call_->Run(make_handler);
  }

  void OnReadDone(bool ok) override {
    TakeOver(this);
    call_->OnRead(ok                        ? Call::ReadResult::kFrame
                  : context_.IsCancelled() ? Call::ReadResult::kBroken
                                           : Call::ReadResult::kHalfClose);
  }
  void OnWriteDone(bool ok) override {
    TakeOver(this);
    call_->OnWritten(ok);
  }
  void OnCancel() override {
    TakeOver(this);
    call_->OnCancelled();
  }
  void OnDone() override {
    TakeOver(this);
    const std::unique_ptr<Shell> self(this);
    call_->OnDone();  // takes the lock that the events before this took
  }

  void Read(grpc::ByteBuffer* frame) override { StartRead(frame); }
  void Write(const grpc::ByteBuffer* frame, bool more_follows) override {
    if (let_in_.has_value()) let_in_->Answer();
    grpc::WriteOptions options;
    if (more_follows) options.set_buffer_hint();
    StartWrite(frame, options);
  }
  void Finish(const absl::Status& status, const CallTrailers& trailers,
              const grpc::ByteBuffer* last) override {
    if (let_in_.has_value()) let_in_->Answer();
    AddTrailers(trailers, context_);
    if (last != nullptr) return StartWriteAndFinish(last, grpc::WriteOptions(), ToGrpc(status));
    CallReactor::Finish(ToGrpc(status));
  }
  void Cancel() override { context_.TryCancel(); }

 private:
  grpc::CallbackServerContext& context_;
  std::shared_ptr<Call> call_;  // until OnDone
  std::optional<LetInCall> let_in_;
};

// Returns the memory that the caller shares, null if it shares none. kUnavailable: its connection
// for that has ended, so that the call is to be made again with another.
absl::StatusOr<std::shared_ptr<const SharedRegion>> RegionOf(
    const grpc::CallbackServerContext& call, const ServiceContext& context) {
  const absl::string_view token = MetadataOf(call, kMemoryTokenKey);
  if (token.data() == nullptr) return nullptr;
  if (context.regions == nullptr) {
    return absl::UnavailableError("this server shares no memory with its clients");
  }
  return context.regions->Find(token);
}

// kResourceExhausted: the call's headers are longer than they may be. gRPC's own limit is higher,
// since whoever exceeds that one loses all calls of its connection.
absl::Status CheckMetadata(const grpc::CallbackServerContext& call, int max_bytes) {
  constexpr size_t kOverheadBytes = 32;  // of each entry: RFC 9113, section 6.5.2
  size_t bytes = 0;
  for (const auto& [key, value] : call.client_metadata()) {
    bytes += key.size() + value.size() + kOverheadBytes;
  }
  if (bytes <= static_cast<size_t>(max_bytes)) return absl::OkStatus();
  return WithLimit(
      absl::ResourceExhaustedError(absl::StrCat("the call's metadata has ", bytes,
                                                " bytes; at most ", max_bytes,
                                                " are allowed (--max-metadata)")),
      "metadata_bytes", max_bytes);
}

// Health checks need no token, and have an account of their own: they count as streams of nobody
// who works, and who works does not keep them out.
absl::StatusOr<Caller> CallerOf(const grpc::CallbackServerContext& call,
                                const ServiceContext& context, CallKind kind) {
  if (kind != CallKind::kHealth) {
    return IdentifyCaller(call, context.tokens, *context.failed_logins);
  }
  QUANTD_ASSIGN_OR_RETURN(Caller caller, IdentifyCaller(call, nullptr, *context.failed_logins));
  caller.name = absl::StrCat("health:", caller.name);
  return caller;
}

}  // namespace

CallReactor* Serve(ServiceContext& context, grpc::CallbackServerContext& call,
                   absl::string_view rpc, CallKind kind, MakeHandler make_handler) {
  auto shell = std::make_unique<Shell>(call);
  const auto open = [&]() -> absl::StatusOr<std::shared_ptr<Call>> {
    QUANTD_RETURN_IF_ERROR(CheckMetadata(call, context.limits.max_metadata_bytes));
    QUANTD_ASSIGN_OR_RETURN(const Caller caller, CallerOf(call, context, kind));
    QUANTD_ASSIGN_OR_RETURN(std::shared_ptr<const SharedRegion> shared, RegionOf(call, context));
    return Call::Open(context, *shell, caller, FactsOf(call, caller, rpc, kind), std::move(shared));
  };
  absl::StatusOr<std::shared_ptr<Call>> opened = open();
  if (!opened.ok()) {
    context.metrics.CountRefusal(opened.status());
    return new Refused(opened.status(), call);
  }
  shell->Run(*std::move(opened), kind, make_handler);
  return shell.release();  // deletes itself
}

}  // namespace quantd
