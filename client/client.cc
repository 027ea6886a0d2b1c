#include "client/client.h"

#include <grpcpp/generic/generic_stub.h>

#include <algorithm>
#include <deque>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/byte_stream.h"
#include "client/dequantize_call.h"
#include "client/exchange.h"
#include "client/quantize_call.h"
#include "client/wire.h"
#include "core/base/mutex.h"
#include "core/base/status_macros.h"
#include "proto/convert.h"
#include "quantd/v1/quantization.grpc.pb.h"

namespace quantd {
namespace {

constexpr char kService[] = "/quantd.v1.QuantizationService/";
constexpr int kMaxMessageBytes = 64 << 20;
// Measured: with the BDP probe off, this window moves frames of 1 MiB fastest over loopback.
constexpr int kLookaheadBytes = 256 << 10;
constexpr size_t kPlansInFlight = 64;
// gRPC's own is 1 s, in which every attempt fails, also where the server is long back.
constexpr int kFirstReconnectMs = 100;

std::string MethodName(absl::string_view name) { return absl::StrCat(kService, name); }

// Makes one unary call over the generated stub.
template <typename Request, typename Response>
absl::StatusOr<Response> UnaryCall(const std::shared_ptr<grpc::Channel>& channel,
                                   grpc::Status (v1::QuantizationService::Stub::*method)(
                                       grpc::ClientContext*, const Request&, Response*),
                                   const Request& request, const CallOptions& options) {
  v1::QuantizationService::Stub stub(channel);
  grpc::ClientContext context;
  SetDeadline(options.deadline, context);
  Response response;
  QUANTD_RETURN_IF_ERROR(FromGrpc((stub.*method)(&context, request, &response)));
  return response;
}

// Plan calls that are on the way. Thread-compatible.
struct PlanCall {
  grpc::ClientContext context;
  v1::PlanRequest request;
  v1::PlanResponse response;
  absl::Status status;
};

// Sends one tensor up a Calibrate stream and returns the answer.
absl::StatusOr<CalibrationInfo> CalibrateOnce(const std::shared_ptr<grpc::Channel>& channel,
                                              const v1::CalibrateRequest& start, ByteSource& source,
                                              const CallOptions& options) {
  SliceLease lease;  // outlives the stream, which may hold slices
  ByteStream stream(channel, MethodName("Calibrate"), options.deadline);
  PlaneSender sender("", &source, &lease);
  FrameSize frame_size(options.chunk_bytes);
  absl::Status written = stream.Write(SerializeFrame(start));
  while (written.ok()) {
    QUANTD_ASSIGN_OR_RETURN(std::optional<grpc::ByteBuffer> frame,
                            sender.Next(kCalibrateFrame, 0, frame_size, options.checksums,
                                        /*region=*/nullptr));
    if (!frame.has_value()) break;
    written = stream.Write(std::move(*frame));
  }
  v1::CalibrateRequest end;
  end.mutable_end();
  if (written.ok()) stream.Write(SerializeFrame(end)).IgnoreError();  // Read tells why not
  stream.WritesDone();
  QUANTD_ASSIGN_OR_RETURN(std::optional<grpc::ByteBuffer> message, stream.Read());
  grpc::Slice bytes;
  v1::CalibrateResponse response;
  if (!message.has_value() || !message->DumpToSingleSlice(&bytes).ok() ||
      !response.ParseFromArray(bytes.begin(), static_cast<int>(bytes.size()))) {
    return absl::DataLossError("the server's answer cannot be read");
  }
  CalibrationInfo info;
  info.resolved_spec = response.resolved_spec();
  QUANTD_ASSIGN_OR_RETURN(info.ranges, FromProto(response.ranges()));
  QUANTD_ASSIGN_OR_RETURN(info.state, FromProto(response.state()));
  return info;
}

// Runs one call for each job and returns the results in order.
template <typename Call, typename Info>
std::vector<absl::StatusOr<Info>> RunJobs(const Route& route, const std::string& method,
                                          std::deque<Call>& calls,
                                          const std::vector<absl::Status>& refused,
                                          const CallOptions& options) {
  std::vector<TensorCall*> pointers;
  for (size_t i = 0; i < calls.size(); ++i) {
    if (refused[i].ok()) pointers.push_back(&calls[i]);
  }
  if (!pointers.empty()) RunCalls(route, method, pointers, options);
  std::vector<absl::StatusOr<Info>> results;
  for (size_t i = 0; i < calls.size(); ++i) {
    if (refused[i].ok()) {
      results.push_back(calls[i].Result());
    } else {
      results.push_back(refused[i]);
    }
  }
  return results;
}

}  // namespace

grpc::ChannelArguments ClientChannelArguments() {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kFirstReconnectMs);
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

std::vector<absl::StatusOr<TensorPlan>> Client::PlanMany(std::span<const TensorDesc> tensors,
                                                         const QuantSpec& spec,
                                                         const CallOptions& options) const {
  v1::QuantizationService::Stub stub(channel_);
  Mutex mutex;
  size_t running = 0, finished = 0;
  std::deque<PlanCall> calls(tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    PlanCall& call = calls[i];
    SetDeadline(options.deadline, call.context);
    *call.request.mutable_tensor() = ToProto(tensors[i]);
    *call.request.mutable_spec() = ToProto(spec);
    {
      const auto has_room = [&running] { return running < kPlansInFlight; };
      MutexLock lock(&mutex, absl::Condition(&has_room));
      ++running;
    }
    stub.async()->Plan(&call.context, &call.request, &call.response, [&, i](grpc::Status status) {
      MutexLock lock(&mutex);
      calls[i].status = FromGrpc(status);
      --running;
      ++finished;
    });
  }
  const auto all_finished = [&] { return finished == tensors.size(); };
  mutex.LockWhen(absl::Condition(&all_finished));
  mutex.Unlock();
  std::vector<absl::StatusOr<TensorPlan>> plans;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (calls[i].status.ok()) {
      plans.push_back(ReadPlan(calls[i].response.plan(), tensors[i]));
    } else {
      plans.push_back(calls[i].status);
    }
  }
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
  const CallOptions stream_options = OptionsFor(options);
  std::vector<absl::Status> refused(jobs.size());
  std::deque<QuantizeCall> calls;
  for (size_t i = 0; i < jobs.size(); ++i) {
    if (!jobs[i].plan.has_value()) {
      absl::StatusOr<TensorPlan> plan = Plan(jobs[i].tensor, jobs[i].spec, options);
      refused[i] = plan.status();
      if (plan.ok()) jobs[i].plan = *std::move(plan);
    }
    calls.emplace_back(
        std::move(jobs[i]), stream_options,
        [this, &options](const QuantizeJob& job) -> absl::StatusOr<CalibratedRanges> {
          QUANTD_ASSIGN_OR_RETURN(CalibrationInfo info,
                                  Calibrate(job.tensor, job.spec, *job.source, {}, options));
          return std::move(info.ranges);
        });
  }
  return RunJobs<QuantizeCall, QuantizedInfo>(route(), MethodName("StreamingQuantize"), calls,
                                              refused, options);
}

absl::StatusOr<DequantizedInfo> Client::Dequantize(DequantizeJob job,
                                                   const CallOptions& options) const {
  std::vector<DequantizeJob> jobs;
  jobs.push_back(std::move(job));
  return DequantizeMany(std::move(jobs), options).front();
}

std::vector<absl::StatusOr<DequantizedInfo>> Client::DequantizeMany(
    std::vector<DequantizeJob> jobs, const CallOptions& options) const {
  std::vector<absl::Status> refused(jobs.size());
  std::deque<DequantizeCall> calls;
  for (size_t i = 0; i < jobs.size(); ++i) {
    if (jobs[i].planes.empty()) refused[i] = absl::InvalidArgumentError("no planes are given");
    calls.emplace_back(std::move(jobs[i]), OptionsFor(options));
  }
  return RunJobs<DequantizeCall, DequantizedInfo>(route(), MethodName("StreamingDequantize"), calls,
                                                  refused, options);
}

absl::StatusOr<CalibrationInfo> Client::Calibrate(const TensorDesc& tensor, const QuantSpec& spec,
                                                  ByteSource& source,
                                                  const CalibrationOptions& calibration,
                                                  const CallOptions& options) const {
  v1::CalibrateRequest request;
  v1::CalibrateStart& start = *request.mutable_start();
  *start.mutable_tensor() = ToProto(tensor);
  *start.mutable_spec() = ToProto(spec);
  start.set_histogram(calibration.histogram);
  start.set_column_moments(calibration.column_moments);
  start.set_gram(calibration.gram);
  absl::Duration backoff = options.first_backoff;
  for (int attempt = 1;; ++attempt, backoff *= 2) {
    absl::StatusOr<CalibrationInfo> info = CalibrateOnce(channel_, request, source, options);
    if (!absl::IsUnavailable(info.status()) || attempt >= options.max_attempts ||
        absl::Now() + backoff >= options.deadline || !source.Rewind().ok()) {
      return info;
    }
    absl::SleepFor(backoff);
  }
}

absl::StatusOr<std::vector<v1::SchemeDescription>> Client::ListSchemes(
    const CallOptions& options) const {
  std::vector<v1::SchemeDescription> schemes;
  v1::ListSchemesRequest request;
  do {
    QUANTD_ASSIGN_OR_RETURN(
        v1::ListSchemesResponse page,
        UnaryCall(channel_, &v1::QuantizationService::Stub::ListSchemes, request, options));
    if (page.schemes().empty()) break;
    schemes.insert(schemes.end(), page.schemes().begin(), page.schemes().end());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return schemes;
}

absl::StatusOr<v1::GetServerInfoResponse> Client::GetServerInfo(const CallOptions& options) const {
  return UnaryCall(channel_, &v1::QuantizationService::Stub::GetServerInfo,
                   v1::GetServerInfoRequest(), options);
}

absl::Status Client::CheckHealth(absl::string_view service, const CallOptions& options) const {
  // grpc.health.v1: HealthCheckRequest { string service = 1; }
  // HealthCheckResponse { ServingStatus status = 1; }, 1 is SERVING. gRPC's packages have no
  // header.
  constexpr char kServiceTag = 0x0A, kStatusTag = 0x08, kServing = 1;
  if (service.size() > 127) return absl::InvalidArgumentError("service name over 127 bytes");
  std::string text;
  if (!service.empty()) {
    text = absl::StrCat(std::string({kServiceTag, static_cast<char>(service.size())}), service);
  }
  const grpc::Slice slice(text);
  const grpc::ByteBuffer request(&slice, 1);
  grpc::ByteBuffer response;
  grpc::ClientContext context;
  SetDeadline(options.deadline, context);
  Mutex mutex;
  bool done = false;
  absl::Status status;
  grpc::GenericStub(channel_).UnaryCall(&context, "/grpc.health.v1.Health/Check", {}, &request,
                                        &response, [&](grpc::Status result) {
                                          MutexLock lock(&mutex);
                                          status = FromGrpc(result);
                                          done = true;
                                        });
  mutex.LockWhen(absl::Condition(&done));
  mutex.Unlock();
  QUANTD_RETURN_IF_ERROR(status);
  grpc::Slice answer;
  if (!response.DumpToSingleSlice(&answer).ok()) return absl::DataLossError("unreadable answer");
  const std::string expected = {kStatusTag, kServing};
  if (std::string(answer.begin(), answer.end()) != expected) {
    return absl::FailedPreconditionError("the server says that it does not serve");
  }
  return absl::OkStatus();
}

}  // namespace quantd
