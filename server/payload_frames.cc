#include "server/payload_frames.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/crc32c.h"
#include "core/base/status_detail.h"
#include "core/base/status_macros.h"

namespace quantd {
namespace {

constexpr int64_t kDefaultChunkBytes = int64_t{1} << 20;
constexpr int64_t kMaxChunkBytes = int64_t{4} << 20;
// Smaller ones would cost more for their headers than for their data.
constexpr int64_t kMinChunkBytes = 1024;
// Less is not worth a slot.
constexpr size_t kMinSharedBytes = size_t{16} << 10;

}  // namespace

absl::StatusOr<ChunkOptions> ChunkOptionsOf(int64_t max_chunk_bytes, bool omit_crc) {
  if (max_chunk_bytes == 0) return ChunkOptions{kDefaultChunkBytes, !omit_crc};
  if (max_chunk_bytes < kMinChunkBytes || max_chunk_bytes > kMaxChunkBytes) {
    return WithField(
        absl::InvalidArgumentError(absl::StrCat("max_chunk_bytes=", max_chunk_bytes,
                                                " is not allowed; use ", kMinChunkBytes, " to ",
                                                kMaxChunkBytes, ", or 0 for ", kDefaultChunkBytes)),
        "max_chunk_bytes");
  }
  return ChunkOptions{max_chunk_bytes, !omit_crc};
}

PayloadFrames::PayloadFrames(std::shared_ptr<BufferPool> pool, std::unique_ptr<SharedSlots> slots,
                             FrameOutbox& outbox, uint64_t tensor_id, std::vector<PlaneSize> planes,
                             const ChunkOptions& options)
    : pool_(std::move(pool)),
      slots_(std::move(slots)),
      outbox_(outbox),
      tensor_id_(tensor_id),
      options_(options) {
  for (PlaneSize& plane : planes) planes_.emplace_back().size = std::move(plane);
}

PayloadFrames::~PayloadFrames() {
  for (const Plane& plane : planes_) {
    if (plane.slot.has_value()) slots_->GiveBack(*plane.slot);
  }
}

std::span<std::byte> PayloadFrames::Acquire(int plane_index, int64_t offset_bytes,
                                            int64_t size_bytes) {
  Plane& plane = planes_[static_cast<size_t>(plane_index)];
  const auto size = static_cast<size_t>(size_bytes);
  if (size > plane.memory.size() - plane.used_bytes) {
    Flush(plane);
    const int64_t rest_bytes = plane.size.size_bytes - offset_bytes;
    const auto wanted_bytes =
        static_cast<size_t>(std::max(size_bytes, std::min(options_.max_chunk_bytes, rest_bytes)));
    const bool fits_slot = slots_ != nullptr && wanted_bytes >= kMinSharedBytes &&
                           wanted_bytes <= slots_->slot_bytes();
    if (fits_slot) plane.slot = slots_->Take();
    if (plane.slot.has_value()) {
      plane.memory = slots_->bytes(*plane.slot).first(wanted_bytes);
    } else {
      plane.buffer = pool_->Acquire(wanted_bytes);
      plane.memory = plane.buffer.span();
      const bool one_chunk = static_cast<int64_t>(wanted_bytes) <= options_.max_chunk_bytes;
      if (options_.crc && one_chunk) plane.crc32c = 0;
    }
    plane.memory_offset = offset_bytes;
  }
  return plane.memory.subspan(plane.used_bytes, size);
}

void PayloadFrames::Commit(int plane_index, int64_t, int64_t size_bytes) {
  Plane& plane = planes_[static_cast<size_t>(plane_index)];
  const auto size = static_cast<size_t>(size_bytes);
  if (plane.crc32c.has_value()) {  // while they are in the cache
    plane.crc32c = Crc32c(plane.memory.subspan(plane.used_bytes, size), *plane.crc32c);
  }
  plane.used_bytes += size;
  if (plane.used_bytes == plane.memory.size()) Flush(plane);
}

void PayloadFrames::FlushAll() {
  for (Plane& plane : planes_) Flush(plane);
}

void PayloadFrames::Flush(Plane& plane) {
  if (plane.used_bytes == 0) return;
  const size_t used_bytes = std::exchange(plane.used_bytes, 0);
  plane.memory = {};
  if (!plane.slot.has_value()) return SendBuffer(plane, used_bytes);
  const int slot = *std::exchange(plane.slot, std::nullopt);
  outbox_.Send(BuildSharedChunkFrame(kResponseFrame, tensor_id_, plane.size.name,
                                     plane.memory_offset, slots_->RangeOf(slot, used_bytes)));
}

void PayloadFrames::SendBuffer(Plane& plane, size_t used_bytes) {
  const grpc::Slice all =
      SliceOf(std::exchange(plane.buffer, BufferPool::Buffer()), used_bytes, pool_);
  const auto max_bytes = static_cast<size_t>(options_.max_chunk_bytes);
  const std::optional<uint32_t> whole_crc32c = std::exchange(plane.crc32c, std::nullopt);
  for (size_t begin = 0; begin < used_bytes; begin += max_bytes) {
    const grpc::Slice payload = all.sub(begin, std::min(begin + max_bytes, used_bytes));
    std::optional<uint32_t> crc32c = whole_crc32c;
    if (options_.crc && !crc32c.has_value()) {
      crc32c = Crc32c(std::as_bytes(std::span(payload.begin(), payload.size())));
    }
    outbox_.Send(BuildChunkFrame(kResponseFrame, tensor_id_, plane.size.name,
                                 plane.memory_offset + static_cast<int64_t>(begin), crc32c,
                                 payload));
  }
}

}  // namespace quantd
