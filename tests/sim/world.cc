#include "tests/sim/world.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/base/crc32c.h"
#include "core/session/quantize_session.h"
#include "proto/convert.h"
#include "quantd/v1/quantization.pb.h"
#include "server/admit/caller_accounts.h"
#include "server/admit/idle_watch.h"
#include "server/calls/streams.h"
#include "tests/support/values.h"

namespace quantd::sim {
namespace {

using testing::MakeTensor;
using testing::MakeValues;
using testing::ValueKind;

constexpr absl::Duration kIdleTimeout = absl::Seconds(60);

absl::Time clock_now = absl::UnixEpoch();  // simulated; one world runs at a time

struct Shape2 {
  std::vector<int64_t> dims;
  const char* spec;
};
// Of one stripe and of several, of all passes.
const Shape2 kShapes[] = {
    {{3, 7}, "int8:axis=0"},          {{0, 5}, "int8:axis=0"},     {{700, 300}, "int8:axis=0"},
    {{150'000}, "int8"},              {{500, 400}, "uint4:group=8"}, {{2, 100'000}, "int8:axis=0"},
    {{300, 512}, "q8_0"},             {{90'000}, "fp16"},          {{66'000}, "int8:scale=0.01"},
    {{40, 1001}, "fbgemm_rowwise8"},
};

SimTensor MakeSimTensor(uint64_t id, size_t shape) {
  // The expected bytes are made once.
  struct Known {
    std::vector<std::byte> values, codes;
    std::string digest;
  };
  static std::vector<std::optional<Known>> known(std::size(kShapes));
  SimTensor sim;
  sim.id = id;
  sim.tensor = MakeTensor(absl::StrCat("t", id), DType::kF32, kShapes[shape].dims);
  sim.spec = kShapes[shape].spec;
  std::optional<Known>& made = known[shape];
  if (!made.has_value()) {
    testing::Bench bench;
    made.emplace();
    made->values = MakeValues(sim.tensor, ValueKind::kNormal, static_cast<uint32_t>(shape));
    const QuantizedTensor whole =
        *QuantizeAll(*ParseSpec(sim.spec), sim.tensor, made->values, {}, bench.context());
    made->codes = whole.planes[0];
    made->digest = whole.report.digests[0];
  }
  sim.values = made->values;
  sim.codes = made->codes;
  sim.digest = made->digest;
  return sim;
}

}  // namespace

void SimExecutor::RunOne() {
  const auto i = static_cast<size_t>(dice_.Below(std::ssize(tasks_)));
  std::function<void()> task = std::move(tasks_[i]);
  tasks_.erase(tasks_.begin() + static_cast<ptrdiff_t>(i));
  task();
}

SimCall::SimCall(Dice& dice, ServiceContext& context, const std::string& caller, SimFaults faults,
                 std::vector<SimTensor> tensors)
    : dice_(dice),
      context_(context),
      caller_(caller),
      faults_(faults),
      tensors_(std::move(tensors)),
      steps_to_fault_(dice.Below(40)) {
  MakeRequests();
}

// The frames of all tensors, interleaved.
void SimCall::MakeRequests() {
  std::vector<std::vector<grpc::ByteBuffer>> queues;
  for (SimTensor& tensor : tensors_) {
    std::vector<grpc::ByteBuffer>& frames = queues.emplace_back();
    v1::StreamingQuantizeRequest start;
    start.set_tensor_id(tensor.id);
    *start.mutable_start()->mutable_tensor() = ToProto(tensor.tensor);
    *start.mutable_start()->mutable_spec() = ToProto(*ParseSpec(tensor.spec));
    if (dice_.OneIn(3)) start.mutable_start()->set_max_chunk_bytes(1024 << dice_.Below(8));
    frames.push_back(SerializeFrame(start));
    for (size_t at = 0; at < tensor.values.size();) {
      const auto left = static_cast<int64_t>(tensor.values.size() - at);
      const int64_t most = dice_.OneIn(4) ? 5'000 : 300'000;
      const auto size = static_cast<size_t>(std::min(left, 1 + dice_.Below(most)));
      const auto part = std::span(tensor.values).subspan(at, size);
      uint32_t crc32c = Crc32c(part);
      if (faults_.damages && dice_.OneIn(4)) crc32c ^= 1;
      frames.push_back(BuildChunkFrame(kRequestFrame, tensor.id, "", static_cast<int64_t>(at),
                                       crc32c, grpc::Slice(part.data(), part.size())));
      at += size;
    }
    v1::StreamingQuantizeRequest end;
    end.set_tensor_id(tensor.id);
    end.mutable_end();
    frames.push_back(SerializeFrame(end));
    std::reverse(frames.begin(), frames.end());  // to be taken from the back
  }
  size_t current = 0;
  while (!queues.empty()) {
    if (dice_.OneIn(4)) current = static_cast<size_t>(dice_.Below(std::ssize(queues)));
    current %= queues.size();
    requests_.push_back(std::move(queues[current].back()));
    queues[current].pop_back();
    if (queues[current].empty()) queues.erase(queues.begin() + static_cast<ptrdiff_t>(current));
  }
  if (faults_.hangs_up) {
    requests_.resize(static_cast<size_t>(dice_.Below(std::ssize(requests_)) + 1));
  }
}

void SimCall::Begin(const MakeHandler& make_handler) {
  absl::StatusOr<CallerAccounts::Stream> stream =
      context_.accounts->OpenStream({.name = caller_});
  absl::StatusOr<MemoryBudget::Reservation> base =
      context_.waiting_room->Reserve(int64_t{512} << 10, "a stream");
  if (!stream.ok() || !base.ok()) {
    finished_ = stream.ok() ? base.status() : stream.status();
    over_ = true;
    return;
  }
  CallFacts facts;
  facts.rpc = "StreamingQuantize";
  facts.caller = caller_;
  if (dice_.OneIn(4)) facts.deadline = clock_now + absl::Milliseconds(dice_.Below(5'000));
  call_ = std::make_shared<Call>(context_, *this, std::move(facts), *std::move(stream),
                                 *std::move(base), nullptr);
  call_->Run(make_handler);
}

// --- The port ---

void SimCall::Read(grpc::ByteBuffer* frame) {
  if (finished_.has_value()) fault_ = "a read after the end";
  if (reading_ != nullptr) fault_ = "two reads at once";
  reading_ = frame;
}

void SimCall::Write(const grpc::ByteBuffer* frame, bool) {
  if (finished_.has_value()) fault_ = "a write after the end";
  if (writing_ != nullptr) fault_ = "two writes at once";
  writing_ = frame;
}

void SimCall::Finish(const absl::Status& status, const CallTrailers&) {
  if (finished_.has_value()) fault_ = "a second end";
  finished_ = status;
}

void SimCall::Cancel() { broken_ = true; }

// --- What can happen ---

void SimCall::AddActions(std::vector<std::function<void()>>& actions) {
  if (over_) return;
  if (faults_.any() && !broken_ && !silent_ && steps_to_fault_-- == 0) {
    if (faults_.cancels) broken_ = true;
    if (faults_.falls_silent) silent_ = true;
  }
  if (broken_) {
    actions.push_back([this] { BreakOff(); });
    return;
  }
  if (finished_.has_value()) {
    // A read that is under way ends with the call.
    actions.push_back([this] {
      if (std::exchange(reading_, nullptr) != nullptr) {
        call_->OnRead(Call::ReadResult::kBroken);
      } else if (writing_ != nullptr) {
        TakeFrame();
      } else {
        over_ = true;
        std::exchange(call_, nullptr)->OnDone();
      }
    });
    return;
  }
  if (silent_) return;
  if (reading_ != nullptr && !half_closed_) actions.push_back([this] { GiveFrame(); });
  if (writing_ != nullptr) actions.push_back([this] { TakeFrame(); });
}

// The order in which gRPC tells of a call that is cancelled.
void SimCall::BreakOff() {
  if (!std::exchange(told_broken_, true)) {
    call_->OnCancelled();
  } else if (std::exchange(reading_, nullptr) != nullptr) {
    call_->OnRead(Call::ReadResult::kBroken);
  } else if (std::exchange(writing_, nullptr) != nullptr) {
    call_->OnWritten(false);
  } else if (finished_.has_value()) {
    over_ = true;
    std::exchange(call_, nullptr)->OnDone();
  }
}

void SimCall::GiveFrame() {
  grpc::ByteBuffer* const frame = std::exchange(reading_, nullptr);
  if (sent_ == requests_.size()) {
    half_closed_ = true;
    call_->OnRead(Call::ReadResult::kHalfClose);
    return;
  }
  frame->Swap(&requests_[sent_++]);
  call_->OnRead(Call::ReadResult::kFrame);
}

void SimCall::TakeFrame() {
  Take(*std::exchange(writing_, nullptr));
  call_->OnWritten(true);
}

void SimCall::Take(const grpc::ByteBuffer& buffer) {
  const absl::StatusOr<ParsedFrame> frame = ParseFrame(buffer, kResponseFrame);
  if (!frame.ok()) {
    fault_ = "a response cannot be read";
    return;
  }
  for (SimTensor& tensor : tensors_) {
    if (tensor.id != frame->tensor_id) continue;
    if (tensor.done || tensor.failed) {
      // After an error, what the tensor had queued before it is all that may come.
      v1::TensorError error;
      fault_ = absl::StrCat("tensor ", tensor.id, " goes on after its end",
                            error.ParseFromString(frame->message) ? ": " + error.message() : "");
    }
    switch (frame->kind) {
      case FrameKind::kStart:
        tensor.started = true;
        break;
      case FrameKind::kChunk: {
        if (!frame->plane.empty() && frame->plane != "codes" && frame->plane != "blocks" &&
            frame->plane != "rows") {
          break;  // parameters
        }
        uint32_t crc32c = 0;
        if (frame->offset != std::ssize(tensor.received)) fault_ = "a gap in the codes";
        for (const auto part : frame->data) {
          crc32c = Crc32c(part, crc32c);
          tensor.received.insert(tensor.received.end(), part.begin(), part.end());
        }
        if (frame->crc32c != crc32c) fault_ = "a wrong checksum";
        break;
      }
      case FrameKind::kEnd: {
        v1::QuantizeFinished end;
        if (!end.ParseFromString(frame->message)) fault_ = "an end that cannot be read";
        tensor.done = true;
        bool same = false;
        for (const auto& [plane, digest] : end.report().digests()) {
          same = same || digest == tensor.digest;
        }
        if (!same || tensor.received != tensor.codes) {
          fault_ = absl::StrCat("tensor ", tensor.id, " (", tensor.spec, ") has other bytes");
        }
        break;
      }
      case FrameKind::kError:
        tensor.failed = true;
        break;
      case FrameKind::kNone:
      case FrameKind::kReleased:
        fault_ = "a frame that nobody asked for";
        break;
    }
    return;
  }
  fault_ = "a response for a tensor that is not there";
}

std::string SimCall::Fault() const {
  if (!fault_.empty()) return fault_;
  if (!over_) return "the call has not ended";
  const absl::Status& status = *finished_;
  if (status.ok()) {
    for (const SimTensor& tensor : tensors_) {
      if (!tensor.done && !tensor.failed && !faults_.hangs_up) {
        return absl::StrCat("all is well, but nothing is known of tensor ", tensor.id);
      }
    }
  }
  if (faults_.any()) return "";
  // Without faults of the peer's only memory can be short.
  const bool clean = status.ok() || absl::IsResourceExhausted(status);
  return clean ? "" : absl::StrCat("it ended with ", status.ToString());
}

void SimCall::AddTo(Outcome& outcome) const {
  for (const SimTensor& tensor : tensors_) {
    outcome.done += tensor.done ? 1 : 0;
    outcome.failed += tensor.failed ? 1 : 0;
  }
  outcome.broken += finished_.has_value() && !finished_->ok() ? 1 : 0;
}

Outcome Run(uint64_t seed) {
  Dice dice(seed);
  clock_now = absl::UnixEpoch();
  SimExecutor executor(dice);
  MemoryBudget budget(int64_t{4} << (20 + dice.Below(5)));
  MemoryBudget waiting_room(budget.limit_bytes() / 4, &budget);
  CallerAccounts accounts(budget, {.max_streams = 4,
                                   .max_memory_bytes = budget.limit_bytes() / 4 * 3});
  IdleWatch idle_watch(kIdleTimeout);
  Admission admission(budget, {.max_waiting = 8, .headroom_bytes = budget.limit_bytes() / 16},
                      [&](std::function<void()> task) { executor.Submit(std::move(task)); });
  budget.SetReleaseListener([&] { admission.Pump(); });
  Outcome outcome;
  admission.SetListener([&] { ++outcome.waited; });
  std::string& fault = outcome.fault;
  {
    ServiceContext context;
    context.shared_pool = std::make_shared<BufferPool>(size_t{1} << 20);
    context.session = {&executor, context.shared_pool.get(), &budget};
    context.limits = {.max_message_bytes = int64_t{8} << 20,
                      .max_unary_bytes = int64_t{4} << 20,
                      .session_budget_bytes = budget.limit_bytes() / 4,
                      .max_queued_bytes = int64_t{1} << (12 + dice.Below(9)),
                      .frame_bytes = int64_t{128} << 10,
                      .max_open_tensors = 3};
    context.small_calls = &executor;
    context.admission = &admission;
    context.accounts = &accounts;
    context.waiting_room = &waiting_room;
    context.idle_watch = &idle_watch;
    context.worker_threads = 2;
    context.now = [] { return clock_now; };

    std::vector<std::unique_ptr<SimCall>> calls;
    const int64_t num_calls = 1 + dice.Below(4);
    for (int64_t i = 0; i < num_calls; ++i) {
      SimFaults faults;
      switch (dice.Below(8)) {
        case 0: faults.cancels = true; break;
        case 1: faults.damages = true; break;
        case 2: faults.hangs_up = true; break;
        case 3: faults.falls_silent = true; break;
        default: break;
      }
      std::vector<SimTensor> tensors;
      const int64_t num_tensors = 1 + dice.Below(3);
      for (int64_t t = 0; t < num_tensors; ++t) {
        tensors.push_back(MakeSimTensor(static_cast<uint64_t>(t + 1),
                                        static_cast<size_t>(dice.Below(std::ssize(kShapes)))));
      }
      calls.push_back(std::make_unique<SimCall>(dice, context, absl::StrCat("caller", i % 2),
                                                faults, std::move(tensors)));
    }
    // Others hold memory for a while.
    std::optional<MemoryBudget::Reservation> others;
    if (dice.OneIn(2)) {
      auto held = budget.Reserve(budget.limit_bytes() / 8 * (1 + dice.Below(7)), "others");
      if (held.ok()) others = *std::move(held);
    }
    size_t begun = 0;
    constexpr int kMaxSteps = 200'000;
    for (int step = 0; step < kMaxSteps && fault.empty(); ++step) {
      std::vector<std::function<void()>> actions;
      if (begun < calls.size()) {
        actions.push_back([&] {
          calls[begun++]->Begin([](CallContext& call, FrameOutbox& outbox,
                                   const CancelToken& cancel) {
            return MakeQuantizeStream(call, outbox, cancel);
          });
        });
      }
      for (size_t i = 0; i < begun; ++i) calls[i]->AddActions(actions);
      if (!executor.empty()) actions.push_back([&] { executor.RunOne(); });
      if (others.has_value() && dice.OneIn(20)) actions.push_back([&] { others.reset(); });
      if (actions.empty()) {
        if (others.has_value()) {
          others.reset();
          continue;
        }
        bool over = begun == calls.size();
        for (const auto& call : calls) over = over && call->over();
        if (over) break;
        // Nothing happens any more but that time passes: who waits is refused, who is silent ended.
        if (clock_now > absl::UnixEpoch() + absl::Hours(1)) {
          fault = "stands still";
          break;
        }
        clock_now += absl::Seconds(10);
        admission.Expire(clock_now);
        idle_watch.Look();
        continue;
      }
      if (dice.OneIn(50)) clock_now += absl::Milliseconds(dice.Below(100));
      actions[static_cast<size_t>(dice.Below(std::ssize(actions)))]();
      if (step == kMaxSteps - 1) fault = "does not end";
    }
    for (size_t i = 0; i < calls.size() && fault.empty(); ++i) {
      const std::string wrong = calls[i]->Fault();
      if (!wrong.empty()) fault = absl::StrCat("call ", i, ": ", wrong);
    }
    for (const auto& call : calls) call->AddTo(outcome);
    calls.clear();
    while (!executor.empty()) executor.RunOne();
  }
  if (fault.empty() && budget.used_bytes() != 0) {
    fault = absl::StrCat(budget.used_bytes(), " bytes of memory are still held");
  }
  return outcome;
}

}  // namespace quantd::sim
