// A chunk is checked before anybody reads it, in place. In shared memory it is lent: the client is
// told when the last piece of it goes, of two chunks at once where more is on its way.
//
// Entries: ReceiveChunk, SharedChunks::Map. Tested by
// tests/server/bad_input_test.cc and tests/server/shared_memory_test.cc.
#include "server/calls/received_chunk.h"

#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/crc32c.h"
#include "core/base/status_macros.h"
#include "quantd/v1/quantization.pb.h"
#include "server/net/caller.h"

namespace quantd {
namespace {

// Clients have few places for chunks, and fill some while others are worked on.
constexpr size_t kChunksReleasedAtOnce = 2;

absl::Status CheckCrc(const ParsedFrame& frame) {
  if (!frame.crc32c.has_value()) return absl::OkStatus();
  uint32_t crc32c = 0;
  for (const std::span<const std::byte> piece : frame.data) crc32c = Crc32c(piece, crc32c);
  if (crc32c == *frame.crc32c) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrFormat("chunk of plane %s with offset=%d has crc32c=%08x, but its data have %08x",
                      frame.plane, frame.offset, *frame.crc32c, crc32c));
}

}  // namespace

absl::StatusOr<Piece> SharedChunks::Map(const SharedRange& range) {
  const absl::StatusOr<std::span<std::byte>> bytes =
      region_->memory->Range(range.offset, range.size_bytes);
  if (!bytes.ok()) {
    Release(range.offset);  // the client is told of each chunk
    return bytes.status();
  }
  Piece piece;
  piece.bytes = *bytes;
  piece.keeper = std::shared_ptr<const void>(
      bytes->data(),
      [self = shared_from_this(), offset = range.offset](const void*) { self->Release(offset); });
  piece.scarce = true;
  return piece;
}

void SharedChunks::Close() {
  MutexLock lock(&mutex_);
  outbox_ = nullptr;
}

void SharedChunks::Release(int64_t offset) {
  MutexLock lock(&mutex_);
  if (outbox_ == nullptr) return;
  read_.push_back(offset);
  if (read_.size() >= kChunksReleasedAtOnce || !outbox_->MoreHasCome()) TellReleased();
}

void SharedChunks::Flush() {
  MutexLock lock(&mutex_);
  if (outbox_ != nullptr && !read_.empty()) TellReleased();
}

void SharedChunks::TellReleased() {
  v1::StreamingQuantizeResponse frame;
  for (const int64_t read : read_) frame.mutable_released()->add_offsets(read);
  read_.clear();
  outbox_->Send(SerializeFrame(frame));
}

absl::StatusOr<ReceivedChunk> ReceiveChunk(ParsedFrame frame, SharedChunks* shared) {
  ReceivedChunk chunk;
  if (frame.shared.has_value()) {
    if (shared == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("chunk with a shared range on a stream without ", kMemoryTokenKey));
    }
    QUANTD_ASSIGN_OR_RETURN(Piece piece, shared->Map(*frame.shared));
    if (frame.data_bytes > 0) {
      return absl::InvalidArgumentError("chunk with both data and a shared range");
    }
    frame.data = {piece.bytes};
    frame.data_bytes = piece.bytes.size();
    chunk.pieces.push_back(std::move(piece));
  }
  QUANTD_RETURN_IF_ERROR(CheckCrc(frame));
  chunk.plane = std::move(frame.plane);
  chunk.offset = frame.offset;
  chunk.size_bytes = static_cast<int64_t>(frame.data_bytes);
  if (!frame.shared.has_value()) {
    const auto kept = std::make_shared<const ParsedFrame>(std::move(frame));
    for (const std::span<const std::byte> piece : kept->data) {
      chunk.pieces.push_back({piece, kept});
    }
  }
  return chunk;
}

}  // namespace quantd
