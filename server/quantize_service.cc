#include "server/quantize_service.h"

#include <grpcpp/support/proto_buffer_reader.h>

#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/base/mutex.h"
#include "core/session/sink.h"
#include "proto/frame_codec.h"
#include "server/call_record.h"
#include "server/caller.h"
#include "server/caller_accounts.h"
#include "server/frame_stream.h"
#include "server/grpc_status.h"
#include "server/refused_call.h"
#include "server/streams.h"
#include "server/unary_calls.h"

namespace quantd {
namespace {

using grpc::ByteBuffer;
using Call = grpc::CallbackServerContext;

constexpr size_t kSmallCallBytes = size_t{256} << 10;

// A unary call, which lives until gRPC is done with it and no worker is at it. Its work runs on the
// executor.
class UnaryCall final : public grpc::ServerUnaryReactor {
 public:
  static std::shared_ptr<UnaryCall> Make(ServiceContext& context, Call& grpc_call,
                                         const Caller& caller, absl::string_view rpc) {
    auto call = std::make_shared<UnaryCall>(context, grpc_call, caller, rpc);
    MutexLock lock(&call->mutex_);
    call->self_ = call;
    return call;
  }
  UnaryCall(ServiceContext& context, Call& call, const Caller& caller, absl::string_view rpc)
      : record_(context, call, caller, rpc, CallKind::kUnary) {
    MutexLock lock(&mutex_);  // tells ThreadSanitizer what gRPC's own threads do in which order
  }
  ~UnaryCall() override { MutexLock lock(&mutex_); }
  void OnCancel() override { cancel_.Cancel(); }
  void OnDone() override {
    std::shared_ptr<UnaryCall> self;  // destroyed after the lock
    MutexLock lock(&mutex_);
    self = std::move(self_);
    record_.End(status_, "");
  }
  const CancelToken& cancel_token() const { return cancel_; }
  void Begin(const ByteBuffer& request) {
    MutexLock lock(&mutex_);
    record_.AddQueueWait(absl::Now() - submitted_);
    record_.AddReceived(static_cast<int64_t>(request.Length()));
  }
  void End(const absl::Status& status, const CallTimes& times, const ByteBuffer& response) {
    MutexLock lock(&mutex_);
    status_ = status;
    record_.AddTimes(times.statistics, times.encode);
    if (status.ok()) record_.AddSent(static_cast<int64_t>(response.Length()));
    record_.AddTrailers(status);
    Finish(ToGrpc(status));
  }

 private:
  CancelToken cancel_;
  const absl::Time submitted_ = absl::Now();
  Mutex mutex_;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  CallRecord record_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<UnaryCall> self_ ABSL_GUARDED_BY(mutex_);  // until gRPC is done
};

template <typename Request, typename Response>
grpc::ServerUnaryReactor* ServeUnary(ServiceContext& context, Call& grpc_call,
                                     absl::string_view rpc, const ByteBuffer* in, ByteBuffer* out,
                                     absl::Status (*answer)(CallContext&, const Request&, Response&,
                                                            const CancelToken&, CallTimes&)) {
  const absl::StatusOr<Caller> caller = IdentifyCaller(grpc_call, context.tokens);
  if (!caller.ok()) return new Refused<grpc::ServerUnaryReactor>(caller.status(), grpc_call);
  const std::shared_ptr<UnaryCall> call = UnaryCall::Make(context, grpc_call, *caller, rpc);
  // Small calls have a worker of their own, which bulk work does not keep waiting.
  Executor* const executor =
      in->Length() <= kSmallCallBytes ? context.small_calls : context.session.executor;
  executor->Submit([&context, in, out, answer, call, executor,
                    account = context.accounts->Of(*caller)] {
    CallContext call_context = {.service = context, .session = context.session};
    call_context.session.executor = executor;
    call_context.session.budget = &account->memory();
    call->Begin(*in);
    absl::Status status;
    CallTimes times;
    Request request;
    ByteBuffer buffer = *in;  // shares its slices
    grpc::ProtoBufferReader reader(&buffer);
    if (buffer.Valid() && (!request.ParseFromZeroCopyStream(&reader) || !reader.status().ok())) {
      status = absl::InvalidArgumentError(
          absl::StrCat("the request is not a well-formed ", request.GetTypeName()));
    }
    if (status.ok()) {
      Response response;
      status = answer(call_context, request, response, call->cancel_token(), times);
      if (status.ok()) *out = SerializeFrame(response);
    }
    call->End(status, times, *out);
  });
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

  grpc::ServerUnaryReactor* Quantize(Call* call, const ByteBuffer* in, ByteBuffer* out) override {
    return ServeUnary(context_, *call, "Quantize", in, out, &quantd::Quantize);
  }
  grpc::ServerUnaryReactor* Dequantize(Call* call, const ByteBuffer* in, ByteBuffer* out) override {
    return ServeUnary(context_, *call, "Dequantize", in, out, &quantd::Dequantize);
  }
  grpc::ServerUnaryReactor* Plan(Call* call, const ByteBuffer* in, ByteBuffer* out) override {
    return ServeUnary(context_, *call, "Plan", in, out, &quantd::PlanTensor);
  }
  grpc::ServerUnaryReactor* ListSchemes(Call* call, const ByteBuffer* in,
                                        ByteBuffer* out) override {
    return ServeUnary(context_, *call, "ListSchemes", in, out, &quantd::ListSchemes);
  }
  grpc::ServerUnaryReactor* GetServerInfo(Call* call, const ByteBuffer* in,
                                          ByteBuffer* out) override {
    return ServeUnary(context_, *call, "GetServerInfo", in, out, &quantd::GetServerInfo);
  }

  BidiReactor* StreamingQuantize(Call* call) override {
    return ServeBidi(context_, *call, "StreamingQuantize", &MakeQuantizeStream);
  }
  BidiReactor* StreamingDequantize(Call* call) override {
    return ServeBidi(context_, *call, "StreamingDequantize", &MakeDequantizeStream);
  }
  grpc::ServerReadReactor<ByteBuffer>* Calibrate(Call* call, ByteBuffer* response) override {
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
