#ifndef QUANTD_SERVER_TENSOR_STREAM_H_
#define QUANTD_SERVER_TENSOR_STREAM_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/exec/memory_budget.h"
#include "core/session/sink.h"
#include "proto/frame_codec.h"
#include "server/frame_stream.h"
#include "server/service_context.h"

namespace quantd {

// One tensor that is under way on a stream. An error is the tensor's alone. Not thread-safe.
class OpenTensor {
 public:
  virtual ~OpenTensor() = default;
  // Takes a chunk; everything of the one before is worked off.
  virtual absl::Status Accept(ParsedFrame chunk) = 0;
  // Does at most one window of work; false: nothing is left to do.
  virtual absl::StatusOr<bool> Work(const CancelToken& cancel) = 0;
  // Returns the `end` frame; everything that came is worked off.
  virtual absl::StatusOr<grpc::ByteBuffer> Finish() = 0;
  // Returns what is known of it so far, but for the result.
  virtual TensorOutcome outcome() const = 0;
};

// Opens a tensor from the bytes of its start message, and answers `start`.
using OpenTensorFn = std::function<absl::StatusOr<std::unique_ptr<OpenTensor>>(
    uint64_t tensor_id, const std::string& start)>;

// Many tensors on one stream, told apart by tensor_id. A tensor that fails gets an error frame, and
// what the peer still sends for it is dropped up to its `end`. Not thread-safe.
class TensorStream final : public FrameHandler {
 public:
  TensorStream(CallContext& context, RpcMetrics& metrics, FrameOutbox& outbox,
               const CancelToken& cancel, OpenTensorFn open);
  ~TensorStream() override;

  absl::Status Accept(const grpc::ByteBuffer& frame) override;
  bool may_read_on() const override { return !pending_.has_value(); }
  absl::StatusOr<Progress> Work() override;
  int64_t needed_bytes() const override { return needed_bytes_; }
  absl::Status Refuse(const absl::Status& status) override;
  absl::Status Close() override;
  std::string Summary() const override;
  CallTimes times() const override { return times_; }

 private:
  absl::Status Open(ParsedFrame frame);
  absl::Status TryOpen(const ParsedFrame& frame);
  // True if there would be memory later for the tensor that `status` refuses.
  bool MayWait(const absl::Status& status);
  absl::StatusOr<Progress> WorkOnPending();
  absl::Status AcceptChunk(ParsedFrame frame);
  absl::Status FinishTensor(uint64_t tensor_id);
  // Closes the tensor with an error frame; its frames are dropped from now on if `more_to_come`.
  absl::Status Fail(uint64_t tensor_id, const absl::Status& status, bool more_to_come);
  // Has `frame`'s data be those of the shared region that it names.
  absl::Status MapShared(ParsedFrame& frame);
  // Tells the client that the bytes of the chunk at work have been taken, of two chunks at once
  // where another frame has come: a message costs a good part of what encoding a chunk does.
  void ReleaseShared();
  // Takes what is known of a tensor that ends into the metrics; null: it was never open.
  void Record(const OpenTensor* tensor, TensorOutcome::Result result);

  CallContext& context_;
  RpcMetrics& metrics_;
  FrameOutbox& outbox_;
  const CancelToken& cancel_;
  const OpenTensorFn open_;
  MemoryBudget::Reservation stream_reservation_;  // for the frames read, and what is to be sent
  MemoryBudget::Reservation frame_reservation_;   // for what a large frame takes beyond that
  std::optional<ParsedFrame> pending_;            // the start of a tensor that waits for memory
  int64_t needed_bytes_ = 0;                      // that it waits for
  absl::flat_hash_map<uint64_t, std::unique_ptr<OpenTensor>> tensors_;
  absl::flat_hash_set<uint64_t> failed_;  // whose frames are dropped
  uint64_t current_id_ = 0;
  OpenTensor* current_ = nullptr;         // has work left
  std::optional<int64_t> shared_offset_;  // of the chunk at work, where it lies in shared memory
  std::vector<int64_t> taken_offsets_;    // of chunks that the client has not been told of
  bool any_start_ = false;
  int64_t num_done_ = 0, num_failed_ = 0;
  CallTimes times_;
};

// One plane as it comes in.
struct IncomingPlane {
  std::string name;
  int64_t size_bytes = 0;
  int64_t received_bytes = 0;
};

// Checks that `chunk` is the next one of `plane`. kInvalidArgument: out of order, or twice.
// kOutOfRange: past the plane's end.
absl::Status CheckChunk(const ParsedFrame& chunk, const IncomingPlane& plane);

// Pieces of a chunk are as small as HTTP/2 frames, so one call of Work takes several, up to this.
inline constexpr int64_t kWorkBytes = int64_t{1} << 20;

// Walks over the pieces of a chunk's data and checks them against its CRC32C as they are taken,
// while they are in the cache: what a chunk has given is good once it is empty. Not thread-safe.
class ChunkCursor {
 public:
  // Begins with `chunk`; kDataLoss as below if it is empty.
  absl::Status Reset(ParsedFrame chunk);
  bool empty() const { return piece_ == chunk_.data.size(); }
  // Returns what is left of the piece at hand; empty at the end.
  std::span<const std::byte> Peek() const {
    if (empty()) return {};
    return chunk_.data[piece_].subspan(offset_);
  }
  // Goes over the first `size_bytes` of Peek(). kDataLoss: that was the last, and the CRC is wrong.
  absl::Status Advance(size_t size_bytes);
  // Returns why taking data has failed: `status`, or kDataLoss if the CRC is wrong, since anything
  // may have come of that.
  absl::Status Explain(const absl::Status& status);

 private:
  absl::Status CheckCrc() const;

  ParsedFrame chunk_;
  size_t piece_ = 0;
  size_t offset_ = 0;
  uint32_t crc32c_ = 0;  // of what has been taken, if the chunk has one
};

}  // namespace quantd

#endif  // QUANTD_SERVER_TENSOR_STREAM_H_
