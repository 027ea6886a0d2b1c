#ifndef QUANTD_PROTO_FRAME_CODEC_H_
#define QUANTD_PROTO_FRAME_CODEC_H_

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/exec/buffer_pool.h"

namespace google::protobuf {
class MessageLite;
}

namespace quantd {

// Field numbers of one kind of frame message; 0 where it has no such field.
struct FrameFields {
  uint32_t tensor_id;
  uint32_t start;
  uint32_t chunk;
  uint32_t end;
  uint32_t error;
  uint32_t released;
  uint32_t frames;
};
inline constexpr FrameFields kRequestFrame{1, 2, 3, 4, 0, 0, 5};  // of both streams of tensors
inline constexpr FrameFields kResponseFrame{1, 2, 3, 4, 5, 6, 7};
inline constexpr FrameFields kCalibrateFrame{0, 1, 2, 3, 0, 0, 0};

// Longest plane name that a frame may carry.
inline constexpr size_t kMaxPlaneNameBytes = 256;
// Frames that a message may carry, and the bytes of those behind its first, which may be as large
// as it is alone.
inline constexpr size_t kMaxFramesTogether = 256;
inline constexpr size_t kMaxBytesBehindFirst = size_t{64} << 10;

enum class FrameKind : uint8_t { kNone, kStart, kChunk, kEnd, kError, kReleased };

// Bytes of a region of memory that both ends share; nothing is known yet of whether it has them.
struct SharedRange {
  int64_t offset = 0;
  int64_t size_bytes = 0;
};

// One frame, its payload still where gRPC received it. Movable. Thread-compatible.
struct ParsedFrame {
  ParsedFrame() = default;
  ParsedFrame(ParsedFrame&&) = default;
  ParsedFrame& operator=(ParsedFrame&&) = default;
  ~ParsedFrame();

  uint64_t tensor_id = 0;
  FrameKind kind = FrameKind::kNone;
  std::string message;  // all but kChunk: the message, for protobuf's own parser

  // kChunk only.
  std::string plane;  // may be no UTF-8: compare it with known names
  int64_t offset = 0;
  std::optional<uint32_t> crc32c;
  std::vector<std::span<const std::byte>> data;  // one after the other, cut anywhere; none is empty
  size_t data_bytes = 0;
  std::optional<SharedRange> shared;  // where the payload lies instead

  // The frames that the message carries, still serialized, whose payload they keep.
  std::vector<grpc::ByteBuffer> frames;

  // Keeps `data` alive. A buffer, not its slices: what gRPC counts against a quota may be let go on
  // any thread by a grpc::ByteBuffer alone.
  std::unique_ptr<grpc::ByteBuffer> owner;
};

// Reads one frame as protobuf would: fields in any order, unknown ones skipped, the last of
// repeated ones taken. Does not copy the payload. kInvalidArgument: malformed, a group, or
// frames that are more or longer than may go together.
absl::StatusOr<ParsedFrame> ParseFrame(const grpc::ByteBuffer& buffer, const FrameFields& fields);

// Returns a frame with a chunk whose `data` is `payload`'s own memory.
grpc::ByteBuffer BuildChunkFrame(const FrameFields& fields, uint64_t tensor_id,
                                 absl::string_view plane, int64_t offset,
                                 std::optional<uint32_t> crc32c, const grpc::Slice& payload);

// Likewise, with a chunk whose payload lies in the shared region.
grpc::ByteBuffer BuildSharedChunkFrame(const FrameFields& fields, uint64_t tensor_id,
                                       absl::string_view plane, int64_t offset,
                                       const SharedRange& payload);

// Returns a frame with an `end` that says nothing.
grpc::ByteBuffer BuildEndFrame(const FrameFields& fields, uint64_t tensor_id);

// A message that carries `num_frames` frames of `frame_bytes` in all; a single one as it is.
struct Together {
  grpc::ByteBuffer message;
  size_t num_frames = 1, frame_bytes = 0;
};

// Takes frames from the front of `queue`: the first one, and those behind it that go together with
// it. `field` is that of several; 0: there is none. Payload is not copied.
Together TakeTogether(std::deque<grpc::ByteBuffer>& queue, uint32_t field);

// Returns `message` as gRPC sends it. The message is under 2 GiB.
grpc::ByteBuffer SerializeFrame(const google::protobuf::MessageLite& message);

// Returns the first `size_bytes` of `buffer` as a slice; the buffer goes back to `pool`, which it
// came from, when gRPC has sent it. The slice keeps the pool alive.
grpc::Slice SliceOf(BufferPool::Buffer buffer, size_t size_bytes, std::shared_ptr<BufferPool> pool);

}  // namespace quantd

#endif  // QUANTD_PROTO_FRAME_CODEC_H_
