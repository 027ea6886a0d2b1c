#ifndef QUANTD_SERVER_PAYLOAD_FRAMES_H_
#define QUANTD_SERVER_PAYLOAD_FRAMES_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/exec/buffer_pool.h"
#include "core/session/sink.h"
#include "proto/frame_codec.h"
#include "server/frame_stream.h"

namespace quantd {

// How a peer wants its chunks.
struct ChunkOptions {
  int64_t max_chunk_bytes = 0;
  bool crc = true;
};

// Reads QuantizeStart.max_chunk_bytes and omit_crc; kInvalidArgument: a size that is not allowed.
absl::StatusOr<ChunkOptions> ChunkOptionsOf(int64_t max_chunk_bytes, bool omit_crc);

// Makes chunk frames of what a session writes: the session encodes into pooled memory, and gRPC
// sends that same memory. Small pieces of a plane share a frame. Not thread-safe.
class PayloadFrames final : public PayloadSink {
 public:
  struct PlaneSize {
    std::string name;
    int64_t size_bytes;
  };
  // Sends frames of tensor `tensor_id` to `outbox`, which outlives this.
  PayloadFrames(std::shared_ptr<BufferPool> pool, FrameOutbox& outbox, uint64_t tensor_id,
                std::vector<PlaneSize> planes, const ChunkOptions& options);

  std::span<std::byte> Acquire(int plane, int64_t offset_bytes, int64_t size_bytes) override;
  void Commit(int plane, int64_t offset_bytes, int64_t size_bytes) override;

  // Sends what is left of all planes.
  void FlushAll();

 private:
  struct Plane {
    PlaneSize size;
    BufferPool::Buffer buffer;
    int64_t buffer_offset = 0;  // of the buffer's beginning in the plane, in bytes
    size_t used_bytes = 0;      // of the buffer
  };
  void Flush(Plane& plane);

  const std::shared_ptr<BufferPool> pool_;
  FrameOutbox& outbox_;
  const uint64_t tensor_id_;
  const ChunkOptions options_;
  std::vector<Plane> planes_;
};

}  // namespace quantd

#endif  // QUANTD_SERVER_PAYLOAD_FRAMES_H_
