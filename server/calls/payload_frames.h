#ifndef QUANTD_SERVER_CALLS_PAYLOAD_FRAMES_H_
#define QUANTD_SERVER_CALLS_PAYLOAD_FRAMES_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "core/base/mutex.h"
#include "core/exec/buffer_pool.h"
#include "core/session/sink.h"
#include "proto/frame_codec.h"
#include "server/calls/call.h"
#include "server/net/shared_slots.h"

namespace quantd {

// How a peer wants its chunks.
struct ChunkOptions {
  int64_t max_chunk_bytes = 0;
  bool crc = true;
};

// Reads max_chunk_bytes, max_message_bytes and omit_crc of a start; kInvalidArgument: a size that
// is not allowed, or a chunk that the client would not receive.
absl::StatusOr<ChunkOptions> ChunkOptionsOf(int64_t max_chunk_bytes, int64_t max_message_bytes,
                                            bool omit_crc);

// Makes chunk frames of what a session writes: stripes are encoded into pooled memory, and gRPC
// sends that same memory, or into a slot of the memory that the client shares, and the frame says
// where. Stripes next to each other share a frame; memory for several frames may be out at a time:
//
//   | committed | acquired, at work |   | acquired |      |            frames of plane 0, in order
//    `- sent when all of it is committed, and full or followed by another one
//
// Parameters are copied, and go before the codes that they belong to. Thread-safe as sinks are.
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

  SinkMemory Acquire(int64_t offset_bytes, int64_t size_bytes) override;
  void Commit(int64_t offset_bytes, int64_t size_bytes, uint32_t crc32c) override;
  void Put(int plane, int64_t offset_bytes, std::span<const std::byte> bytes) override;
  bool wants_crc() const override { return options_.crc; }

  // Sends what is left of all planes; all is committed. kResourceExhausted: some of it there was no
  // memory for.
  absl::Status FlushAll();

 private:
  // Memory that becomes a frame, or several of the size that the peer wants.
  struct Memory {
    BufferPool::Buffer buffer;    // or
    std::optional<int> slot;      // whichever `bytes` are of
    std::span<std::byte> bytes;
    int64_t offset = 0;           // of its beginning in the plane, in bytes
    size_t acquired_bytes = 0;
    size_t committed_bytes = 0;
    uint32_t crc32c = 0;          // of what is committed
  };
  absl::StatusOr<Memory> MakeMemory(int64_t offset_bytes, int64_t size_bytes);
  void PopFront(std::vector<Memory>& done) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SendParams();
  // Under no lock: the outbox has one of its own.
  void Send(size_t plane, Memory memory);

  const std::shared_ptr<BufferPool> pool_;
  FrameOutbox& outbox_;
  const uint64_t tensor_id_;
  const std::vector<PlaneSize> planes_;
  const ChunkOptions options_;
  std::vector<std::optional<Memory>> params_;  // by plane, that are being filled: the committer's
  Mutex mutex_;
  const std::unique_ptr<SharedSlots> slots_ ABSL_PT_GUARDED_BY(mutex_);  // null: there are none
  std::deque<Memory> open_ ABSL_GUARDED_BY(mutex_);                      // of plane 0, in order
  absl::Status no_memory_ ABSL_GUARDED_BY(mutex_);  // an error: there was none for parameters
};

}  // namespace quantd

#endif  // QUANTD_SERVER_CALLS_PAYLOAD_FRAMES_H_
