#include "client/tensor_call.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/crc32c.h"
#include "core/base/hand_over.h"
#include "core/base/status_macros.h"

namespace quantd {
namespace {

// Less goes as bytes: a slot would cost more.
constexpr int64_t kMinSharedBytes = int64_t{64} << 10;

}  // namespace

struct SliceLease::Held {
  SliceLease* lease;
  std::shared_ptr<const void> owner;
};

SliceLease::~SliceLease() {
  MutexLock lock(&mutex_,
                 absl::Condition(
                     +[](int64_t* outstanding) { return *outstanding == 0; }, &outstanding_));
}

grpc::Slice SliceLease::Wrap(SourcePiece piece) {
  {
    MutexLock lock(&mutex_);
    ++outstanding_;
  }
  const auto release = [](void* held_pointer) {
    TakeOver(held_pointer);
    auto* held = static_cast<Held*>(held_pointer);
    SliceLease* const lease = held->lease;
    delete held;
    MutexLock lock(&lease->mutex_);
    --lease->outstanding_;
  };
  auto* held = new Held{this, std::move(piece.owner)};
  HandOver(held);
  // gRPC takes a pointer to what it does not change.
  return grpc::Slice(const_cast<std::byte*>(piece.bytes.data()), piece.bytes.size(), release, held);
}

TensorCall::TensorCall(const StreamMethod& method, std::span<const PlaneInput> inputs,
                       PlaneSink* sink, const CallOptions& options)
    : method_(method), options_(options), sink_(sink) {
  for (const PlaneInput& input : inputs) senders_.push_back({input});
}

// --- Requests ---

absl::StatusOr<bool> TensorCall::NextRequest(uint64_t tensor_id, RequestRoom& room,
                                             grpc::ByteBuffer& frame) {
  if (!std::exchange(start_sent_, true)) {
    frame = StartRequest(tensor_id, room.region);
    return true;
  }
  for (; sending_ < senders_.size(); ++sending_) {
    QUANTD_ASSIGN_OR_RETURN(const bool has_more,
                            NextChunk(tensor_id, senders_[sending_], room, frame));
    if (has_more) return true;
  }
  return false;
}

void TensorCall::CountSent(Sender& sender, int64_t bytes) {
  sender.sent_bytes += bytes;
  if (options_.on_sent != nullptr) options_.on_sent(bytes);
}

absl::StatusOr<bool> TensorCall::NextChunk(uint64_t tensor_id, Sender& sender, RequestRoom& room,
                                           grpc::ByteBuffer& frame) {
  const auto& [plane, source] = sender.input;
  const int64_t offset_bytes = sender.sent_bytes;
  has_read_ = true;
  if (!room.slot.empty() && sender.left_bytes() >= kMinSharedBytes) {
    QUANTD_ASSIGN_OR_RETURN(const size_t size_bytes, source->Read(room.slot));
    if (size_bytes == 0) return false;
    CountSent(sender, static_cast<int64_t>(size_bytes));
    frame = BuildSharedChunkFrame(method_.request, tensor_id, plane, offset_bytes,
                                  room.region->RangeOf(std::exchange(room.slot, {}), size_bytes));
    return true;
  }
  QUANTD_ASSIGN_OR_RETURN(SourcePiece piece, source->Next(room.frame_size.Next(room.now)));
  if (piece.bytes.empty()) return false;
  CountSent(sender, static_cast<int64_t>(piece.bytes.size()));
  std::optional<uint32_t> crc32c;
  if (options_.checksums) crc32c = Crc32c(piece.bytes);
  frame = BuildChunkFrame(method_.request, tensor_id, plane, offset_bytes, crc32c,
                          lease_.Wrap(std::move(piece)));
  return true;
}

int64_t TensorCall::input_bytes() const {
  int64_t bytes = 0;
  for (const Sender& sender : senders_) bytes += sender.input.source->size_bytes();
  return bytes;
}

bool TensorCall::WantsSlot() const {
  for (size_t i = sending_; i < senders_.size(); ++i) {
    const int64_t left_bytes = senders_[i].left_bytes();
    if (left_bytes > 0) return left_bytes >= kMinSharedBytes;
  }
  return false;
}

// --- Responses ---

absl::Status TensorCall::TakeResponse(const ParsedFrame& frame) {
  switch (frame.kind) {
    case FrameKind::kStart: {
      QUANTD_ASSIGN_OR_RETURN(std::vector<PlaneDesc> planes, TakeStart(frame));
      return BeginPlanes(std::move(planes));
    }
    case FrameKind::kChunk:
      return TakeChunk(frame);
    case FrameKind::kEnd:
      return TakeEnd(frame);
    case FrameKind::kNone:
    case FrameKind::kError:
    case FrameKind::kReleased:
      break;
  }
  return absl::DataLossError("the server sent a frame of no known kind");
}

absl::StatusOr<std::vector<PlaneDesc>> TensorCall::TakeStart(const ParsedFrame&) {
  return absl::DataLossError("the server sent a frame of no known kind");
}

absl::Status TensorCall::BeginPlanes(std::vector<PlaneDesc> planes) {
  if (begun_) return absl::DataLossError("the server started the tensor twice");
  begun_ = true;
  planes_ = std::move(planes);
  arrivals_ = std::vector<Arrival>(planes_.size());
  return sink_->Begin(planes_);
}

absl::Status TensorCall::TakeChunk(const ParsedFrame& frame) {
  const auto plane = std::find_if(planes_.begin(), planes_.end(), [&](const PlaneDesc& candidate) {
    return candidate.name == frame.plane || (frame.plane.empty() && &candidate == planes_.data());
  });
  if (plane == planes_.end()) {
    return absl::DataLossError("the server sent bytes of a plane that it did not announce");
  }
  const auto index = static_cast<size_t>(plane - planes_.begin());
  auto& [received, digest] = arrivals_[index];
  const auto bytes = static_cast<int64_t>(frame.data_bytes);
  if (frame.offset != received || bytes > plane->size_bytes - received) {
    return absl::DataLossError(absl::StrCat(
        "the server sent bytes ", frame.offset, " to ", frame.offset, "+", bytes, " of plane ",
        plane->name, " where ", received, " of ", plane->size_bytes, " were next"));
  }
  uint32_t crc32c = 0;
  if (frame.crc32c.has_value()) {
    for (const std::span<const std::byte> piece : frame.data) crc32c = Crc32c(piece, crc32c);
  }
  if (frame.crc32c.has_value() && *frame.crc32c != crc32c) {
    return absl::DataLossError(absl::StrCat("checksum of plane ", plane->name, " at byte ",
                                            received, " is wrong: the data changed on the way"));
  }
  for (const std::span<const std::byte> piece : frame.data) {
    digest.Update(piece);
    QUANTD_RETURN_IF_ERROR(sink_->Write(static_cast<int>(index), received, piece));
    received += static_cast<int64_t>(piece.size());
  }
  return absl::OkStatus();
}

absl::Status TensorCall::EndPlanes(absl::FunctionRef<std::string(const std::string&)> expected) {
  if (!begun_) return absl::DataLossError("the server ended the tensor without starting it");
  for (size_t i = 0; i < planes_.size(); ++i) {
    const std::string& name = planes_[i].name;
    if (arrivals_[i].received_bytes != planes_[i].size_bytes) {
      return absl::DataLossError(absl::StrCat("the server sent ", arrivals_[i].received_bytes,
                                              " of ", planes_[i].size_bytes, " bytes of plane ",
                                              name));
    }
    const std::string found = arrivals_[i].digest.Text();
    if (const std::string wanted = expected(name); found != wanted) {
      return absl::DataLossError(
          absl::StrCat("digest of plane ", name, " is ", found, " where the server says ", wanted));
    }
  }
  return sink_->End();
}

// --- Attempts ---

absl::Status TensorCall::RewindSources() {
  for (Sender& sender : senders_) {
    if (sender.sent_bytes > 0) CountSent(sender, -sender.sent_bytes);
    QUANTD_RETURN_IF_ERROR(sender.input.source->Rewind());
  }
  sending_ = 0;
  return absl::OkStatus();
}

absl::Status TensorCall::Restart() {
  if (has_read_) QUANTD_RETURN_IF_ERROR(RewindSources());
  has_read_ = false;
  if (begun_) QUANTD_RETURN_IF_ERROR(sink_->Restart());
  begun_ = false;
  planes_.clear();  // no chunk is taken before the next `start`
  start_sent_ = false;
  outcome_.reset();
  return absl::OkStatus();
}

void TensorCall::Finish(const absl::Status& status) {
  if (!failed()) outcome_ = status;
}

absl::Status TensorCall::status() const {
  return outcome_.value_or(absl::InternalError("the call ended without a result"));
}

}  // namespace quantd
