// Entries: the events, OnRead and its like, and the jobs, WriteStep and ReadStep. Tested by
// tests/client/exchange_test.cc, and by tests/sim with orders of events that no test of ours would
// think of.
#include "client/exchange.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/retry.h"
#include "core/base/status_macros.h"
#include "quantd/v1/quantization.pb.h"

namespace quantd {
namespace {

constexpr size_t kMaxReadAhead = 4;
// WriteStep waits while so much is queued: a large message stops it, many small ones do.
constexpr size_t kMaxQueuedBytes = size_t{64} << 10;
// A tensor up to here is sent at once: the server has room for it in any case.
constexpr int64_t kMaxUnaskedBytes = int64_t{64} << 10;
// What a message takes beside its bytes.
constexpr size_t kOverheadBytes = 512;

constexpr uint64_t kFirstId = 1;

// Returns what an error frame says.
absl::Status ErrorOf(const ParsedFrame& frame) {
  v1::TensorError error;
  if (!error.ParseFromString(frame.message) || error.code() == 0) {
    return absl::DataLossError("the server sent an error that cannot be read");
  }
  return StatusOf(error);
}

}  // namespace

TensorCall* CallQueue::Pop() {
  MutexLock lock(&mutex_);
  if (calls_.empty()) return nullptr;
  TensorCall* const call = calls_.front();
  calls_.pop_front();
  return call;
}

bool CallQueue::empty() {
  MutexLock lock(&mutex_);
  return calls_.empty();
}

Exchange::Exchange(const StreamMethod& method, StreamPort& port, CallQueue& queue,
                   std::unique_ptr<StreamRegion> region, const CallOptions& options)
    : method_(method),
      port_(port),
      queue_(queue),
      max_open_(static_cast<size_t>(std::max(1, options.tensors_in_flight))),
      region_(std::move(region)),
      frame_size_(options.chunk_bytes) {}

void Exchange::Run() {
  MutexLock lock(&mutex_);
  StartRead();
}

// --- Events ---

void Exchange::OnRead(bool ok) {
  MutexLock lock(&mutex_);
  reading_ = false;
  if (!ok) {
    state_ = State::kEnding;  // nothing that is still to be written would be answered
    return;
  }
  if (state_ == State::kCancelled) {
    incoming_.Clear();
  } else {
    inbox_.emplace_back().Swap(&incoming_);
  }
  StartRead();
}

void Exchange::OnWritten(bool ok) {
  MutexLock lock(&mutex_);
  writing_ = false;
  outgoing_.Clear();  // frees what the message refers to; a caller may wait for that
  if (!ok && (state_ == State::kOpen || state_ == State::kFlushing)) state_ = State::kReading;
  StartWrite();
}

void Exchange::OnEnded(const absl::Status& status) {
  MutexLock lock(&mutex_);
  state_ = State::kEnded;
  status_.Update(status);
}

// --- Actions ---

void Exchange::StartRead() {
  if (reading_ || state_ == State::kEnding || state_ == State::kEnded ||
      inbox_.size() >= kMaxReadAhead) {
    return;
  }
  reading_ = true;
  port_.Read(&incoming_);
}

void Exchange::StartWrite() {
  if (state_ != State::kOpen && state_ != State::kFlushing) {
    outbox_.clear();
    outbox_bytes_ = 0;
  }
  if (writing_) return;
  if (!outbox_.empty()) {
    Together next = TakeTogether(outbox_, method_.request.frames);
    outgoing_.Swap(&next.message);
    outbox_bytes_ -= next.frame_bytes + next.num_frames * kOverheadBytes;
    writing_ = true;
    port_.Write(&outgoing_);
  } else if (state_ == State::kFlushing) {
    state_ = State::kReading;
    port_.WritesDone();
  }
}

void Exchange::Break(const absl::Status& status) {
  MutexLock lock(&mutex_);
  status_ = status;
  inbox_.clear();
  FailOpenCalls();
  if (state_ == State::kEnding || state_ == State::kEnded) return;
  state_ = State::kCancelled;
  port_.Cancel();
  StartRead();
  StartWrite();  // drops what is queued
}

absl::Status Exchange::FailureOfCalls() const {
  return status_.ok() ? absl::UnavailableError("the server ended the stream early") : status_;
}

void Exchange::FailOpenCalls() {
  for (const auto& [tensor_id, call] : open_) call->Finish(FailureOfCalls());
  open_.clear();
}

// --- Writing ---

bool Exchange::MayWrite() const {
  if (state_ != State::kOpen) return true;
  // The half-close waits for nothing: some answers wait for it.
  if (writing_call_ == nullptr) return open_.size() < max_open_ || queue_.empty();
  if (awaits_start_ && !is_let_in_ && !writing_call_->failed()) return false;
  return outbox_bytes_ < kMaxQueuedBytes &&
         (!wants_slot_ || writing_call_->failed() || region_->has_input());
}

void Exchange::AwaitWrite() { MutexLock lock(&mutex_, absl::Condition(this, &Exchange::MayWrite)); }

Exchange::Step Exchange::WriteStep(absl::Time now) {
  RequestRoom room{frame_size_, now, region_.get(), {}};
  bool has_failed = false;
  {
    MutexLock lock(&mutex_);
    if (!MayWrite()) return Step::kWait;
    if (state_ != State::kOpen) return Step::kOver;
    if (writing_call_ == nullptr && (writing_call_ = queue_.Pop()) == nullptr) {
      state_ = State::kFlushing;
      StartWrite();
      return Step::kOver;
    }
    has_failed = writing_call_->failed();
    if (wants_slot_ && !has_failed) room.slot = region_->TakeInput();
  }
  return writing_id_ == 0 ? OpenCall() : WriteRequest(has_failed, room);
}

Exchange::Step Exchange::OpenCall() {
  absl::Status prepared = writing_call_->Prepare();
  MutexLock lock(&mutex_);
  if (state_ == State::kEnded) prepared.Update(FailureOfCalls());
  if (prepared.ok()) {
    writing_id_ = ++last_id_;
    open_[writing_id_] = writing_call_;
  } else {
    std::exchange(writing_call_, nullptr)->Finish(prepared);
  }
  return Step::kMore;
}

// A call that has failed is only closed: the server then gives up what it holds of it.
Exchange::Step Exchange::WriteRequest(bool has_failed, RequestRoom room) {
  grpc::ByteBuffer frame;
  const bool is_start = !writing_call_->start_sent();
  absl::StatusOr<bool> has_more = false;
  if (!has_failed) has_more = writing_call_->NextRequest(writing_id_, room, frame);
  const bool is_last = !has_more.ok() || !*has_more;
  if (is_last) frame = BuildEndFrame(method_.request, writing_id_);
  const size_t frame_bytes = frame.Length() + kOverheadBytes;
  MutexLock lock(&mutex_);
  if (!has_more.ok()) writing_call_->Finish(has_more.status());
  if (!room.slot.empty()) region_->ReleaseInput(room.slot);
  awaits_start_ = is_start && method_.response.has_value() &&
                  writing_call_->input_bytes() > kMaxUnaskedBytes;
  wants_slot_ = region_ != nullptr && !is_last && writing_call_->WantsSlot();
  if (is_last) {
    writing_call_ = nullptr;
    writing_id_ = 0;
  }
  outbox_.emplace_back().Swap(&frame);
  outbox_bytes_ += frame_bytes;
  StartWrite();
  return MayWrite() ? Step::kMore : Step::kWait;
}

// --- Reading ---

bool Exchange::MayRead() const { return !inbox_.empty() || state_ == State::kEnded; }

void Exchange::AwaitRead() { MutexLock lock(&mutex_, absl::Condition(this, &Exchange::MayRead)); }

Exchange::Step Exchange::ReadStep() {
  grpc::ByteBuffer message;
  {
    MutexLock lock(&mutex_);
    if (!MayRead()) return Step::kWait;
    if (inbox_.empty()) {
      FailOpenCalls();
      return Step::kOver;
    }
    message.Swap(&inbox_.front());
    inbox_.pop_front();
    StartRead();
  }
  const absl::Status status = TakeMessage(message);
  if (!status.ok()) Break(status);
  return Step::kMore;
}

absl::Status Exchange::TakeMessage(const grpc::ByteBuffer& message) {
  absl::StatusOr<ParsedFrame> frame = Parse(message);
  if (!frame.ok()) return absl::DataLossError(frame.status().message());
  if (frame->frames.empty()) return TakeResponse(*frame);
  if (frame->kind != FrameKind::kNone) {
    return absl::DataLossError("the server sent a frame beside those that it sent together");
  }
  for (const grpc::ByteBuffer& part : frame->frames) {
    absl::StatusOr<ParsedFrame> next = Parse(part);
    if (!next.ok()) return absl::DataLossError(next.status().message());
    if (!next->frames.empty()) {
      return absl::DataLossError("the server sent frames within frames");
    }
    QUANTD_RETURN_IF_ERROR(TakeResponse(*next));
  }
  return absl::OkStatus();
}

absl::StatusOr<ParsedFrame> Exchange::Parse(const grpc::ByteBuffer& message) const {
  if (method_.response.has_value()) return ParseFrame(message, *method_.response);
  ParsedFrame frame;
  grpc::Slice bytes;
  if (!message.DumpToSingleSlice(&bytes).ok()) {
    return absl::DataLossError("the server's answer cannot be read");
  }
  frame.tensor_id = kFirstId;
  frame.kind = FrameKind::kEnd;
  frame.message.assign(bytes.begin(), bytes.end());
  return frame;
}

// Does what there is to do for shared memory, and hands the frame on. Errors are those of the
// stream as a whole.
absl::Status Exchange::TakeResponse(ParsedFrame& frame) {
  if (frame.kind == FrameKind::kReleased) return TakeReleased(frame);
  if (!frame.shared.has_value()) return Dispatch(frame);
  if (region_ == nullptr) {
    return absl::DataLossError("the server put data into shared memory, where there is none");
  }
  QUANTD_ASSIGN_OR_RETURN(const std::span<const std::byte> bytes, region_->Output(*frame.shared));
  frame.data = {bytes};
  frame.data_bytes = bytes.size();
  const absl::Status status = Dispatch(frame);
  region_->ReleaseOutput(*frame.shared);
  return status;
}

absl::Status Exchange::TakeReleased(const ParsedFrame& frame) {
  v1::Released released;
  if (region_ == nullptr || !released.ParseFromString(frame.message)) {
    return absl::DataLossError("the server sent a frame that cannot be read");
  }
  MutexLock lock(&mutex_);
  for (const int64_t offset : released.offsets()) {
    QUANTD_RETURN_IF_ERROR(region_->ReleaseInput(offset));
  }
  return absl::OkStatus();
}

absl::Status Exchange::Dispatch(const ParsedFrame& frame) {
  TensorCall* call = nullptr;
  bool has_failed = false;
  {
    MutexLock lock(&mutex_);
    const auto found = open_.find(frame.tensor_id);
    if (found == open_.end()) {
      return absl::DataLossError(absl::StrCat("the server answered for tensor id ", frame.tensor_id,
                                              ", which is not open"));
    }
    call = found->second;
    has_failed = call->failed();
  }
  absl::Status status;
  if (frame.kind == FrameKind::kError) {
    status = ErrorOf(frame);
  } else if (!has_failed) {  // what still comes of one that failed on our side has no use
    status = call->TakeResponse(frame);
  }
  const bool is_last = frame.kind == FrameKind::kError || frame.kind == FrameKind::kEnd;
  if (status.ok() && !is_last && frame.kind != FrameKind::kStart) return absl::OkStatus();
  MutexLock lock(&mutex_);
  is_let_in_ = is_let_in_ || frame.kind != FrameKind::kError;
  if (status.ok() && !is_last) return absl::OkStatus();
  call->Finish(status);
  if (is_last) open_.erase(frame.tensor_id);
  return absl::OkStatus();
}

// --- What is left ---

absl::Status Exchange::Failure() {
  MutexLock lock(&mutex_);
  return FailureOfCalls();
}

std::unique_ptr<StreamRegion> Exchange::TakeRegion() {
  MutexLock lock(&mutex_);
  if (!status_.ok()) return nullptr;
  return std::move(region_);
}

}  // namespace quantd
