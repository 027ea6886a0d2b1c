#ifndef QUANTD_SERVER_CALLS_TENSOR_STREAM_H_
#define QUANTD_SERVER_CALLS_TENSOR_STREAM_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/exec/cancel_token.h"
#include "core/exec/memory_budget.h"
#include "proto/frame_codec.h"
#include "server/admit/waiting_room.h"
#include "server/calls/call.h"
#include "server/calls/open_tensor.h"
#include "server/service_context.h"

namespace quantd {

// The memory of one tensor: what was granted, as an account that its session takes it from.
struct TensorMemory {
  explicit TensorMemory(MemoryBudget::Reservation reservation)
      : granted(std::move(reservation)), account(granted.bytes()) {}
  const MemoryBudget::Reservation granted;
  MemoryBudget account;
};

// A tensor whose start message has been read, and found good.
struct PreparedTensor {
  int64_t resident_bytes = 0;  // what its session will hold
  // Opens it, and answers `start`. `on_event` is for its session. Called once at most.
  absl::AnyInvocable<absl::StatusOr<std::unique_ptr<OpenTensor>>(const SessionContext& context,
                                                                 std::function<void()> on_event)>
      open;
};

// What a kind of call does with its tensors.
struct TensorStreamKind {
  absl::string_view rpc;     // for metrics
  FrameFields fields = {};   // of its requests
  // The call is for one tensor, whose errors end it, and whose last frame goes out with its end.
  bool single = false;
  std::function<absl::StatusOr<PreparedTensor>(uint64_t tensor_id, const std::string& start)>
      prepare = nullptr;
  // Set in unary calls, which are single: the one frame has all of the tensor, which goes to its
  // session when it is opened.
  std::function<absl::StatusOr<PreparedTensor>(const grpc::ByteBuffer& frame)> prepare_whole =
      nullptr;
};

// Many tensors on one stream, told apart by tensor_id. A tensor that fails gets an error frame, and
// what the peer still sends for it is dropped up to its `end`. Tensors are worked on by their
// sessions; a turn of the call hands chunks over, helps, and says what has ended. Not thread-safe.
//
//   start   prepared: plan and memory are known
//             `- memory is free, nobody waits: opened      `- else it is pending: the call gives
//                                                             back what it holds and waits, if
//                                                             it may
//   chunk   handed to the session
//   end     when the session has ended: the report, or the error
//
// Frames that come together in one message are taken one by one, before anything else is read. Those
// behind a start that waits are few bytes, which the place of the call has room for.
//
// A unary call is all three in one frame. It may go before those who wait, since what is left for
// it is kept from them (AdmissionOptions); while it waits its request has room of its own.
class TensorStream final : public FrameHandler {
 public:
  TensorStream(CallContext& context, FrameOutbox& outbox, const CancelToken& cancel,
               TensorStreamKind kind);
  ~TensorStream() override;

  absl::Status Accept(const grpc::ByteBuffer& frame) override;
  bool may_read_on() const override {
    return !pending_.has_value() && !has_whole() && together_.empty();
  }
  bool may_read_ahead() const override { return stream_reservation_.bytes() > 0; }
  absl::StatusOr<Progress> Work() override;
  MemoryWish wish() const override;
  absl::Status Grant(MemoryBudget::Reservation granted) override;
  absl::Status Refuse(const absl::Status& status) override;
  absl::Status Close() override;
  bool may_close() const override { return num_ending_ == 0; }
  bool busy() const override;
  void Cancel() override;
  std::string Summary() const override;
  CallTimes times() const override { return times_; }

 private:
  struct Entry {
    std::unique_ptr<TensorMemory> memory;  // goes after the tensor
    std::unique_ptr<OpenTensor> tensor;
    bool ending = false;  // its `end` has come
  };
  struct Pending {
    uint64_t tensor_id;
    PreparedTensor tensor;
  };

  bool is_unary() const { return kind_.prepare_whole != nullptr; }
  bool has_whole() const { return is_unary() && any_start_; }
  absl::Status CheckOrder(const ParsedFrame& frame) const;
  absl::Status AcceptWhole(const grpc::ByteBuffer& frame);
  absl::Status AcceptTogether(ParsedFrame message);
  absl::Status AcceptNextOfTogether();
  absl::Status AcceptFrame(ParsedFrame frame);
  absl::Status Open(ParsedFrame frame);
  // Opens what is pending, if its memory is free, or else makes it fail, unless the stream waits.
  absl::Status OpenPending();
  absl::Status OpenWith(MemoryBudget::Reservation granted);
  absl::StatusOr<Progress> WorkOnPending();
  absl::Status AcceptChunk(ParsedFrame frame);
  absl::Status EndTensor(uint64_t tensor_id);
  // Does some stripes' work of what is current; false: there is none to do now.
  bool Help();
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
  const TensorStreamKind kind_;
  const std::shared_ptr<std::atomic<bool>> event_;     // a session has something to tell
  const std::function<void()> wake_;                   // which it does by this
  const std::shared_ptr<SharedChunks> shared_chunks_;  // null: the client shares no memory
  MemoryBudget::Reservation stream_reservation_;  // for the frames read, and what is to be sent
  WaitingRoom::Place waiting_place_;  // for a unary call's request while it waits
  MemoryBudget::Reservation frame_reservation_;   // for what a large frame takes beyond that
  std::optional<Pending> pending_;                // nothing is read behind it
  std::deque<grpc::ByteBuffer> together_;  // frames that have come in one message, and are left
  absl::flat_hash_map<uint64_t, Entry> tensors_;
  absl::flat_hash_set<uint64_t> failed_;  // whose frames are dropped
  OpenTensor* current_ = nullptr;         // has been given a chunk
  std::optional<grpc::ByteBuffer> last_;  // of a single tensor, until the peer has closed
  int64_t request_bytes_ = 0;  // of a unary call
  bool any_start_ = false, any_end_ = false;
  int64_t num_ending_ = 0, num_done_ = 0, num_failed_ = 0;
  CallTimes times_;
};

}  // namespace quantd

#endif  // QUANTD_SERVER_CALLS_TENSOR_STREAM_H_
