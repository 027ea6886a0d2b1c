#include "server/tensor_stream.h"

#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/crc32c.h"
#include "core/base/status_detail.h"
#include "core/base/status_macros.h"
#include "quantd/v1/quantization.pb.h"
#include "server/admission.h"
#include "server/grpc_status.h"
#include "server/shared_regions.h"

namespace quantd {
namespace {

// Failed tensors whose `end` has not come yet; a peer that never sends it is stopped here.
constexpr size_t kMaxFailedTensors = 4096;

// Clients have few places for chunks, and fill some while others are worked on.
constexpr size_t kChunksReleasedAtOnce = 2;

// The error frames of both streams have the same form.
grpc::ByteBuffer ErrorFrame(uint64_t tensor_id, const absl::Status& status) {
  v1::StreamingQuantizeResponse frame;
  frame.set_tensor_id(tensor_id);
  *frame.mutable_error() = ToTensorError(status);
  return SerializeFrame(frame);
}

}  // namespace

absl::Status CheckChunk(const ParsedFrame& chunk, const IncomingPlane& plane) {
  const auto data_bytes = static_cast<int64_t>(chunk.data_bytes);
  if (chunk.offset < 0) {
    return absl::InvalidArgumentError(absl::StrCat("chunk of plane ", plane.name,
                                                   " has offset=", chunk.offset,
                                                   ", which is "
                                                   "negative"));
  }
  if (chunk.offset > plane.size_bytes || data_bytes > plane.size_bytes - chunk.offset) {
    return absl::OutOfRangeError(
        absl::StrCat("chunk of plane ", plane.name, " with offset=", chunk.offset, " and ",
                     data_bytes, " bytes goes past the end of its ", plane.size_bytes, " bytes"));
  }
  if (chunk.offset != plane.received_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "chunk of plane ", plane.name, " with offset=", chunk.offset,
        chunk.offset < plane.received_bytes ? " comes twice or overlaps" : " is out of order",
        "; the next is offset=", plane.received_bytes));
  }
  return absl::OkStatus();
}

absl::Status ChunkCursor::Reset(ParsedFrame chunk) {
  chunk_ = std::move(chunk);
  piece_ = 0;
  offset_ = 0;
  crc32c_ = 0;
  return empty() ? CheckCrc() : absl::OkStatus();
}

absl::Status ChunkCursor::Advance(size_t size_bytes) {
  if (empty()) return absl::OkStatus();
  if (chunk_.crc32c.has_value()) crc32c_ = Crc32c(Peek().first(size_bytes), crc32c_);
  offset_ += size_bytes;
  if (offset_ < chunk_.data[piece_].size()) return absl::OkStatus();
  ++piece_;
  offset_ = 0;
  if (!empty()) return absl::OkStatus();
  const absl::Status status = CheckCrc();
  chunk_ = ParsedFrame();  // gRPC may have its memory back
  piece_ = 0;
  return status;
}

absl::Status ChunkCursor::CheckCrc() const {
  if (!chunk_.crc32c.has_value() || crc32c_ == *chunk_.crc32c) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrFormat("chunk of plane %s with offset=%d has crc32c=%08x, but its data have %08x",
                      chunk_.plane, chunk_.offset, *chunk_.crc32c, crc32c_));
}

absl::Status ChunkCursor::Explain(const absl::Status& status) {
  while (!empty()) QUANTD_RETURN_IF_ERROR(Advance(Peek().size()));
  return status;
}

TensorStream::TensorStream(CallContext& context, RpcMetrics& metrics, FrameOutbox& outbox,
                           const CancelToken& cancel, OpenTensorFn open)
    : context_(context),
      metrics_(metrics),
      outbox_(outbox),
      cancel_(cancel),
      open_(std::move(open)) {}

TensorStream::~TensorStream() {
  for (const auto& [id, tensor] : tensors_) {
    Record(tensor.get(), TensorOutcome::Result::kCancelled);
  }
}

absl::Status TensorStream::Accept(const grpc::ByteBuffer& buffer) {
  QUANTD_ASSIGN_OR_RETURN(ParsedFrame frame, ParseFrame(buffer, kRequestFrame));
  if (!any_start_ && frame.kind != FrameKind::kStart) {
    // The beginning of the stream may have been lost on the way.
    return absl::FailedPreconditionError("the stream does not open with a start frame");
  }
  switch (frame.kind) {
    case FrameKind::kStart:
      any_start_ = true;
      return Open(std::move(frame));
    case FrameKind::kChunk: {
      const int64_t more_bytes =
          static_cast<int64_t>(frame.data_bytes) - context_.service.limits.frame_bytes;
      if (more_bytes > 0) {
        auto reservation = context_.session.budget->Reserve(2 * more_bytes, "a request frame");
        if (!reservation.ok()) return Fail(frame.tensor_id, reservation.status(), true);
        frame_reservation_ = *std::move(reservation);
      }
      if (frame.shared.has_value()) {
        shared_offset_ = frame.shared->offset;
        const absl::Status status = MapShared(frame);
        if (!status.ok()) return Fail(frame.tensor_id, status, true);
      }
      return AcceptChunk(std::move(frame));
    }
    case FrameKind::kEnd:
      return FinishTensor(frame.tensor_id);
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
  if (tensors_.contains(id)) {
    return Fail(id,
                absl::FailedPreconditionError(
                    absl::StrCat("tensor_id=", id, " is already open on this stream")),
                true);
  }
  if (std::ssize(tensors_) >= context_.service.limits.max_open_tensors) {
    return Fail(id,
                WithLimit(absl::ResourceExhaustedError(absl::StrCat(
                              "the stream has ", tensors_.size(), " open tensors; at most ",
                              context_.service.limits.max_open_tensors, " are allowed")),
                          "open_tensors", context_.service.limits.max_open_tensors),
                true);
  }
  // A stream that has tensors open cannot wait: what they hold would never come free.
  if (!tensors_.empty() || !context_.service.admission->crowded()) {
    const absl::Status status = TryOpen(frame);
    if (status.ok()) return status;
    if (!tensors_.empty() || !MayWait(status)) return Fail(id, status, true);
  } else {
    needed_bytes_ = context_.service.limits.stream_bytes();
  }
  pending_ = std::move(frame);
  return absl::OkStatus();
}

absl::Status TensorStream::TryOpen(const ParsedFrame& frame) {
  if (stream_reservation_.bytes() == 0) {
    QUANTD_ASSIGN_OR_RETURN(
        stream_reservation_,
        context_.session.budget->Reserve(context_.service.limits.stream_bytes(), "a stream"));
  }
  QUANTD_ASSIGN_OR_RETURN(std::unique_ptr<OpenTensor> tensor,
                          open_(frame.tensor_id, frame.message));
  current_ = tensors_.emplace(frame.tensor_id, std::move(tensor)).first->second.get();
  current_id_ = frame.tensor_id;
  return absl::OkStatus();
}

bool TensorStream::MayWait(const absl::Status& status) {
  const std::optional<int64_t> shortage_bytes = ShortageOf(status);
  if (!shortage_bytes.has_value()) return false;
  needed_bytes_ = context_.service.limits.stream_bytes() +
                  (stream_reservation_.bytes() > 0 ? *shortage_bytes : 0);
  return needed_bytes_ <= context_.session.budget->limit_bytes();
}

absl::StatusOr<Progress> TensorStream::WorkOnPending() {
  // Whoever waits holds nothing that others might wait for.
  if (stream_reservation_.bytes() > 0 && !outbox_.Drained()) return Progress::kDraining;
  stream_reservation_ = MemoryBudget::Reservation();
  if (!context_.has_turn) return Progress::kWaiting;
  const absl::Status status = TryOpen(*pending_);
  if (!status.ok() && MayWait(status)) {
    stream_reservation_ = MemoryBudget::Reservation();
    return Progress::kWaiting;
  }
  if (!status.ok()) {
    QUANTD_RETURN_IF_ERROR(Refuse(status));
  }
  pending_.reset();
  return Progress::kMore;
}

absl::Status TensorStream::Refuse(const absl::Status& status) {
  const uint64_t id = pending_->tensor_id;
  pending_.reset();
  return Fail(id, status, true);
}

absl::Status TensorStream::AcceptChunk(ParsedFrame frame) {
  const uint64_t id = frame.tensor_id;
  if (failed_.contains(id)) return absl::OkStatus();
  const auto tensor = tensors_.find(id);
  if (tensor == tensors_.end()) {
    return Fail(id,
                absl::FailedPreconditionError(
                    absl::StrCat("chunk of tensor_id=", id, ", which is not open")),
                true);
  }
  if (absl::Status status = tensor->second->Accept(std::move(frame)); !status.ok()) {
    return Fail(id, status, true);
  }
  current_ = tensor->second.get();
  current_id_ = id;
  return absl::OkStatus();
}

absl::StatusOr<Progress> TensorStream::Work() {
  if (pending_.has_value()) return WorkOnPending();
  if (current_ == nullptr) {
    ReleaseShared();
    return Progress::kIdle;
  }
  const absl::StatusOr<bool> more = current_->Work(cancel_);
  if (!more.ok()) {
    QUANTD_RETURN_IF_ERROR(Fail(current_id_, more.status(), true));
  } else if (!*more) {
    current_ = nullptr;
    frame_reservation_ = MemoryBudget::Reservation();
  }
  if (current_ != nullptr) return Progress::kMore;
  ReleaseShared();
  return Progress::kIdle;
}

absl::Status TensorStream::MapShared(ParsedFrame& frame) {
  if (context_.shared == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("chunk with a shared range on a stream without ", kMemoryTokenKey));
  }
  if (frame.data_bytes > 0) {
    return absl::InvalidArgumentError("chunk with both data and a shared range");
  }
  QUANTD_ASSIGN_OR_RETURN(
      const std::span<const std::byte> bytes,
      context_.shared->memory->Range(frame.shared->offset, frame.shared->size_bytes));
  if (!bytes.empty()) frame.data = {bytes};
  frame.data_bytes = bytes.size();
  return absl::OkStatus();
}

void TensorStream::ReleaseShared() {
  if (shared_offset_.has_value()) taken_offsets_.push_back(*shared_offset_);
  shared_offset_.reset();
  if (taken_offsets_.empty()) return;
  if (taken_offsets_.size() < kChunksReleasedAtOnce && outbox_.MoreHasCome()) return;
  v1::StreamingQuantizeResponse frame;
  for (const int64_t offset : taken_offsets_) frame.mutable_released()->add_offsets(offset);
  taken_offsets_.clear();
  outbox_.Send(SerializeFrame(frame));
}

absl::Status TensorStream::FinishTensor(uint64_t id) {
  if (failed_.erase(id) > 0) return absl::OkStatus();
  const auto tensor = tensors_.find(id);
  if (tensor == tensors_.end()) {
    return Fail(
        id,
        absl::FailedPreconditionError(absl::StrCat("end of tensor_id=", id, ", which is not open")),
        false);
  }
  absl::StatusOr<grpc::ByteBuffer> end = tensor->second->Finish();
  if (!end.ok()) return Fail(id, end.status(), false);
  Record(tensor->second.get(), TensorOutcome::Result::kOk);
  tensors_.erase(tensor);
  ++num_done_;
  outbox_.Send(*std::move(end));
  return absl::OkStatus();
}

absl::Status TensorStream::Fail(uint64_t id, const absl::Status& status, bool more_to_come) {
  if (current_id_ == id) current_ = nullptr;
  frame_reservation_ = MemoryBudget::Reservation();
  const auto tensor = tensors_.find(id);
  Record(tensor == tensors_.end() ? nullptr : tensor->second.get(),
         cancel_.cancelled() ? TensorOutcome::Result::kCancelled : TensorOutcome::Result::kFailed);
  context_.service.metrics.CountRefusal(status);
  tensors_.erase(id);
  ++num_failed_;
  outbox_.Send(ErrorFrame(id, status));
  if (!more_to_come) return absl::OkStatus();
  failed_.insert(id);
  if (failed_.size() <= kMaxFailedTensors) return absl::OkStatus();
  return WithLimit(absl::ResourceExhaustedError(absl::StrCat(
                       failed_.size(), " tensors have failed and not been ended; at most ",
                       kMaxFailedTensors, " are allowed on a stream")),
                   "failed_tensors", kMaxFailedTensors);
}

void TensorStream::Record(const OpenTensor* tensor, TensorOutcome::Result result) {
  TensorOutcome outcome;
  if (tensor != nullptr) outcome = tensor->outcome();
  outcome.result = result;
  times_.statistics += outcome.statistics;
  times_.encode += outcome.encode;
  metrics_.TensorEnded(outcome);
}

absl::Status TensorStream::Close() {
  std::vector<uint64_t> open;
  for (const auto& [id, tensor] : tensors_) open.push_back(id);
  for (const uint64_t id : open) {
    QUANTD_RETURN_IF_ERROR(Fail(
        id, absl::DataLossError("the stream was closed before the tensor's end frame"), false));
  }
  return absl::OkStatus();
}

std::string TensorStream::Summary() const {
  return absl::StrCat(num_done_, " tensors done, ", num_failed_, " failed");
}

}  // namespace quantd
