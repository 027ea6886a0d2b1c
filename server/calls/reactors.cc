// A call's way from gRPC to its machine: who calls, and what memory it shares, is asked before
// anything is read; then gRPC's reactions become events, and the machine's actions operations.
//
// Entries: ServeBidi, ServeClientStream. Tested by all of tests/server.
#include "server/calls/reactors.h"

#include <chrono>
#include <memory>
#include <utility>

#include "absl/time/time.h"
#include "core/base/hand_over.h"
#include "core/base/status_macros.h"
#include "server/net/shared_regions.h"

namespace quantd {
namespace {

// What is read before a stream has the memory for more: what gRPC reads ahead, and a start frame.
constexpr int64_t kBaseBytes = int64_t{512} << 10;

absl::string_view MetadataOf(const grpc::CallbackServerContext& call, const char* key) {
  const auto found = call.client_metadata().find(key);
  if (found == call.client_metadata().end()) return {};
  return {found->second.data(), found->second.size()};
}

// A reactor of gRPC's as the port of a call; deletes itself when gRPC is done.
template <typename Reactor>
class Shell : public Reactor, public CallPort {
 public:
  explicit Shell(grpc::CallbackServerContext& context) : context_(context) {}
  // `call` is this port's.
  void Run(std::shared_ptr<Call> call, const MakeHandler& make_handler) {
    call_ = std::move(call);
    HandOver(this);
    call_->Run(make_handler);
  }

  void OnReadDone(bool ok) override {
    TakeOver(this);
    call_->OnRead(ok                        ? Call::ReadResult::kFrame
                  : context_.IsCancelled() ? Call::ReadResult::kBroken
                                           : Call::ReadResult::kHalfClose);
  }
  void OnCancel() override {
    TakeOver(this);
    call_->OnCancelled();
  }
  void OnDone() override {
    TakeOver(this);
    const std::unique_ptr<Shell> self(this);
    const std::shared_ptr<Call> call = std::move(call_);
    call->OnDone();
  }

  void Read(grpc::ByteBuffer* frame) override { this->StartRead(frame); }
  void Finish(const absl::Status& status, const CallTrailers& trailers) override {
    AddTrailers(trailers, context_);
    Reactor::Finish(ToGrpc(status));
  }
  void Cancel() override { context_.TryCancel(); }

 protected:
  std::shared_ptr<Call> call_;  // until OnDone

 private:
  grpc::CallbackServerContext& context_;
};

class BidiShell final : public Shell<grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>> {
 public:
  using Shell::Shell;
  void OnWriteDone(bool ok) override {
    TakeOver(this);
    call_->OnWritten(ok);
  }
  void Write(const grpc::ByteBuffer* frame, bool more_follows) override {
    grpc::WriteOptions options;
    if (more_follows) options.set_buffer_hint();
    StartWrite(frame, options);
  }
};

// Keeps what is written as the call's response.
class ClientStreamShell final : public Shell<grpc::ServerReadReactor<grpc::ByteBuffer>> {
 public:
  ClientStreamShell(grpc::CallbackServerContext& context, grpc::ByteBuffer* response,
                    Executor& executor)
      : Shell(context), response_(response), executor_(executor) {}
  void Write(const grpc::ByteBuffer* frame, bool /*more_follows*/) override {
    *response_ = *frame;
    executor_.Submit([call = call_] { call->OnWritten(true); });  // not before this returns
  }

 private:
  grpc::ByteBuffer* const response_;
  Executor& executor_;
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

// Makes the call with `shell` as its port, or the reactor that refuses it.
template <typename Reactor>
Reactor* Serve(ServiceContext& context, grpc::CallbackServerContext& call, absl::string_view rpc,
               std::unique_ptr<Shell<Reactor>> shell, const MakeHandler& make_handler) {
  const auto open = [&]() -> absl::StatusOr<std::shared_ptr<Call>> {
    QUANTD_ASSIGN_OR_RETURN(const Caller caller, IdentifyCaller(call, context.tokens));
    QUANTD_ASSIGN_OR_RETURN(std::shared_ptr<const SharedRegion> shared, RegionOf(call, context));
    QUANTD_ASSIGN_OR_RETURN(CallerAccounts::Stream stream, context.accounts->OpenStream(caller));
    QUANTD_ASSIGN_OR_RETURN(MemoryBudget::Reservation base,
                            context.waiting_room->Reserve(kBaseBytes, "a stream"));
    return std::make_shared<Call>(context, *shell, FactsOf(call, caller, rpc), std::move(stream),
                                  std::move(base), std::move(shared));
  };
  absl::StatusOr<std::shared_ptr<Call>> opened = open();
  if (!opened.ok()) {
    context.metrics.CountRefusal(opened.status());
    return new Refused<Reactor>(opened.status(), call);
  }
  shell->Run(*std::move(opened), make_handler);
  return shell.release();  // deletes itself
}

}  // namespace

CallFacts FactsOf(const grpc::CallbackServerContext& call, const Caller& caller,
                  absl::string_view rpc) {
  CallFacts facts;
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

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* ServeBidi(
    ServiceContext& context, grpc::CallbackServerContext& call, absl::string_view rpc,
    const MakeHandler& make_handler) {
  using Reactor = grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>;
  return Serve<Reactor>(context, call, rpc, std::make_unique<BidiShell>(call), make_handler);
}

grpc::ServerReadReactor<grpc::ByteBuffer>* ServeClientStream(ServiceContext& context,
                                                             grpc::CallbackServerContext& call,
                                                             grpc::ByteBuffer* response,
                                                             absl::string_view rpc,
                                                             const MakeHandler& make_handler) {
  using Reactor = grpc::ServerReadReactor<grpc::ByteBuffer>;
  return Serve<Reactor>(
      context, call, rpc,
      std::make_unique<ClientStreamShell>(call, response, *context.session.executor), make_handler);
}

}  // namespace quantd
