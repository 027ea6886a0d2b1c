#include "tests/sim/sim_client.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "client/byte_source.h"
#include "client/plane_sink.h"
#include "core/scheme/spec.h"
#include "proto/convert.h"
#include "quantd/v1/quantization.pb.h"

namespace quantd::sim {
namespace {

// Memory, which ends with an error if it shall.
class SimSource final : public ByteSource {
 public:
  SimSource(std::span<const std::byte> bytes, bool fails) : memory_(bytes), fails_(fails) {}
  int64_t size_bytes() const override { return memory_.size_bytes(); }
  absl::StatusOr<SourcePiece> Next(int64_t max_bytes) override {
    absl::StatusOr<SourcePiece> piece = memory_.Next(max_bytes);
    if (fails_ && piece->bytes.empty()) return absl::OutOfRangeError("the source goes on");
    return piece;
  }
  bool can_rewind() const override { return true; }
  absl::Status Rewind() override { return memory_.Rewind(); }

 private:
  MemorySource memory_;
  const bool fails_;
};

class FullSink final : public PlaneSink {
 public:
  absl::Status Begin(std::span<const PlaneDesc>) override { return absl::OkStatus(); }
  absl::Status Write(int, int64_t, std::span<const std::byte>) override {
    return absl::OutOfRangeError("the sink is full");
  }
};

}  // namespace

// A call, and what it works with.
struct SimClient::Tensor {
  SimTensor* sim;
  std::deque<SimSource> sources;
  MemorySink sink;
  FullSink full_sink;
  bool is_full = false;  // it has that one
  TensorPlan plan;
  QuantizedInfo quantized;
  DequantizedInfo dequantized;
  CalibrationInfo calibrated;
  std::unique_ptr<TensorCall> call;
};

SimClient::~SimClient() = default;

SimClient::SimClient(Dice& dice, Rpc rpc, ClientFaults faults, std::vector<SimTensor>& tensors)
    : dice_(dice), rpc_(rpc), faults_(faults) {
  CallOptions options;
  options.tensors_in_flight = static_cast<int>(1 + dice.Below(3));
  if (dice.OneIn(2)) options.chunk_bytes = 4096 << dice.Below(8);
  options.checksums = dice.OneIn(2) || faults.garbles;
  std::vector<TensorCall*> calls;
  for (SimTensor& sim : tensors) {
    tensors_.emplace_back().sim = &sim;
    MakeCall(tensors_.back(), options);
    calls.push_back(tensors_.back().call.get());
  }
  queue_ = std::make_unique<CallQueue>(calls);
  const StreamMethod& method = rpc == Rpc::kQuantize     ? kQuantizeStream
                               : rpc == Rpc::kDequantize ? kDequantizeStream
                                                         : kCalibrateStream;
  exchange_ = std::make_unique<quantd::Exchange>(method, *this, *queue_, nullptr, options);
}

void SimClient::MakeCall(Tensor& tensor, const CallOptions& options) {
  const Exchange& exchange = tensor.sim->exchange();
  for (const auto& [plane, bytes] : exchange.inputs) {
    tensor.sources.emplace_back(bytes, faults_.source && dice_.OneIn(2));
  }
  tensor.is_full = faults_.sink && dice_.OneIn(2);
  PlaneSink* const sink =
      tensor.is_full ? static_cast<PlaneSink*>(&tensor.full_sink) : &tensor.sink;
  const QuantSpec spec = *ParseSpec(exchange.spec);
  switch (rpc_) {
    case Rpc::kQuantize: {
      tensor.plan = *ReadPlan(exchange.plan, exchange.tensor);
      QuantizeJob job{exchange.tensor, spec, &tensor.sources[0], sink};
      job.plan = tensor.plan;
      tensor.call = MakeQuantizeCall(std::move(job), options, nullptr, tensor.quantized);
      return;
    }
    case Rpc::kDequantize: {
      DequantizeJob job{.tensor = exchange.tensor, .spec = spec, .sink = sink};
      for (size_t i = 0; i < exchange.inputs.size(); ++i) {
        job.planes.push_back({exchange.inputs[i].first, &tensor.sources[i]});
      }
      std::rotate(job.planes.begin(), job.planes.end() - 1, job.planes.end());  // codes first
      tensor.call = MakeDequantizeCall(std::move(job), options, tensor.dequantized);
      return;
    }
    case Rpc::kCalibrate:
    case Rpc::kUnaryQuantize:
      break;
  }
  tensor.call = MakeCalibrateCall(exchange.tensor, spec, tensor.sources[0], {}, options,
                                  tensor.calibrated);
}

// --- The port ---

void SimClient::Read(grpc::ByteBuffer* message) {
  if (told_read_) fault_ = "the client reads after the end";
  if (reading_ != nullptr) fault_ = "the client reads twice at once";
  reading_ = message;
}

void SimClient::Write(const grpc::ByteBuffer* message) {
  if (told_read_ || half_closed_) fault_ = "the client writes after the end";
  if (writing_ != nullptr) fault_ = "the client writes twice at once";
  writing_ = message;
}

void SimClient::WritesDone() {
  if (told_read_ || half_closed_ || writing_ != nullptr) fault_ = "the client half-closes too late";
  half_closed_ = true;
}

// --- The server's end of the wire ---

std::optional<grpc::ByteBuffer> SimClient::NextRequest() {
  if (to_server_.empty()) return std::nullopt;
  std::optional<grpc::ByteBuffer> request = to_server_.front();
  to_server_.pop_front();
  return request;
}

void SimClient::Respond(const grpc::ByteBuffer& response) {
  if (!faults_.garbles || !dice_.OneIn(4)) return to_client_.push_back(response);
  to_client_.push_back(Garbled(dice_, response));
}

void SimClient::End(const absl::Status& status, bool broken) {
  ended_ = status;
  if (broken && dice_.OneIn(2)) to_client_.clear();
}

// --- What can happen ---

void SimClient::AddActions(std::vector<std::function<void()>>& actions) {
  if (write_due_ && !wrote_all_) actions.push_back([this] { WriteStep(); });
  if (read_due_ && !read_all_) actions.push_back([this] { ReadStep(); });
  if (reading_ != nullptr && !to_client_.empty()) actions.push_back([this] { Deliver(); });
  if (writing_ != nullptr && to_server_.size() < kOnTheWay && !ended_.has_value()) {
    actions.push_back([this] {
      const std::string bytes = BytesOf(*std::exchange(writing_, nullptr));
      const grpc::Slice slice(bytes);  // a copy: nothing at the server holds what is the client's
      to_server_.emplace_back(&slice, 1);
      exchange_->OnWritten(true);
      Stir();
    });
  }
  const bool may_end = reading_ != nullptr || told_read_;
  if (ended_.has_value() && !told_end_ && to_client_.empty() && may_end) {
    actions.push_back([this] { NextOfEnd(); });
  }
}

void SimClient::WriteStep() {
  const quantd::Exchange::Step step = exchange_->WriteStep(absl::UnixEpoch());
  if (step == quantd::Exchange::Step::kWait) {
    write_due_ = false;
  } else {
    Stir();
  }
  wrote_all_ = step == quantd::Exchange::Step::kOver;
  if (over()) JudgeTensors();
}

void SimClient::ReadStep() {
  const quantd::Exchange::Step step = exchange_->ReadStep();
  if (step == quantd::Exchange::Step::kWait) {
    read_due_ = false;
  } else {
    Stir();
  }
  read_all_ = step == quantd::Exchange::Step::kOver;
  if (over()) JudgeTensors();
}

void SimClient::Deliver() {
  std::exchange(reading_, nullptr)->Swap(&to_client_.front());
  to_client_.pop_front();
  exchange_->OnRead(true);
  Stir();
}

// Reads and writes that are under way end, in any order, before the stream.
void SimClient::NextOfEnd() {
  if (writing_ != nullptr && (reading_ == nullptr || dice_.OneIn(2))) {
    writing_ = nullptr;
    exchange_->OnWritten(false);
  } else if (reading_ != nullptr) {
    reading_ = nullptr;
    told_read_ = true;
    exchange_->OnRead(false);
  } else {
    told_end_ = true;
    exchange_->OnEnded(*ended_);
  }
  Stir();
}

// --- What has come of it ---

// Both jobs are over: nothing changes any more.
void SimClient::JudgeTensors() {
  while (TensorCall* const call = queue_->Pop()) call->Finish(exchange_->Failure());
  for (Tensor& tensor : tensors_) {
    const absl::Status status = tensor.call->status();
    if (absl::IsInternal(status)) fault_ = "nothing has come of a tensor";
    if (status.ok() && !tensor.is_full) {  // one without bytes ends well there, too
      std::string wrong;
      if (rpc_ == Rpc::kQuantize) {
        wrong = tensor.sim->Compare(tensor.plan.planes, tensor.sink.planes());
      } else if (rpc_ == Rpc::kDequantize) {
        wrong = tensor.sim->Compare({{.name = "values"}}, tensor.sink.planes());
      } else if (!faults_.garbles) {
        v1::CalibrateResponse response;
        response.set_resolved_spec(tensor.calibrated.resolved_spec);
        *response.mutable_ranges() = ToProto(tensor.calibrated.ranges);
        *response.mutable_state() = ToProto(tensor.calibrated.state);
        wrong = tensor.sim->TakeResponse(response.SerializeAsString());
      }
      if (!wrong.empty()) fault_ = absl::StrCat("the client's ", wrong);
    }
    // What broke with its stream may be asked for again.
    if (status.ok() || !absl::IsUnavailable(status)) tensor.sim->Note(status.ok());
  }
}

std::string SimClient::Fault(bool may_fail) const {
  if (!fault_.empty()) return fault_;
  if (!over()) return "the client has not ended";
  for (const Tensor& tensor : tensors_) {
    const absl::Status status = tensor.call->status();
    // Memory can be short, and then too short for a tensor whose parameters depend on all of it.
    if (status.ok() || absl::IsResourceExhausted(status)) continue;
    if (absl::IsFailedPrecondition(status)) continue;
    const bool is_own = (faults_.source || faults_.sink) && absl::IsOutOfRange(status);
    if (faults_.garbles || is_own) continue;
    if (!may_fail || absl::IsDataLoss(status)) {
      return absl::StrCat("the client has ", status.ToString());
    }
  }
  return "";
}

}  // namespace quantd::sim
