#include "client/client.h"

#include <google/protobuf/wrappers.pb.h>
#include <grpcpp/generic/generic_stub.h>

#include <deque>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "client/retry.h"
#include "client/run_calls.h"
#include "client/tensor_call.h"
#include "core/base/hand_over.h"
#include "core/base/mutex.h"
#include "core/base/status_macros.h"
#include "proto/convert.h"
#include "quantd/v1/quantization.grpc.pb.h"

namespace quantd {
namespace {

constexpr char kService[] = "/quantd.v1.QuantizationService/";
// Measured: with the BDP probe off, this window moves frames of 1 MiB fastest over loopback.
constexpr int kLookaheadBytes = 256 << 10;
constexpr size_t kPlansInFlight = 64;
// gRPC's own is 1 s, in which every attempt fails, also where the server is long back.
constexpr int kFirstReconnectMs = 100;
// gRPC's own is two minutes, in which every attempt fails likewise.
constexpr int kMaxReconnectMs = 500;

// Makes one unary call of `method` ("/package.Service/Method"), once.
template <typename Response, typename Request>
absl::StatusOr<Response> CallOnce(const std::shared_ptr<grpc::Channel>& channel,
                                  const std::string& method, const Request& request,
                                  const CallOptions& options) {
  grpc::TemplatedGenericStub<Request, Response> stub(channel);
  grpc::ClientContext context;
  SetDeadline(options.deadline, context);
  const Cancellation::Scope cancelling(options.cancellation, [&context] { context.TryCancel(); });
  Response response;
  Mutex mutex;
  bool done = false;
  absl::Status status;
  HandOver(&mutex);
  stub.UnaryCall(&context, method, {}, &request, &response, [&](grpc::Status result) {
    TakeOver(&mutex);
    MutexLock lock(&mutex);
    status = StatusOf(result, context);
    done = true;
  });
  MutexLock lock(&mutex, absl::Condition(&done));
  QUANTD_RETURN_IF_ERROR(status);
  return response;
}

// Likewise, again where that may help.
template <typename Response, typename Request>
absl::StatusOr<Response> UnaryCall(const std::shared_ptr<grpc::Channel>& channel,
                                   const std::string& method, const Request& request,
                                   const CallOptions& options) {
  absl::StatusOr<Response> response;
  Retry(options, [&]() -> std::vector<absl::Status> {
    response = CallOnce<Response>(channel, method, request, options);
    return {response.status()};
  });
  return response;
}

// A Plan call that is on the way. Thread-compatible.
struct PlanCall {
  grpc::ClientContext context;
  v1::PlanRequest request;
  v1::PlanResponse response;
};

// Asks, once, for the plans of those of `tensors` that `plans` has none of; many at once.
void PlanOnce(const std::shared_ptr<grpc::Channel>& channel, std::span<const TensorDesc> tensors,
              const QuantSpec& spec, const CallOptions& options,
              std::span<absl::StatusOr<TensorPlan>> plans) {
  v1::QuantizationService::Stub stub(channel);
  Mutex mutex;
  size_t running = 0;
  std::deque<PlanCall> calls(tensors.size());
  std::deque<Cancellation::Scope> cancelling;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (!RetrySchedule::IsWorthIt(plans[i].status())) continue;
    PlanCall& call = calls[i];
    SetDeadline(options.deadline, call.context);
    cancelling.emplace_back(options.cancellation, [&call] { call.context.TryCancel(); });
    *call.request.mutable_tensor() = ToProto(tensors[i]);
    *call.request.mutable_spec() = ToProto(spec);
    {
      const auto has_room = [&running] { return running < kPlansInFlight; };
      MutexLock lock(&mutex, absl::Condition(&has_room));
      ++running;
    }
    stub.async()->Plan(&call.context, &call.request, &call.response, [&, i](grpc::Status status) {
      MutexLock lock(&mutex);
      if (status.ok()) {
        plans[i] = ReadPlan(calls[i].response.plan(), tensors[i]);
      } else {
        plans[i] = StatusOf(status, calls[i].context);
      }
      --running;
    });
  }
  const auto all_finished = [&running] { return running == 0; };
  mutex.LockWhen(absl::Condition(&all_finished));
  mutex.Unlock();
}

// Makes and runs a call for each of `count` jobs, and returns the results in order; errors of
// `make` are results too.
template <typename Info>
std::vector<absl::StatusOr<Info>> RunJobs(
    const Route& route, const StreamMethod& method, size_t count, const CallOptions& options,
    absl::FunctionRef<absl::StatusOr<std::unique_ptr<TensorCall>>(size_t job, Info& info)> make) {
  std::vector<Info> infos(count);
  std::vector<absl::StatusOr<std::unique_ptr<TensorCall>>> calls;
  std::vector<TensorCall*> good_calls;
  for (size_t i = 0; i < count; ++i) {
    calls.push_back(make(i, infos[i]));
    if (calls[i].ok()) good_calls.push_back(calls[i]->get());
  }
  RunCalls(route, method, good_calls, options);
  std::vector<absl::StatusOr<Info>> results;
  for (size_t i = 0; i < count; ++i) {
    const absl::Status status = calls[i].ok() ? (*calls[i])->status() : calls[i].status();
    if (status.ok()) {
      results.push_back(std::move(infos[i]));
    } else {
      results.push_back(status);
    }
  }
  return results;
}

}  // namespace

grpc::ChannelArguments ClientChannelArguments() {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kFirstReconnectMs);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kMaxReconnectMs);
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, kLookaheadBytes);
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetMaxSendMessageSize(kMaxMessageBytes);
  return arguments;
}

absl::StatusOr<Client> Client::Connect(const std::string& target) {
  ConnectOptions options;
  options.target = target;
  return Connect(options);
}

absl::StatusOr<Client> Client::Connect(const ConnectOptions& options) {
  QUANTD_ASSIGN_OR_RETURN(std::shared_ptr<grpc::Channel> channel, MakeChannel(options));
  Client client(std::move(channel), options.transport);
  const std::string unix_path = UnixPathOf(options.target);
  const bool may_share =
      options.transport == Transport::kAuto || options.transport == Transport::kSharedMemory;
  if (!unix_path.empty() && may_share) {
    client.regions_ = std::make_shared<RegionPool>(unix_path);
  } else {
    client.transport_ = unix_path.empty() ? Transport::kTcp : Transport::kUnix;
  }
  return client;
}

CallOptions Client::OptionsFor(CallOptions options) const {
  // Messages are handed over where they lie: nothing could change them.
  if (transport_ == Transport::kInProcess) options.checksums = false;
  return options;
}

Transport Client::transport() const {
  if (regions_ == nullptr || transport_ == Transport::kSharedMemory) return transport_;
  absl::StatusOr<std::unique_ptr<StreamRegion>> region = regions_->Acquire();
  if (!region.ok()) return Transport::kUnix;
  regions_->Release(*std::move(region));
  return Transport::kSharedMemory;
}

absl::Status Client::WaitForReady(absl::Time deadline) const {
  if (channel_->WaitForConnected(absl::ToChronoTime(deadline))) return absl::OkStatus();
  return absl::DeadlineExceededError("the server did not become ready in time");
}

std::vector<absl::StatusOr<TensorPlan>> Client::PlanMany(std::span<const TensorDesc> tensors,
                                                         const QuantSpec& spec,
                                                         const CallOptions& options) const {
  std::vector<absl::StatusOr<TensorPlan>> plans(tensors.size(),
                                                absl::UnavailableError("not asked yet"));
  if (plans.empty()) return plans;
  Retry(options, [&] {
    PlanOnce(channel_, tensors, spec, options, plans);
    std::vector<absl::Status> errors;
    for (const auto& plan : plans) errors.push_back(plan.status());
    return errors;
  });
  return plans;
}

absl::StatusOr<TensorPlan> Client::Plan(const TensorDesc& tensor, const QuantSpec& spec,
                                        const CallOptions& options) const {
  return PlanMany({&tensor, 1}, spec, options).front();
}

absl::StatusOr<QuantizedInfo> Client::Quantize(QuantizeJob job, const CallOptions& options) const {
  std::vector<QuantizeJob> jobs;
  jobs.push_back(std::move(job));
  return QuantizeMany(std::move(jobs), options).front();
}

std::vector<absl::StatusOr<QuantizedInfo>> Client::QuantizeMany(std::vector<QuantizeJob> jobs,
                                                                const CallOptions& options) const {
  const auto find_ranges =
      [this, &options](const QuantizeJob& job) -> absl::StatusOr<CalibratedRanges> {
    QUANTD_ASSIGN_OR_RETURN(CalibrationInfo info,
                            Calibrate(job.tensor, job.spec, *job.source, {}, options));
    return std::move(info.ranges);
  };
  const auto make = [&](size_t i, QuantizedInfo& info)
      -> absl::StatusOr<std::unique_ptr<TensorCall>> {
    if (!jobs[i].codebook.empty() && !jobs[i].spec.levels) {
      jobs[i].spec.levels = static_cast<uint32_t>(jobs[i].codebook.size());
    }
    if (!jobs[i].plan.has_value()) {
      QUANTD_ASSIGN_OR_RETURN(jobs[i].plan, Plan(jobs[i].tensor, jobs[i].spec, options));
    }
    return MakeQuantizeCall(std::move(jobs[i]), OptionsFor(options), find_ranges, info);
  };
  return RunJobs<QuantizedInfo>({channel_, regions_.get(), transport_}, kQuantizeStream,
                                jobs.size(), options, make);
}

absl::StatusOr<DequantizedInfo> Client::Dequantize(DequantizeJob job,
                                                   const CallOptions& options) const {
  std::vector<DequantizeJob> jobs;
  jobs.push_back(std::move(job));
  return DequantizeMany(std::move(jobs), options).front();
}

std::vector<absl::StatusOr<DequantizedInfo>> Client::DequantizeMany(
    std::vector<DequantizeJob> jobs, const CallOptions& options) const {
  const auto make = [&](size_t i, DequantizedInfo& info)
      -> absl::StatusOr<std::unique_ptr<TensorCall>> {
    if (jobs[i].planes.empty()) return absl::InvalidArgumentError("no planes are given");
    return MakeDequantizeCall(std::move(jobs[i]), OptionsFor(options), info);
  };
  return RunJobs<DequantizedInfo>({channel_, regions_.get(), transport_}, kDequantizeStream,
                                  jobs.size(), options, make);
}

absl::StatusOr<CalibrationInfo> Client::Calibrate(const TensorDesc& tensor, const QuantSpec& spec,
                                                  ByteSource& source,
                                                  const CalibrationOptions& calibration,
                                                  const CallOptions& options) const {
  const auto make = [&](size_t, CalibrationInfo& info) {
    return MakeCalibrateCall(tensor, spec, source, calibration, options, info);
  };
  return RunJobs<CalibrationInfo>({channel_}, kCalibrateStream, 1, options, make).front();
}

absl::StatusOr<std::vector<v1::SchemeDescription>> Client::ListSchemes(
    const CallOptions& options) const {
  std::vector<v1::SchemeDescription> schemes;
  v1::ListSchemesRequest request;
  do {
    QUANTD_ASSIGN_OR_RETURN(
        const auto page, UnaryCall<v1::ListSchemesResponse>(
                             channel_, absl::StrCat(kService, "ListSchemes"), request, options));
    if (page.schemes().empty()) break;
    schemes.insert(schemes.end(), page.schemes().begin(), page.schemes().end());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return schemes;
}

absl::StatusOr<v1::GetServerInfoResponse> Client::GetServerInfo(const CallOptions& options) const {
  return UnaryCall<v1::GetServerInfoResponse>(channel_, absl::StrCat(kService, "GetServerInfo"),
                                              v1::GetServerInfoRequest(), options);
}

absl::Status Client::CheckHealth(absl::string_view service, const CallOptions& options) const {
  // grpc.health.v1: HealthCheckRequest { string service = 1; }, HealthCheckResponse { ServingStatus
  // status = 1; }, which gRPC's packages have no header of. These are the same on the wire.
  constexpr int kServing = 1;
  google::protobuf::StringValue request;
  request.set_value(std::string(service));
  QUANTD_ASSIGN_OR_RETURN(const auto response,
                          CallOnce<google::protobuf::Int32Value>(
                              channel_, "/grpc.health.v1.Health/Check", request, options));
  if (response.value() != kServing) {
    return absl::FailedPreconditionError("the server says that it does not serve");
  }
  return absl::OkStatus();
}

}  // namespace quantd
