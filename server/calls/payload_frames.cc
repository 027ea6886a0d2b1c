// Output of a session as frames. Memory is acquired a frame at a time, in order, and stripes take
// their parts of it; they are committed in the same order, so that only the oldest is being filled:
//
//   stripes   |  0  |  1  |  2  | ...  | 15  |     64 KiB of int8 each
//   frame     |            1 MiB             |     goes when stripe 15 is committed
//
// Its CRC32C is combined from those of its stripes, which were made while the codes were in cache.
//
// Entries: Acquire, Commit, Put, FlushAll. Tested by tests/server/streaming_test.cc,
// tests/server/shared_memory_test.cc and, cut in any way, tests/sim.
#include "server/calls/payload_frames.h"

#include <algorithm>
#include <cstring>
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
// What a gRPC client receives unless it was told otherwise, and what a frame has around its data.
constexpr int64_t kDefaultMessageBytes = int64_t{4} << 20;
constexpr int64_t kEnvelopeBytes = 4096;
constexpr int64_t kMinMessageBytes = int64_t{1} << 20;  // a stripe's parameters and codes fit
// Smaller ones would cost more for their headers than for their data.
constexpr int64_t kMinChunkBytes = 1024;
// Parameters go with the codes that they belong to, which are mostly many more.
constexpr int64_t kParamBytes = int64_t{64} << 10;
// Less is not worth a slot.
constexpr size_t kMinSharedBytes = size_t{16} << 10;

}  // namespace

absl::StatusOr<ChunkOptions> ChunkOptionsOf(int64_t max_chunk_bytes, int64_t max_message_bytes,
                                            bool omit_crc) {
  if (max_message_bytes == 0) max_message_bytes = kDefaultMessageBytes;
  if (max_message_bytes < kMinMessageBytes) {
    return WithField(absl::InvalidArgumentError(absl::StrCat(
                         "max_message_bytes=", max_message_bytes, " is not allowed; use at least ",
                         kMinMessageBytes, ", or 0 for ", kDefaultMessageBytes)),
                     "max_message_bytes");
  }
  if (max_chunk_bytes == 0) {
    return ChunkOptions{std::min(kDefaultChunkBytes, max_message_bytes - kEnvelopeBytes),
                        !omit_crc};
  }
  const int64_t most_bytes = std::min(kMaxChunkBytes, max_message_bytes - kEnvelopeBytes);
  if (max_chunk_bytes < kMinChunkBytes || max_chunk_bytes > most_bytes) {
    const std::string way_out = most_bytes < kMaxChunkBytes
                                    ? absl::StrCat(" (up to ", kMaxChunkBytes,
                                                   " where max_message_bytes says that the client "
                                                   "receives more than ",
                                                   max_message_bytes, ")")
                                    : "";
    return WithField(
        absl::InvalidArgumentError(absl::StrCat(
            "max_chunk_bytes=", max_chunk_bytes, " is not allowed; use ", kMinChunkBytes, " to ",
            most_bytes, way_out, ", or 0 for ", kDefaultChunkBytes)),
        "max_chunk_bytes");
  }
  return ChunkOptions{max_chunk_bytes, !omit_crc};
}

PayloadFrames::PayloadFrames(std::shared_ptr<BufferPool> pool, std::unique_ptr<SharedSlots> slots,
                             FrameOutbox& outbox, uint64_t tensor_id, std::vector<PlaneSize> planes,
                             const ChunkOptions& options)
    : pool_(std::move(pool)),
      outbox_(outbox),
      tensor_id_(tensor_id),
      planes_(std::move(planes)),
      options_(options),
      params_(planes_.size()),
      slots_(std::move(slots)) {}

PayloadFrames::~PayloadFrames() {
  MutexLock lock(&mutex_);
  for (const Memory& memory : open_) {
    if (memory.slot.has_value()) slots_->GiveBack(*memory.slot);
  }
}

absl::StatusOr<PayloadFrames::Memory> PayloadFrames::MakeMemory(int64_t offset_bytes,
                                                                int64_t size_bytes) {
  Memory memory;
  memory.offset = offset_bytes;
  QUANTD_ASSIGN_OR_RETURN(memory.buffer, pool_->Acquire(static_cast<size_t>(size_bytes)));
  memory.bytes = memory.buffer.span();
  return memory;
}

SinkMemory PayloadFrames::Acquire(int64_t offset_bytes, int64_t size_bytes) {
  const auto size = static_cast<size_t>(size_bytes);
  MutexLock lock(&mutex_);
  QUANTD_RETURN_IF_ERROR(no_memory_);
  if (open_.empty() || size > open_.back().bytes.size() - open_.back().acquired_bytes) {
    if (outbox_.Full()) return std::nullopt;
    const int64_t left_bytes = planes_[0].size_bytes - offset_bytes;
    const auto wanted_bytes =
        static_cast<size_t>(std::max(size_bytes, std::min(options_.max_chunk_bytes, left_bytes)));
    const bool fits_slot = slots_ != nullptr && wanted_bytes >= kMinSharedBytes &&
                           wanted_bytes <= slots_->slot_bytes();
    const std::optional<int> slot = fits_slot ? slots_->Take() : std::nullopt;
    if (slot.has_value()) {
      Memory& memory = open_.emplace_back();
      memory.slot = slot;
      memory.bytes = slots_->bytes(*slot).first(wanted_bytes);
      memory.offset = offset_bytes;
    } else {
      QUANTD_ASSIGN_OR_RETURN(Memory memory,
                              MakeMemory(offset_bytes, static_cast<int64_t>(wanted_bytes)));
      open_.push_back(std::move(memory));
    }
  }
  Memory& memory = open_.back();
  const std::span<std::byte> bytes = memory.bytes.subspan(memory.acquired_bytes, size);
  memory.acquired_bytes += size;
  return bytes;
}

void PayloadFrames::Commit(int64_t, int64_t size_bytes, uint32_t crc32c) {
  std::vector<Memory> done;
  {
    MutexLock lock(&mutex_);
    // What was all committed before the next memory was acquired.
    while (open_.front().committed_bytes == open_.front().acquired_bytes) PopFront(done);
    Memory& memory = open_.front();
    memory.committed_bytes += static_cast<size_t>(size_bytes);
    if (options_.crc) memory.crc32c = CombineCrc32c(memory.crc32c, crc32c, size_bytes);
    const bool closed = open_.size() > 1 || memory.acquired_bytes == memory.bytes.size();
    if (closed && memory.committed_bytes == memory.acquired_bytes) PopFront(done);
  }
  if (done.empty()) return;
  SendParams();
  for (Memory& memory : done) Send(0, std::move(memory));
}

void PayloadFrames::PopFront(std::vector<Memory>& done) {
  done.push_back(std::move(open_.front()));
  open_.pop_front();
}

void PayloadFrames::SendParams() {
  for (size_t plane = 1; plane < params_.size(); ++plane) {
    if (params_[plane].has_value()) Send(plane, *std::exchange(params_[plane], std::nullopt));
  }
}

void PayloadFrames::Put(int plane_index, int64_t offset_bytes, std::span<const std::byte> bytes) {
  const auto plane = static_cast<size_t>(plane_index);
  std::optional<Memory>& memory = params_[plane];
  while (!bytes.empty()) {
    if (!memory.has_value()) {
      const int64_t left_bytes = planes_[plane].size_bytes - offset_bytes;
      absl::StatusOr<Memory> made =
          MakeMemory(offset_bytes, std::min({left_bytes, options_.max_chunk_bytes,
                                             std::max(kParamBytes, std::ssize(bytes))}));
      if (!made.ok()) {
        MutexLock lock(&mutex_);
        no_memory_ = made.status();
        return;
      }
      memory = *std::move(made);
    }
    const size_t step = std::min(bytes.size(), memory->bytes.size() - memory->acquired_bytes);
    std::memcpy(memory->bytes.data() + memory->acquired_bytes, bytes.data(), step);
    if (options_.crc) memory->crc32c = Crc32c(bytes.first(step), memory->crc32c);
    memory->acquired_bytes += step;
    memory->committed_bytes += step;
    offset_bytes += static_cast<int64_t>(step);
    bytes = bytes.subspan(step);
    if (memory->acquired_bytes == memory->bytes.size()) {
      Send(plane, *std::exchange(memory, std::nullopt));
    }
  }
}

absl::Status PayloadFrames::FlushAll() {
  std::deque<Memory> left;
  {
    MutexLock lock(&mutex_);
    QUANTD_RETURN_IF_ERROR(no_memory_);
    std::swap(left, open_);
  }
  SendParams();
  for (Memory& memory : left) Send(0, std::move(memory));
  return absl::OkStatus();
}

void PayloadFrames::Send(size_t plane, Memory memory) {
  const size_t used_bytes = memory.committed_bytes;
  const std::string& name = planes_[plane].name;
  if (memory.slot.has_value()) {
    SharedRange range;
    {
      MutexLock lock(&mutex_);
      range = slots_->RangeOf(*memory.slot, used_bytes);
    }
    outbox_.Send(BuildSharedChunkFrame(kResponseFrame, tensor_id_, name, memory.offset, range));
    return;
  }
  const grpc::Slice all = SliceOf(std::move(memory.buffer), used_bytes, pool_);
  const auto max_bytes = static_cast<size_t>(options_.max_chunk_bytes);
  for (size_t begin = 0; begin < used_bytes; begin += max_bytes) {
    const grpc::Slice payload = all.sub(begin, std::min(begin + max_bytes, used_bytes));
    std::optional<uint32_t> crc32c;
    if (options_.crc) {
      crc32c = used_bytes <= max_bytes
                   ? memory.crc32c
                   : Crc32c(std::as_bytes(std::span(payload.begin(), payload.size())));
    }
    outbox_.Send(BuildChunkFrame(kResponseFrame, tensor_id_, name,
                                 memory.offset + static_cast<int64_t>(begin), crc32c, payload));
  }
}

}  // namespace quantd
