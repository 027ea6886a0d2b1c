// Entry: MakeQuantizeService. Tested by tests/server/server_test.cc, and where unary calls wait by
// tests/server/overload_test.cc.
#include "server/calls/quantize_service.h"

#include <grpcpp/support/proto_buffer_reader.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/base/hand_over.h"
#include "core/base/mutex.h"
#include "core/base/status_detail.h"
#include "core/base/status_macros.h"
#include "core/exec/memory_budget.h"
#include "core/session/sink.h"
#include "proto/frame_codec.h"
#include "server/admit/admission.h"
#include "server/admit/caller_accounts.h"
#include "server/calls/reactors.h"
#include "server/calls/grpc_status.h"
#include "server/calls/reactors.h"
#include "server/calls/streams.h"
#include "server/calls/unary_calls.h"
#include "server/net/caller.h"
#include "server/observe/call_record.h"

namespace quantd {
namespace {

using grpc::ByteBuffer;
using Context = grpc::CallbackServerContext;

constexpr size_t kSmallCallBytes = size_t{256} << 10;
// Up to here the work takes less than to wake another thread for it.
constexpr size_t kInlineCallBytes = size_t{64} << 10;

// Fills the response of a unary call.
using Answer =
    std::function<absl::Status(CallContext&, const ByteBuffer&, ByteBuffer&, UnaryState&)>;

// A unary call, which lives until gRPC is done with it and no worker is at it. Its work runs on an
// executor, or on gRPC's thread if it is tiny (core/adr/0006). Where its memory is not there it
// waits for it, and is then answered from the beginning; meanwhile its request is what it holds.
// Thread-safe.
class UnaryCall final : public grpc::ServerUnaryReactor,
                        public std::enable_shared_from_this<UnaryCall> {
 public:
  UnaryCall(ServiceContext& context, Context& call, const Caller& caller, absl::string_view rpc,
            const ByteBuffer& request, ByteBuffer& response, Answer answer)
      : context_(context),
        metrics_(context.metrics.rpc(rpc)),
        caller_name_(caller.name),
        account_(context.accounts->Of(caller)),
        // Small calls have a worker of their own, which bulk work does not keep waiting.
        executor_(request.Length() <= kSmallCallBytes ? *context.small_calls
                                                      : *context.session.executor),
        answer_(std::move(answer)),
        request_(request),
        response_(response),
        record_(context, FactsOf(call, caller, rpc), CallKind::kUnary),
        call_(call) {
    HandOver(this);
  }
  ~UnaryCall() override { MutexLock lock(&mutex_); }

  void Start() {
    {
      MutexLock lock(&mutex_);
      self_ = shared_from_this();
      record_.AddReceived(static_cast<int64_t>(request_.Length()));
      submitted_ = absl::Now();
      if (request_.Length() > kInlineCallBytes) return Submit();
    }
    Run();
  }
  void OnCancel() override {
    TakeOver(this);
    cancel_.Cancel();
    MutexLock lock(&mutex_);
    if (!waiting_) return;
    EndWait();
    End(record_.Cancellation());
  }
  void OnDone() override {
    std::shared_ptr<UnaryCall> self;  // destroyed after the lock
    MutexLock lock(&mutex_);
    self = std::move(self_);
    record_.End(status_, "");
  }

 private:
  void Submit() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    submitted_ = absl::Now();
    executor_.Submit([self = shared_from_this()] { self->Run(); });
  }

  void Run() {
    {
      MutexLock lock(&mutex_);
      record_.AddQueueWait(absl::Now() - submitted_);
    }
    CallContext call_context = {.service = context_, .session = context_.session};
    call_context.session.executor = &executor_;
    call_context.session.budget = &account_->memory();
    UnaryState call{.cancel = cancel_, .memory = std::move(granted_), .outcome = {}};
    const absl::Status status = answer_(call_context, request_, response_, call);
    MutexLock lock(&mutex_);
    if (MayWait(status)) return Wait(*ShortageOf(status));
    if (call.outcome.has_value()) {
      metrics_.TensorEnded(*call.outcome);
      record_.AddTimes(call.outcome->statistics, call.outcome->encode);
    }
    End(absl::IsCancelled(status) ? record_.Cancellation() : status);
  }

  // True if there would be memory later for what `status` refuses. The request of a call that waits
  // is memory too: there must be room for it where others do not wait for it.
  bool MayWait(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const std::optional<int64_t> needed_bytes = ShortageOf(status);
    if (!needed_bytes.has_value() || *needed_bytes > account_->memory().limit_bytes() ||
        cancel_.cancelled()) {
      return false;
    }
    if (request_reservation_.bytes() > 0) return true;
    absl::StatusOr<MemoryBudget::Reservation> room = context_.waiting_room->Reserve(
        static_cast<int64_t>(request_.Length()), "a request that waits");
    if (!room.ok()) return false;
    request_reservation_ = *std::move(room);
    return true;
  }

  void Wait(int64_t needed_bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    waiting_ = true;
    place_ = context_.admission->Wait(
        {caller_name_, CallerAccount::MemoryOf(account_), needed_bytes, "a unary call",
         record_.deadline()},
        absl::Now(),
        [call = weak_from_this()](absl::StatusOr<MemoryBudget::Reservation> answer) {
          if (const auto self = call.lock()) self->Resume(std::move(answer));
        });
  }

  void EndWait() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    waiting_ = false;
    record_.AddMemoryWait(absl::Now() - place_->since());
    place_.reset();
  }

  void Resume(absl::StatusOr<MemoryBudget::Reservation> answer) {
    MutexLock lock(&mutex_);
    if (!waiting_) return;
    EndWait();
    if (!answer.ok()) return End(answer.status());
    granted_ = *std::move(answer);
    Submit();
  }

  void End(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    status_ = status;
    if (status_.ok()) record_.AddSent(static_cast<int64_t>(response_.Length()));
    AddTrailers(record_.Trailers(status_), call_);
    Finish(ToGrpc(status_));
  }

  ServiceContext& context_;
  RpcMetrics& metrics_;
  const std::string caller_name_;
  const std::shared_ptr<CallerAccount> account_;
  Executor& executor_;
  const Answer answer_;
  MemoryBudget::Reservation granted_;  // the worker's at work, else written under the lock
  const ByteBuffer& request_;  // gRPC's, like the response
  ByteBuffer& response_;
  CancelToken cancel_;
  Mutex mutex_;
  absl::Time submitted_ ABSL_GUARDED_BY(mutex_);
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  CallRecord record_ ABSL_GUARDED_BY(mutex_);
  Context& call_;
  MemoryBudget::Reservation request_reservation_ ABSL_GUARDED_BY(mutex_);  // once it has waited
  bool waiting_ ABSL_GUARDED_BY(mutex_) = false;
  std::unique_ptr<Admission::Place> place_ ABSL_GUARDED_BY(mutex_);  // in the queue
  std::shared_ptr<UnaryCall> self_ ABSL_GUARDED_BY(mutex_);          // until gRPC is done
};

template <typename Request, typename Response>
grpc::ServerUnaryReactor* ServeUnary(ServiceContext& context, Context& grpc_call,
                                     absl::string_view rpc, const ByteBuffer* in, ByteBuffer* out,
                                     absl::Status (*answer)(CallContext&, const Request&, Response&,
                                                            UnaryState&)) {
  const absl::StatusOr<Caller> caller = IdentifyCaller(grpc_call, context.tokens);
  if (!caller.ok()) return new Refused<grpc::ServerUnaryReactor>(caller.status(), grpc_call);
  const auto call = std::make_shared<UnaryCall>(
      context, grpc_call, *caller, rpc, *in, *out,
      [answer](CallContext& call_context, const ByteBuffer& bytes, ByteBuffer& result,
               UnaryState& state) -> absl::Status {
        Request request;
        ByteBuffer buffer = bytes;  // shares its slices
        grpc::ProtoBufferReader reader(&buffer);
        if (buffer.Valid() &&
            (!request.ParseFromZeroCopyStream(&reader) || !reader.status().ok())) {
          return absl::InvalidArgumentError(
              absl::StrCat("the request is not a well-formed ", request.GetTypeName()));
        }
        Response response;
        QUANTD_RETURN_IF_ERROR(answer(call_context, request, response, state));
        result = SerializeFrame(response);
        return absl::OkStatus();
      });
  call->Start();
  return call.get();
}

using Base = v1::QuantizationService;
using RawService = Base::WithRawCallbackMethod_Quantize<
    Base::WithRawCallbackMethod_Dequantize<Base::WithRawCallbackMethod_StreamingQuantize<
        Base::WithRawCallbackMethod_StreamingDequantize<Base::WithRawCallbackMethod_Calibrate<
            Base::WithRawCallbackMethod_Plan<Base::WithRawCallbackMethod_ListSchemes<
                Base::WithRawCallbackMethod_GetServerInfo<Base::Service>>>>>>>>;
using BidiReactor = grpc::ServerBidiReactor<ByteBuffer, ByteBuffer>;

class QuantizeService final : public RawService {
 public:
  explicit QuantizeService(ServiceContext& context) : context_(context) {}

  grpc::ServerUnaryReactor* Quantize(Context* call, const ByteBuffer* in, ByteBuffer* out) override {
    return ServeUnary(context_, *call, "Quantize", in, out, &quantd::Quantize);
  }
  grpc::ServerUnaryReactor* Dequantize(Context* call, const ByteBuffer* in, ByteBuffer* out) override {
    return ServeUnary(context_, *call, "Dequantize", in, out, &quantd::Dequantize);
  }
  grpc::ServerUnaryReactor* Plan(Context* call, const ByteBuffer* in, ByteBuffer* out) override {
    return ServeUnary(context_, *call, "Plan", in, out, &quantd::PlanTensor);
  }
  grpc::ServerUnaryReactor* ListSchemes(Context* call, const ByteBuffer* in,
                                        ByteBuffer* out) override {
    return ServeUnary(context_, *call, "ListSchemes", in, out, &quantd::ListSchemes);
  }
  grpc::ServerUnaryReactor* GetServerInfo(Context* call, const ByteBuffer* in,
                                          ByteBuffer* out) override {
    return ServeUnary(context_, *call, "GetServerInfo", in, out, &quantd::GetServerInfo);
  }

  BidiReactor* StreamingQuantize(Context* call) override {
    return ServeBidi(context_, *call, "StreamingQuantize", &MakeQuantizeStream);
  }
  BidiReactor* StreamingDequantize(Context* call) override {
    return ServeBidi(context_, *call, "StreamingDequantize", &MakeDequantizeStream);
  }
  grpc::ServerReadReactor<ByteBuffer>* Calibrate(Context* call, ByteBuffer* response) override {
    return ServeClientStream(context_, *call, response, "Calibrate", &MakeCalibrateStream);
  }

 private:
  ServiceContext& context_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeQuantizeService(ServiceContext& context) {
  return std::make_unique<QuantizeService>(context);
}

}  // namespace quantd
