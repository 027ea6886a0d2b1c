#include "client/tensor_call.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/crc32c.h"
#include "core/base/hand_over.h"
#include "core/base/status_macros.h"
#include "core/tensor/shape.h"

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

absl::StatusOr<std::optional<grpc::ByteBuffer>> PlaneSender::Next(const FrameFields& fields,
                                                                  uint64_t tensor_id,
                                                                  FrameSize& frame_size,
                                                                  bool checksum,
                                                                  StreamRegion* region) {
  if (region != nullptr && source_->size_bytes() - offset_bytes_ >= kMinSharedBytes) {
    return NextShared(fields, tensor_id, *region);
  }
  QUANTD_ASSIGN_OR_RETURN(SourcePiece piece, source_->Next(frame_size.Next(absl::Now())));
  if (piece.bytes.empty()) return std::nullopt;
  std::optional<uint32_t> crc32c;
  if (checksum) crc32c = Crc32c(piece.bytes);
  const int64_t offset_bytes = offset_bytes_;
  offset_bytes_ += static_cast<int64_t>(piece.bytes.size());
  return BuildChunkFrame(fields, tensor_id, plane_, offset_bytes, crc32c,
                         lease_->Wrap(std::move(piece)));
}

absl::StatusOr<std::optional<grpc::ByteBuffer>> PlaneSender::NextShared(const FrameFields& fields,
                                                                        uint64_t tensor_id,
                                                                        StreamRegion& region) {
  QUANTD_ASSIGN_OR_RETURN(const std::span<std::byte> slot, region.WaitForInput());
  const absl::StatusOr<size_t> size_bytes = source_->Read(slot);
  if (!size_bytes.ok() || *size_bytes == 0) region.ReleaseInput(slot);
  QUANTD_RETURN_IF_ERROR(size_bytes.status());
  if (*size_bytes == 0) return std::nullopt;
  const int64_t offset_bytes = offset_bytes_;
  offset_bytes_ += static_cast<int64_t>(*size_bytes);
  return BuildSharedChunkFrame(fields, tensor_id, plane_, offset_bytes,
                               region.RangeOf(slot, *size_bytes));
}

absl::Status PlaneSender::Rewind() {
  offset_bytes_ = 0;
  return source_->Rewind();
}

absl::Status PlaneReceiver::Begin(std::vector<PlaneDesc> planes) {
  if (begun_) return absl::DataLossError("the server started the tensor twice");
  begun_ = true;
  planes_ = std::move(planes);
  received_bytes_.assign(planes_.size(), 0);
  digests_.clear();
  digests_.resize(planes_.size());
  return sink_->Begin(planes_);
}

absl::Status PlaneReceiver::Take(const ParsedFrame& frame) {
  const auto plane = std::find_if(planes_.begin(), planes_.end(), [&](const PlaneDesc& candidate) {
    return candidate.name == frame.plane || (frame.plane.empty() && &candidate == planes_.data());
  });
  if (plane == planes_.end()) {
    return absl::DataLossError("the server sent bytes of a plane that it did not announce");
  }
  const auto index = static_cast<size_t>(plane - planes_.begin());
  int64_t& received = received_bytes_[index];
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
    digests_[index].Update(piece);
    QUANTD_RETURN_IF_ERROR(sink_->Write(static_cast<int>(index), received, piece));
    received += static_cast<int64_t>(piece.size());
  }
  return absl::OkStatus();
}

absl::Status PlaneReceiver::End(absl::FunctionRef<std::string(const std::string&)> expected) {
  if (!begun_) return absl::DataLossError("the server ended the tensor without starting it");
  for (size_t i = 0; i < planes_.size(); ++i) {
    const std::string& name = planes_[i].name;
    if (received_bytes_[i] != planes_[i].size_bytes) {
      return absl::DataLossError(absl::StrCat("the server sent ", received_bytes_[i], " of ",
                                              planes_[i].size_bytes, " bytes of plane ", name));
    }
    const std::string found = digests_[i].Text();
    if (const std::string wanted = expected(name); found != wanted) {
      return absl::DataLossError(
          absl::StrCat("digest of plane ", name, " is ", found, " where the server says ", wanted));
    }
  }
  return sink_->End();
}

absl::Status PlaneReceiver::Restart() {
  if (begun_) QUANTD_RETURN_IF_ERROR(sink_->Restart());
  begun_ = false;
  return absl::OkStatus();
}

std::vector<std::string> PlaneReceiver::Digests() const {
  std::vector<std::string> texts;
  for (const PlaneDigest& digest : digests_) texts.push_back(digest.Text());
  return texts;
}

int64_t ResponseChunkBytes(const CallOptions& options, const StreamRegion* region) {
  if (options.chunk_bytes > 0 || region == nullptr) return options.chunk_bytes;
  return static_cast<int64_t>(StreamRegion::kSlotBytes);
}

void TensorCall::Fail(const absl::Status& status) {
  MutexLock lock(&mutex_);
  status_.Update(status);
}

absl::Status TensorCall::status() const {
  MutexLock lock(&mutex_);
  return status_;
}

void TensorCall::ClearFailure() {
  MutexLock lock(&mutex_);
  status_ = absl::OkStatus();
}

}  // namespace quantd
