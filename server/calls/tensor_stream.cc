// Entries: Accept, Work, Grant. Tested by tests/server/streaming_test.cc and, with memory that is
// short, tests/sim.
#include "server/calls/tensor_stream.h"

#include <iterator>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_detail.h"
#include "core/base/status_macros.h"
#include "quantd/v1/quantization.pb.h"
#include "server/admit/admission.h"
#include "server/calls/grpc_status.h"
#include "server/calls/requests.h"

namespace quantd {
namespace {

// Failed tensors whose `end` has not come yet; a peer that never sends it is stopped here.
constexpr size_t kMaxFailedTensors = 4096;

// Stripes that a turn does before it looks at other frames: what a chunk of 1 MiB has of f32.
constexpr int kStripesPerStep = 4;

// Returns a buffer that keeps no more than its own bytes.
grpc::ByteBuffer CopyOf(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  (void)buffer.Dump(&slices);  // fails for compressed ones alone, which are refused
  std::string bytes;
  for (const grpc::Slice& slice : slices) bytes.append(slice.begin(), slice.end());
  const grpc::Slice copy(bytes);
  return grpc::ByteBuffer(&copy, 1);
}

// The error frames of both streams have the same form.
grpc::ByteBuffer ErrorFrame(uint64_t tensor_id, const absl::Status& status) {
  v1::StreamingQuantizeResponse frame;
  frame.set_tensor_id(tensor_id);
  *frame.mutable_error() = ToTensorError(status);
  return SerializeFrame(frame);
}

}  // namespace

TensorStream::TensorStream(CallContext& context, FrameOutbox& outbox, const CancelToken& cancel,
                           TensorStreamKind kind)
    : context_(context),
      metrics_(context.service.metrics.rpc(kind.rpc)),
      outbox_(outbox),
      cancel_(cancel),
      kind_(std::move(kind)),
      event_(std::make_shared<std::atomic<bool>>(false)),
      wake_([event = event_, waker = outbox.Waker()] {
        event->store(true);
        waker();
      }),
      shared_chunks_(context.shared == nullptr || kind_.single
                         ? nullptr
                         : std::make_shared<SharedChunks>(context.shared, outbox)) {}

TensorStream::~TensorStream() {
  for (auto& [id, entry] : tensors_) {
    Record(entry.tensor.get(), cancel_.cancelled() || !kind_.single
                                   ? TensorOutcome::Result::kCancelled
                                   : TensorOutcome::Result::kFailed);
  }
  if (shared_chunks_ != nullptr) shared_chunks_->Close();
}

// What is wrong with the order of frames as the stream alone can tell.
absl::Status TensorStream::CheckOrder(const ParsedFrame& frame) const {
  if (!any_start_ && frame.kind != FrameKind::kStart) {
    // The beginning of the stream may have been lost on the way.
    return absl::FailedPreconditionError("the stream does not open with a start frame");
  }
  if (!kind_.single) return absl::OkStatus();
  if (any_end_) return absl::FailedPreconditionError("a frame comes after the end frame");
  if (any_start_ && frame.kind == FrameKind::kStart) {
    return absl::FailedPreconditionError("the stream has a second start frame");
  }
  if (frame.shared.has_value()) {
    return absl::InvalidArgumentError("shared ranges are for streams of tensors only");
  }
  return absl::OkStatus();
}

absl::Status TensorStream::AcceptWhole(const grpc::ByteBuffer& frame) {
  any_start_ = true;
  request_bytes_ = static_cast<int64_t>(frame.Length());
  absl::StatusOr<PreparedTensor> prepared = kind_.prepare_whole(frame);
  if (!prepared.ok()) return Fail(0, prepared.status(), false);
  pending_ = Pending{0, *std::move(prepared)};
  return OpenPending();
}

absl::Status TensorStream::Accept(const grpc::ByteBuffer& buffer) {
  if (is_unary()) return AcceptWhole(buffer);
  QUANTD_ASSIGN_OR_RETURN(ParsedFrame frame, ParseFrame(buffer, kind_.fields));
  if (frame.frames.empty()) return AcceptFrame(std::move(frame));
  return AcceptTogether(std::move(frame));
}

// They are Work's to take.
absl::Status TensorStream::AcceptTogether(ParsedFrame message) {
  if (message.kind != FrameKind::kNone) {
    return absl::InvalidArgumentError("a message has a frame of its own beside \"frames\"");
  }
  std::move(message.frames.begin(), message.frames.end(), std::back_inserter(together_));
  outbox_.SendTogether();
  return absl::OkStatus();
}

absl::Status TensorStream::AcceptNextOfTogether() {
  QUANTD_ASSIGN_OR_RETURN(ParsedFrame frame, ParseFrame(together_.front(), kind_.fields));
  together_.pop_front();
  if (frame.frames.empty()) return AcceptFrame(std::move(frame));
  return absl::InvalidArgumentError("\"frames\" has frames that have \"frames\" themselves");
}

absl::Status TensorStream::AcceptFrame(ParsedFrame frame) {
  QUANTD_RETURN_IF_ERROR(CheckOrder(frame));
  switch (frame.kind) {
    case FrameKind::kStart:
      any_start_ = true;
      return Open(std::move(frame));
    case FrameKind::kChunk: {
      const int64_t more_bytes =
          static_cast<int64_t>(frame.data_bytes) - context_.service.limits.frame_bytes;
      if (more_bytes > 0 && !failed_.contains(frame.tensor_id)) {  // else it is dropped
        auto reservation = context_.session.budget->Reserve(2 * more_bytes, "a request frame");
        if (!reservation.ok()) return Fail(frame.tensor_id, reservation.status(), true);
        frame_reservation_ = *std::move(reservation);
      }
      return AcceptChunk(std::move(frame));
    }
    case FrameKind::kEnd:
      any_end_ = true;
      return EndTensor(frame.tensor_id);
    case FrameKind::kNone:
    case FrameKind::kError:
    case FrameKind::kReleased:
      break;
  }
  return absl::InvalidArgumentError("a frame has neither start nor chunk nor end");
}

absl::Status TensorStream::Open(ParsedFrame frame) {
  const uint64_t id = frame.tensor_id;
  failed_.erase(id);
  const auto same = tensors_.find(id);
  if (same != tensors_.end() && !same->second.ending) {
    return Fail(id,
                absl::FailedPreconditionError(
                    absl::StrCat("tensor_id=", id, " is already open on this stream")),
                true);
  }
  const int64_t max_open = context_.service.limits.max_open_tensors;
  if (std::ssize(tensors_) - num_ending_ >= max_open) {
    return Fail(id,
                WithLimit(absl::ResourceExhaustedError(absl::StrCat(
                              "the stream has ", tensors_.size() - static_cast<size_t>(num_ending_),
                              " open tensors; at most ", max_open, " are allowed")),
                          "open_tensors", max_open),
                true);
  }
  absl::StatusOr<PreparedTensor> prepared = kind_.prepare(id, frame.message);
  if (!prepared.ok()) return Fail(id, prepared.status(), true);
  pending_ = Pending{id, *std::move(prepared)};
  // A stream that has tensors open cannot wait for memory: what they hold would never come free.
  // But those whose `end` has come are about to be done.
  const bool may_wait = std::ssize(tensors_) == num_ending_;
  if (same != tensors_.end() || std::ssize(tensors_) >= max_open ||
      (may_wait && context_.service.admission->crowded())) {
    return absl::OkStatus();  // Work goes on with it
  }
  return OpenPending();
}

MemoryWish TensorStream::wish() const {
  if (is_unary()) return {pending_->tensor.resident_bytes, "a unary call"};
  const int64_t stream_bytes =
      stream_reservation_.bytes() > 0 ? 0 : context_.service.limits.stream_bytes();
  return {pending_->tensor.resident_bytes + stream_bytes, "a stream and its tensor"};
}

absl::Status TensorStream::OpenPending() {
  const MemoryWish wanted = wish();
  absl::StatusOr<MemoryBudget::Reservation> memory =
      context_.session.budget->Reserve(wanted.bytes, wanted.what);
  if (memory.ok()) return OpenWith(*std::move(memory));
  const bool may_wait = std::ssize(tensors_) == num_ending_;
  if (may_wait && ShortageOf(memory.status()).has_value()) return absl::OkStatus();
  return Refuse(memory.status());
}

absl::Status TensorStream::OpenWith(MemoryBudget::Reservation granted) {
  Pending pending = std::move(*std::exchange(pending_, std::nullopt));
  waiting_place_ = WaitingRoom::Place();
  if (stream_reservation_.bytes() == 0 && !is_unary()) {
    stream_reservation_ = granted.Split(context_.service.limits.stream_bytes());
  }
  Entry entry;
  entry.memory = std::make_unique<TensorMemory>(std::move(granted));
  SessionContext context = context_.session;
  context.budget = &entry.memory->account;
  absl::StatusOr<std::unique_ptr<OpenTensor>> tensor = pending.tensor.open(context, wake_);
  if (!tensor.ok()) return Fail(pending.tensor_id, tensor.status(), true);
  entry.tensor = *std::move(tensor);
  tensors_[pending.tensor_id] = std::move(entry);
  return is_unary() ? EndTensor(pending.tensor_id) : absl::OkStatus();
}

absl::StatusOr<Progress> TensorStream::WorkOnPending() {
  if (num_ending_ > 0) return Progress::kBusy;
  const bool may_wait = tensors_.empty();
  if (!may_wait || is_unary() || !context_.service.admission->crowded()) {
    QUANTD_RETURN_IF_ERROR(OpenPending());
    if (!pending_.has_value()) return Progress::kMore;
  }
  // Whoever waits holds nothing that others might wait for.
  if (stream_reservation_.bytes() > 0 && !outbox_.Drained()) return Progress::kDraining;
  stream_reservation_ = MemoryBudget::Reservation();
  if (wish().bytes > context_.session.budget->limit_bytes()) {  // it would wait in vain
    QUANTD_RETURN_IF_ERROR(OpenPending());
    return Progress::kMore;
  }
  for (grpc::ByteBuffer& frame : together_) frame = CopyOf(frame);  // of what gRPC has read
  if (is_unary()) {
    QUANTD_ASSIGN_OR_RETURN(
        waiting_place_,
        context_.service.waiting_room->Enter(context_.caller, request_bytes_,
                                             "a request that waits", context_.service.now()));
  }
  return Progress::kWaiting;
}

absl::Status TensorStream::Grant(MemoryBudget::Reservation granted) {
  return OpenWith(std::move(granted));
}

absl::Status TensorStream::Refuse(const absl::Status& status) {
  const uint64_t id = pending_->tensor_id;
  pending_.reset();
  return Fail(id, status, true);
}

absl::Status TensorStream::AcceptChunk(ParsedFrame frame) {
  const uint64_t id = frame.tensor_id;
  // Even what is dropped must be told to a client that waits for its memory.
  absl::StatusOr<ReceivedChunk> chunk = ReceiveChunk(std::move(frame), shared_chunks_.get());
  if (failed_.contains(id)) return absl::OkStatus();
  const auto found = tensors_.find(id);
  if (found == tensors_.end() || found->second.ending) {
    return Fail(id,
                absl::FailedPreconditionError(
                    absl::StrCat("chunk of tensor_id=", id, ", which is not open")),
                true);
  }
  OpenTensor& tensor = *found->second.tensor;
  const absl::Status status = chunk.ok() ? tensor.Accept(*std::move(chunk)) : chunk.status();
  if (!status.ok()) return Fail(id, status, true);
  current_ = &tensor;
  return absl::OkStatus();
}

absl::StatusOr<Progress> TensorStream::Work() {
  if (event_->exchange(false)) QUANTD_RETURN_IF_ERROR(TellEnded());
  if (num_ending_ > 0) {  // responses may have been sent
    for (auto& [id, entry] : tensors_) entry.tensor->session().Ready();
  }
  if (pending_.has_value()) return WorkOnPending();
  if (current_ == nullptr && !together_.empty()) {
    QUANTD_RETURN_IF_ERROR(AcceptNextOfTogether());
    return Progress::kMore;
  }
  if (current_ == nullptr) {
    if (shared_chunks_ != nullptr) shared_chunks_->Flush();
    return Progress::kIdle;
  }
  StripeSession& session = current_->session();
  session.Ready();
  if (Help()) return Progress::kMore;
  if (!session.WantsInput() && !session.ended()) return Progress::kBusy;
  current_ = nullptr;
  frame_reservation_ = MemoryBudget::Reservation();
  return Progress::kMore;
}

bool TensorStream::Help() {
  for (int i = 0; i < kStripesPerStep; ++i) {
    if (!current_->session().Help()) return false;
  }
  return true;
}

absl::Status TensorStream::TellEnded() {
  std::vector<uint64_t> ended;
  for (auto& [id, entry] : tensors_) {
    if (entry.tensor->session().ended()) ended.push_back(id);
  }
  for (const uint64_t id : ended) QUANTD_RETURN_IF_ERROR(TellEnded(id, tensors_[id]));
  return absl::OkStatus();
}

absl::Status TensorStream::TellEnded(uint64_t id, Entry& entry) {
  OpenTensor& tensor = *entry.tensor;
  const absl::Status status = tensor.session().status();
  if (!status.ok()) return Fail(id, status, /*more_to_come=*/!entry.ending);
  if (!entry.ending) return absl::OkStatus();
  absl::StatusOr<grpc::ByteBuffer> end = tensor.Finish();
  if (!end.ok()) return Fail(id, end.status(), false);
  Record(&tensor, TensorOutcome::Result::kOk);
  if (current_ == &tensor) current_ = nullptr;
  tensors_.erase(id);
  --num_ending_;
  ++num_done_;
  if (is_unary()) {
    outbox_.SendLast(*std::move(end));
  } else if (kind_.single) {
    last_ = *std::move(end);
  } else {
    outbox_.Send(*std::move(end));
  }
  return absl::OkStatus();
}

absl::Status TensorStream::EndTensor(uint64_t id) {
  if (failed_.erase(id) > 0) return absl::OkStatus();
  const auto found = tensors_.find(id);
  if (found == tensors_.end() || found->second.ending) {
    return Fail(
        id,
        absl::FailedPreconditionError(absl::StrCat("end of tensor_id=", id, ", which is not open")),
        false);
  }
  Entry& entry = found->second;
  entry.ending = true;
  ++num_ending_;
  StripeSession& session = entry.tensor->session();
  session.EndInput();
  current_ = entry.tensor.get();
  // Little is left, mostly; small tensors are answered at once.
  if (Help() || !session.ended()) return absl::OkStatus();
  return TellEnded(id, entry);
}

bool TensorStream::busy() const {
  for (const auto& [id, entry] : tensors_) {
    if (entry.tensor->session().busy()) return true;
  }
  return false;
}

void TensorStream::Cancel() {
  for (auto& [id, entry] : tensors_) {
    entry.tensor->session().Cancel(absl::CancelledError("cancelled"));
  }
}

absl::Status TensorStream::Fail(uint64_t id, const absl::Status& status, bool more_to_come) {
  const auto found = tensors_.find(id);
  OpenTensor* const tensor = found == tensors_.end() ? nullptr : found->second.tensor.get();
  if (tensor != nullptr && current_ == tensor) current_ = nullptr;
  if (tensor != nullptr && found->second.ending) --num_ending_;
  frame_reservation_ = MemoryBudget::Reservation();
  Record(tensor,
         cancel_.cancelled() ? TensorOutcome::Result::kCancelled : TensorOutcome::Result::kFailed);
  tensors_.erase(id);
  ++num_failed_;
  if (kind_.single) return status;  // which is counted at the end of the call
  context_.service.metrics.CountRefusal(status);
  outbox_.Send(ErrorFrame(id, status));
  if (!more_to_come) return absl::OkStatus();
  failed_.insert(id);
  if (failed_.size() <= kMaxFailedTensors) return absl::OkStatus();
  return WithLimit(absl::ResourceExhaustedError(absl::StrCat(
                       failed_.size(), " tensors have failed and not been ended; at most ",
                       kMaxFailedTensors, " are allowed on a stream")),
                   "failed_tensors", kMaxFailedTensors);
}

void TensorStream::Record(OpenTensor* tensor, TensorOutcome::Result result) {
  TensorOutcome outcome;
  if (tensor != nullptr) outcome = tensor->outcome();
  outcome.result = result;
  times_.statistics += outcome.statistics;
  times_.encode += outcome.encode;
  metrics_.TensorEnded(outcome);
}

absl::Status TensorStream::Close() {
  if (is_unary()) return NoRequestError();
  if (last_.has_value()) outbox_.SendLast(*std::exchange(last_, std::nullopt));
  if (kind_.single && !any_start_) {
    return absl::FailedPreconditionError("the stream does not open with a start frame");
  }
  std::vector<uint64_t> open;
  for (const auto& [id, entry] : tensors_) open.push_back(id);
  for (const uint64_t id : open) {
    QUANTD_RETURN_IF_ERROR(Fail(
        id, absl::DataLossError("the stream was closed before the tensor's end frame"), false));
  }
  return absl::OkStatus();
}

std::string TensorStream::Summary() const {
  if (is_unary()) return {};
  return absl::StrCat(num_done_, " tensors done, ", num_failed_, " failed");
}

}  // namespace quantd
