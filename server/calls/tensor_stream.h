#ifndef QUANTD_SERVER_CALLS_TENSOR_STREAM_H_
#define QUANTD_SERVER_CALLS_TENSOR_STREAM_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/exec/cancel_token.h"
#include "core/exec/memory_budget.h"
#include "core/session/stripe_session.h"
#include "proto/frame_codec.h"
#include "server/calls/frame_stream.h"
#include "server/calls/received_chunk.h"
#include "server/service_context.h"

namespace quantd {

// One tensor that is under way on a stream. An error is the tensor's alone. Not thread-safe.
class OpenTensor {
 public:
  virtual ~OpenTensor() = default;
  // Takes a chunk; what is wrong with the values is said by the session.
  virtual absl::Status Accept(ReceivedChunk chunk) = 0;
  virtual StripeSession& session() = 0;
  // Returns the `end` frame; the session has ended well.
  virtual absl::StatusOr<grpc::ByteBuffer> Finish() = 0;
  // Returns what is known of it so far, but for the result.
  virtual TensorOutcome outcome() = 0;
};

// Opens a tensor from the bytes of its start message, and answers `start`. `on_event` is for its
// session.
using OpenTensorFn = std::function<absl::StatusOr<std::unique_ptr<OpenTensor>>(
    uint64_t tensor_id, const std::string& start, std::function<void()> on_event)>;

// Many tensors on one stream, told apart by tensor_id. A tensor that fails gets an error frame, and
// what the peer still sends for it is dropped up to its `end`. Tensors are worked on by their
// sessions; a turn of the stream hands chunks over, helps, and says what has ended. Not thread-safe.
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
  bool may_close() const override { return num_ending_ == 0; }
  bool busy() const override;
  void Cancel() override;
  std::string Summary() const override;
  CallTimes times() const override { return times_; }

 private:
  struct Entry {
    std::unique_ptr<OpenTensor> tensor;
    bool ending = false;  // its `end` has come
  };

  absl::Status Open(ParsedFrame frame);
  absl::Status TryOpen(const ParsedFrame& frame);
  // True if there would be memory later for the tensor that `status` refuses.
  bool MayWait(const absl::Status& status);
  absl::StatusOr<Progress> WorkOnPending();
  absl::Status AcceptChunk(ParsedFrame frame);
  absl::Status EndTensor(uint64_t tensor_id);
  // Says of all tensors that have ended how.
  absl::Status TellEnded();
  absl::Status TellEnded(uint64_t tensor_id, Entry& entry);
  // Closes the tensor with an error frame; its frames are dropped from now on if `more_to_come`.
  absl::Status Fail(uint64_t tensor_id, const absl::Status& status, bool more_to_come);
  // Takes what is known of a tensor that ends into the metrics; null: it was never open.
  void Record(OpenTensor* tensor, TensorOutcome::Result result);

  CallContext& context_;
  RpcMetrics& metrics_;
  FrameOutbox& outbox_;
  const CancelToken& cancel_;
  const OpenTensorFn open_;
  const std::shared_ptr<std::atomic<bool>> event_;     // a session has something to tell
  const std::function<void()> wake_;                   // which it does by this
  const std::shared_ptr<SharedChunks> shared_chunks_;  // null: the client shares no memory
  MemoryBudget::Reservation stream_reservation_;  // for the frames read, and what is to be sent
  MemoryBudget::Reservation frame_reservation_;   // for what a large frame takes beyond that
  std::optional<ParsedFrame> pending_;            // the start of a tensor that waits for memory
  int64_t needed_bytes_ = 0;                      // that it waits for
  absl::flat_hash_map<uint64_t, Entry> tensors_;
  absl::flat_hash_set<uint64_t> failed_;  // whose frames are dropped
  OpenTensor* current_ = nullptr;         // has been given a chunk
  bool any_start_ = false;
  int64_t num_ending_ = 0, num_done_ = 0, num_failed_ = 0;
  CallTimes times_;
};

}  // namespace quantd

#endif  // QUANTD_SERVER_CALLS_TENSOR_STREAM_H_
