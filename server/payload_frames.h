#ifndef QUANTD_SERVER_PAYLOAD_FRAMES_H_
#define QUANTD_SERVER_PAYLOAD_FRAMES_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/exec/buffer_pool.h"
#include "core/session/sink.h"
#include "proto/frame_codec.h"
#include "server/frame_stream.h"
#include "server/shared_slots.h"

namespace quantd {

// How a peer wants its chunks.
struct ChunkOptions {
  int64_t max_chunk_bytes = 0;
  bool crc = true;
};

// Reads QuantizeStart.max_chunk_bytes and omit_crc; kInvalidArgument: a size that is not allowed.
absl::StatusOr<ChunkOptions> ChunkOptionsOf(int64_t max_chunk_bytes, bool omit_crc);

// Makes chunk frames of what a session writes: the session encodes into pooled memory, and gRPC
// sends that same memory, or into a slot of the memory that the client shares, and the frame says
// where. Small pieces of a plane share a frame. Not thread-safe.
class PayloadFrames final : public PayloadSink {
 public:
  struct PlaneSize {
    std::string name;
    int64_t size_bytes;
  };
  // Sends frames of tensor `tensor_id` to `outbox`, which outlives this. `slots` may be null.
  PayloadFrames(std::shared_ptr<BufferPool> pool, std::unique_ptr<SharedSlots> slots,
                FrameOutbox& outbox, uint64_t tensor_id, std::vector<PlaneSize> planes,
                const ChunkOptions& options);
  // Gives back the slots that have not been sent.
  ~PayloadFrames() override;

  std::span<std::byte> Acquire(int plane, int64_t offset_bytes, int64_t size_bytes) override;
  void Commit(int plane, int64_t offset_bytes, int64_t size_bytes) override;

  // Sends what is left of all planes.
  void FlushAll();

 private:
  struct Plane {
    PlaneSize size;
    BufferPool::Buffer buffer;       // or
    std::optional<int> slot;         // whichever `memory` is of
    std::span<std::byte> memory;     // that is being filled
    int64_t memory_offset = 0;       // of its beginning in the plane, in bytes
    size_t used_bytes = 0;           // of it
    std::optional<uint32_t> crc32c;  // of those, where `memory` becomes one chunk with a CRC
  };
  void Flush(Plane& plane);
  void SendBuffer(Plane& plane, size_t used_bytes);

  const std::shared_ptr<BufferPool> pool_;
  const std::unique_ptr<SharedSlots> slots_;  // null: the client has none
  FrameOutbox& outbox_;
  const uint64_t tensor_id_;
  const ChunkOptions options_;
  std::vector<Plane> planes_;
};

}  // namespace quantd

#endif  // QUANTD_SERVER_PAYLOAD_FRAMES_H_
