#include "tests/sim/sim_call.h"

#include <grpcpp/support/slice.h>

#include <algorithm>
#include <deque>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/frame_codec.h"
#include "server/calls/methods.h"

namespace quantd::sim {
namespace {

struct Method {
  const char* name;
  CallKind kind;
  MakeHandler make;
};

Method MethodOf(Rpc rpc) {
  switch (rpc) {
    case Rpc::kQuantize:
      return {"StreamingQuantize", CallKind::kStream, &MakeQuantizeStream};
    case Rpc::kDequantize:
      return {"StreamingDequantize", CallKind::kStream, &MakeDequantizeStream};
    case Rpc::kCalibrate:
      return {"Calibrate", CallKind::kStream, &MakeCalibrateStream};
    case Rpc::kUnaryQuantize:
      break;
  }
  return {"Quantize", CallKind::kUnary, &MakeQuantize};
}

}  // namespace

SimCall::SimCall(Dice& dice, ServiceContext& context, Rpc rpc, std::string caller,
                 SimFaults faults, std::vector<SimTensor> tensors, bool by_client)
    : dice_(dice),
      context_(context),
      rpc_(rpc),
      caller_(std::move(caller)),
      faults_(faults),
      tensors_(std::move(tensors)),
      steps_to_fault_(dice.Below(40)) {
  if (by_client && rpc != Rpc::kUnaryQuantize) {
    const ClientFaults client_faults{faults.damages, faults.hangs_up, faults.garbles};
    client_ = std::make_unique<SimClient>(dice, rpc, client_faults, tensors_);
  } else {
    MakeRequests();
  }
}

// The frames of all tensors, interleaved.
void SimCall::MakeRequests() {
  std::vector<std::vector<grpc::ByteBuffer>> queues;
  for (const SimTensor& tensor : tensors_) {
    queues.push_back(tensor.Frames(dice_, faults_.damages));
    std::reverse(queues.back().begin(), queues.back().end());  // to be taken from the back
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
    requests_.resize(static_cast<size_t>(dice_.Below(std::ssize(requests_))));
  }
  together_ = rpc_ != Rpc::kCalibrate && rpc_ != Rpc::kUnaryQuantize && dice_.OneIn(2);
  if (together_) JoinRequests();
  if (faults_.garbles) {
    for (int64_t i = 1 + dice_.Below(3); i > 0 && !requests_.empty(); --i) Garble();
  }
}

// Puts frames that follow each other into one message, here and there.
void SimCall::JoinRequests() {
  std::vector<grpc::ByteBuffer> frames;
  std::swap(frames, requests_);
  std::deque<grpc::ByteBuffer> together;
  for (grpc::ByteBuffer& frame : frames) {
    together.push_back(std::move(frame));
    if (&frame != &frames.back() && !dice_.OneIn(4)) continue;
    while (!together.empty()) {
      requests_.push_back(TakeTogether(together, kRequestFrame.frames).message);
    }
  }
}

void SimCall::Garble() {
  const int64_t i = dice_.Below(std::ssize(requests_));
  const auto chosen = requests_.begin() + i;
  switch (dice_.Below(5)) {
    case 0:
      requests_.erase(chosen);
      return;
    case 1:
      requests_.insert(chosen, grpc::ByteBuffer(*chosen));
      return;
    case 2: {
      const int64_t other = dice_.Below(std::ssize(requests_));
      // A grpc::ByteBuffer that is assigned to itself loses what it held.
      if (other != i) std::swap(*chosen, requests_[static_cast<size_t>(other)]);
      return;
    }
    case 3: {
      std::string bytes = BytesOf(*chosen);
      bytes.resize(static_cast<size_t>(dice_.Below(std::ssize(bytes) + 1)));
      const grpc::Slice slice(bytes);
      *chosen = grpc::ByteBuffer(&slice, 1);
      return;
    }
    case 4:
      *chosen = Garbled(dice_, *chosen);
      return;
  }
}

void SimCall::Begin() {
  silent_ = faults_.says_nothing;
  const Method method = MethodOf(rpc_);
  CallFacts facts;
  facts.kind = method.kind;
  facts.rpc = method.name;
  facts.caller = caller_;
  if (dice_.OneIn(4)) facts.deadline = context_.now() + absl::Milliseconds(dice_.Below(5'000));
  absl::StatusOr<std::shared_ptr<Call>> call =
      Call::Open(context_, *this, {.name = caller_}, std::move(facts), nullptr);
  if (client_ != nullptr) client_->Begin();
  if (!call.ok()) {
    finished_ = call.status();
    return EndAtPeer();
  }
  call_ = *std::move(call);
  call_->Run(method.make);
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

void SimCall::Finish(const absl::Status& status, const CallTrailers&,
                     const grpc::ByteBuffer* last) {
  if (finished_.has_value()) fault_ = "a second end";
  finished_ = status;
  last_ = last;
}

// --- What can happen ---

void SimCall::AddActions(std::vector<std::function<void()>>& actions) {
  if (client_ != nullptr && (!silent_ || over_)) client_->AddActions(actions);
  if (over_) return;
  if (client_ != nullptr && client_->cancelled()) broken_ = true;
  if (faults_.any() && !broken_ && !silent_ && steps_to_fault_-- == 0) {
    if (faults_.cancels) broken_ = true;
    if (faults_.falls_silent) silent_ = true;
  }
  if (broken_) {
    actions.push_back([this] { BreakOff(); });
    return;
  }
  if (finished_.has_value()) {
    if (silent_ && last_ != nullptr) return;  // nobody takes the answer
    actions.push_back([this] { End(); });
    return;
  }
  if (silent_) return;
  const bool has_request = client_ == nullptr || client_->has_request();
  const bool has_room = client_ == nullptr || client_->has_room();
  if (reading_ != nullptr && !half_closed_ && has_request) {
    actions.push_back([this] { GiveFrame(); });
  }
  if (writing_ != nullptr && has_room) actions.push_back([this] { TakeFrame(); });
}

// What is under way ends first; a read ends with the call.
void SimCall::End() {
  if (std::exchange(reading_, nullptr) != nullptr) {
    call_->OnRead(Call::ReadResult::kBroken);
  } else if (writing_ != nullptr) {
    TakeFrame();
  } else {
    if (last_ != nullptr) {
      if (const std::string wrong = Take(*last_); !wrong.empty()) fault_ = wrong;
    }
    EndAtPeer();
  }
}

void SimCall::EndAtPeer() {
  over_ = true;
  if (call_ != nullptr) std::exchange(call_, nullptr)->OnDone();
  if (client_ == nullptr) return;
  // Who has cancelled, or whose connection is broken, does not hear what the server says.
  client_->End(broken_ ? absl::UnavailableError("the stream is broken") : *finished_, broken_);
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
    EndAtPeer();
  }
}

void SimCall::GiveFrame() {
  grpc::ByteBuffer* const frame = std::exchange(reading_, nullptr);
  std::optional<grpc::ByteBuffer> next;
  if (client_ != nullptr) {
    next = client_->NextRequest();
  } else if (sent_ < requests_.size()) {
    next = requests_[sent_++];
  }
  half_closed_ = !next.has_value();
  if (next.has_value()) frame->Swap(&*next);
  call_->OnRead(half_closed_ ? Call::ReadResult::kHalfClose : Call::ReadResult::kFrame);
}

void SimCall::TakeFrame() {
  if (const std::string wrong = Take(*std::exchange(writing_, nullptr)); !wrong.empty()) {
    fault_ = wrong;
  }
  call_->OnWritten(true);
}

std::string SimCall::Take(const grpc::ByteBuffer& buffer) {
  if (client_ != nullptr) {
    client_->Respond(buffer);
    return "";
  }
  if (rpc_ == Rpc::kCalibrate || rpc_ == Rpc::kUnaryQuantize) {
    return tensors_[0].TakeResponse(BytesOf(buffer));
  }
  const absl::StatusOr<ParsedFrame> frame = ParseFrame(buffer, kResponseFrame);
  if (!frame.ok()) return "a response cannot be read";
  for (const grpc::ByteBuffer& part : frame->frames) {
    if (const std::string wrong = Take(part); !wrong.empty()) return wrong;
  }
  if (!frame->frames.empty()) return together_ ? "" : "frames come together unasked";
  for (SimTensor& tensor : tensors_) {
    if (tensor.id() != frame->tensor_id) continue;
    const std::string wrong = tensor.Take(*frame);
    return wrong.empty() ? "" : absl::StrCat("tensor ", tensor.id(), ": ", wrong);
  }
  return faults_.garbles ? "" : "a response for a tensor that is not there";
}

std::string SimCall::Fault(bool may_fail) const {
  if (!fault_.empty()) return fault_;
  if (!over_) return "the call has not ended";
  if (client_ != nullptr) {
    return client_->Fault(may_fail || faults_.cancels || faults_.falls_silent);
  }
  if (finished_->ok() && !faults_.hangs_up && !faults_.garbles && !broken_) {
    for (const SimTensor& tensor : tensors_) {
      if (!tensor.over()) {
        return absl::StrCat("all is well, but nothing is known of tensor ", tensor.id());
      }
    }
  }
  const bool owes_answer = rpc_ == Rpc::kCalibrate || rpc_ == Rpc::kUnaryQuantize;
  if (owes_answer && finished_->ok() && !tensors_[0].done() && !broken_) {
    return "it ended with OK, without a response";  // which gRPC takes for a bug of ours
  }
  if (faults_.any() || may_fail) return "";
  // Without faults of the peer's only memory can be short.
  const bool clean = finished_->ok() || absl::IsResourceExhausted(*finished_) ||
                     // It would take two passes.
                     (rpc_ == Rpc::kUnaryQuantize && absl::IsFailedPrecondition(*finished_));
  return clean ? "" : absl::StrCat("it ended with ", finished_->ToString());
}

}  // namespace quantd::sim
