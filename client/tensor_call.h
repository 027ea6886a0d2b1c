#ifndef QUANTD_CLIENT_TENSOR_CALL_H_
#define QUANTD_CLIENT_TENSOR_CALL_H_

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/byte_source.h"
#include "client/frame_size.h"
#include "client/plane_sink.h"
#include "client/stream_region.h"
#include "client/types.h"
#include "core/base/digest.h"
#include "core/base/mutex.h"
#include "proto/frame_codec.h"

namespace quantd {

// Counts the slices that gRPC still holds of memory that is the caller's. Thread-safe.
class SliceLease {
 public:
  // Waits for all slices.
  ~SliceLease();
  // Returns the piece as a slice, without copying it.
  grpc::Slice Wrap(SourcePiece piece) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Held;
  Mutex mutex_;
  int64_t outstanding_ ABSL_GUARDED_BY(mutex_) = 0;
};

// Sends one source as the chunks of a plane. Not thread-safe.
class PlaneSender {
 public:
  // `source` and `lease` outlive this.
  PlaneSender(std::string plane, ByteSource* source, SliceLease* lease)
      : plane_(std::move(plane)), source_(source), lease_(lease) {}

  // Returns the next frame, or nothing when the source is at its end. Its payload lies in `region`,
  // where that is not null and there is enough of it.
  absl::StatusOr<std::optional<grpc::ByteBuffer>> Next(const FrameFields& fields,
                                                       uint64_t tensor_id, FrameSize& frame_size,
                                                       bool checksum, StreamRegion* region);
  absl::Status Rewind();

 private:
  absl::StatusOr<std::optional<grpc::ByteBuffer>> NextShared(const FrameFields& fields,
                                                             uint64_t tensor_id,
                                                             StreamRegion& region);

  std::string plane_;
  ByteSource* source_;
  SliceLease* lease_;
  int64_t offset_bytes_ = 0;
};

// Puts the chunks of a response's planes together: checks order, size and checksum, hands the bytes
// to the sink and digests them. Not thread-safe.
class PlaneReceiver {
 public:
  explicit PlaneReceiver(PlaneSink* sink) : sink_(sink) {}

  // kDataLoss: planes that cannot be.
  absl::Status Begin(std::vector<PlaneDesc> planes);
  // Takes a chunk frame. kDataLoss: unknown plane, gap, overlap, past the end, wrong checksum.
  absl::Status Take(const ParsedFrame& frame);
  // Checks that all planes are complete and that plane i has the digest that `expected(name)`
  // gives.
  absl::Status End(absl::FunctionRef<std::string(const std::string&)> expected);
  // Forgets everything, for another attempt.
  absl::Status Restart();

  bool begun() const { return begun_; }
  const std::vector<PlaneDesc>& planes() const { return planes_; }
  std::vector<std::string> Digests() const;

 private:
  PlaneSink* const sink_;
  std::vector<PlaneDesc> planes_;
  std::vector<int64_t> received_bytes_;
  std::vector<PlaneDigest> digests_;
  bool begun_ = false;
};

// Returns what `start` asks the server's chunks to be; 0 leaves it to the server. `region` may be
// null.
int64_t ResponseChunkBytes(const CallOptions& options, const StreamRegion* region);

// One tensor on a bidirectional stream, on the client's side. One thread asks it for requests while
// another hands it responses; Fail and status are thread-safe.
class TensorCall {
 public:
  virtual ~TensorCall() = default;

  // What is to be done before `start` is sent; may take long.
  virtual absl::Status Prepare() { return absl::OkStatus(); }

  // Returns `start`, then chunks, then nothing. `frame_size` and `region` are the stream's; null:
  // it has none.
  virtual absl::StatusOr<std::optional<grpc::ByteBuffer>> NextRequest(uint64_t tensor_id,
                                                                      FrameSize& frame_size,
                                                                      StreamRegion* region) = 0;

  // Takes a response that is no error; true if it is the last one and all is well.
  virtual absl::StatusOr<bool> TakeResponse(const ParsedFrame& frame) = 0;

  // Makes ready for another attempt after a failure.
  virtual absl::Status Restart() = 0;

  // Notes the first error.
  void Fail(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status status() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Forgets the error.
  void ClearFailure() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  mutable Mutex mutex_;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace quantd

#endif  // QUANTD_CLIENT_TENSOR_CALL_H_
