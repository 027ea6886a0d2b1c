#ifndef QUANTD_CLIENT_EXCHANGE_H_
#define QUANTD_CLIENT_EXCHANGE_H_

#include <grpcpp/support/byte_buffer.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/frame_size.h"
#include "client/stream_region.h"
#include "client/tensor_call.h"
#include "client/types.h"
#include "core/base/mutex.h"
#include "proto/frame_codec.h"

namespace quantd {

// The calls of one round that no stream has taken yet. Thread-safe.
class CallQueue {
 public:
  explicit CallQueue(std::span<TensorCall* const> calls) : calls_(calls.begin(), calls.end()) {}
  // Returns the next call, or null.
  TensorCall* Pop() ABSL_LOCKS_EXCLUDED(mutex_);
  bool empty() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  Mutex mutex_;
  std::deque<TensorCall*> calls_ ABSL_GUARDED_BY(mutex_);
};

// What carries the messages of a stream: gRPC, or a simulation of it. All calls come under the
// exchange's lock, and return before what they ask for happens.
class StreamPort {
 public:
  virtual ~StreamPort() = default;
  // Reads the next message into `message`, then says so by OnRead.
  virtual void Read(grpc::ByteBuffer* message) = 0;
  // Writes `message`, which stays as it is until OnWritten.
  virtual void Write(const grpc::ByteBuffer* message) = 0;
  // Says that nothing more will be written. No event follows from it.
  virtual void WritesDone() = 0;
  // Ends the stream: what is under way fails.
  virtual void Cancel() = 0;
};

// One stream with its calls, as a machine. What the peer and the port do are events: they come in
// by the methods that begin with On, and actions go out by the port. Sources and sinks block, so
// that what they are asked for are jobs: WriteStep makes the next request, ReadStep takes the next
// response. Each does what can be done now and says whether it can go on, and it is none of the
// exchange's business who has time for it: a thread each, as in run_calls.cc, or one for all.
//
//   queue, sources -> WriteStep -> outbox -> Write, OnWritten
//            sinks <- ReadStep  <- inbox  <- Read, OnRead
//
// A few messages are read ahead, and flow control holds back the rest. Behind the message that is
// being written lies one large one, or some small ones, which then go together in one. Calls are written one after the other,
// while the responses of those before come in. The first one of a stream, unless it is small, sends
// its `start` and no payload before the server has answered that: a server that is short of memory
// then holds nothing of it while it waits. A stream is in one of these states:
//
//   kOpen -------- no calls are left -------> kFlushing
//     |                                           | all is written: WritesDone
//     +- a write fails: reading tells why -+      v
//     |                                    +-> kReading
//     |                                           |
//     +--- in any of these, what comes cannot be: Cancel -> kCancelled  drops what still comes
//     |                                           |              |
//     +--------------- the peer has said all: OnRead(false) -----+
//                                |
//                                v
//                             kEnding -- OnEnded --> kEnded   when all is taken, open calls fail
//
// From kEnding on no action goes out. It knows no clock, no thread and no channel; tests/client
// runs it with a port that is moved by hand, tests/sim against the server's calls. Thread-safe, but
// for one WriteStep and one ReadStep at a time.
class Exchange {
 public:
  // `port` and `queue` outlive this; `region` may be null.
  Exchange(const StreamMethod& method, StreamPort& port, CallQueue& queue,
           std::unique_ptr<StreamRegion> region, const CallOptions& options);

  // Begins to read.
  void Run() ABSL_LOCKS_EXCLUDED(mutex_);

  void OnRead(bool ok) ABSL_LOCKS_EXCLUDED(mutex_);
  void OnWritten(bool ok) ABSL_LOCKS_EXCLUDED(mutex_);
  // The stream is over: the last event, after OnRead(false) and when nothing is being written.
  void OnEnded(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mutex_);

  enum class Step {
    kMore,  // call it again
    kWait,  // call it again when an event has come, or a step of the other kind
    kOver,  // this job is done
  };
  Step WriteStep(absl::Time now) ABSL_LOCKS_EXCLUDED(mutex_);
  Step ReadStep() ABSL_LOCKS_EXCLUDED(mutex_);
  // For threads: these wait until it would not say kWait.
  void AwaitWrite() ABSL_LOCKS_EXCLUDED(mutex_);
  void AwaitRead() ABSL_LOCKS_EXCLUDED(mutex_);

  // When both jobs are over: what calls that found no room on the stream fail with.
  absl::Status Failure() ABSL_LOCKS_EXCLUDED(mutex_);
  // Likewise: the memory, if it is of use to another stream.
  std::unique_ptr<StreamRegion> TakeRegion() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  enum class State { kOpen, kFlushing, kReading, kCancelled, kEnding, kEnded };

  bool MayWrite() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool MayRead() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void StartRead() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void StartWrite() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FailOpenCalls() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status FailureOfCalls() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Step OpenCall() ABSL_LOCKS_EXCLUDED(mutex_);
  Step WriteRequest(bool has_failed, RequestRoom room) ABSL_LOCKS_EXCLUDED(mutex_);

  absl::StatusOr<ParsedFrame> Parse(const grpc::ByteBuffer& message) const;
  absl::Status TakeMessage(const grpc::ByteBuffer& message) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status TakeResponse(ParsedFrame& frame) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status TakeReleased(const ParsedFrame& frame) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status Dispatch(const ParsedFrame& frame) ABSL_LOCKS_EXCLUDED(mutex_);
  void Break(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mutex_);

  const StreamMethod& method_;
  StreamPort& port_;
  CallQueue& queue_;
  const size_t max_open_;
  std::unique_ptr<StreamRegion> region_;  // null: none; which input slots are free is under mutex_

  // WriteStep's alone.
  FrameSize frame_size_;
  TensorCall* writing_call_ = nullptr;  // the call that is being written; null: the next one
  uint64_t writing_id_ = 0;             // its id; 0: it is not open yet

  Mutex mutex_;
  State state_ ABSL_GUARDED_BY(mutex_) = State::kOpen;
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::ByteBuffer incoming_ ABSL_GUARDED_BY(mutex_);  // the port's while reading_
  grpc::ByteBuffer outgoing_ ABSL_GUARDED_BY(mutex_);  // the port's while writing_
  std::deque<grpc::ByteBuffer> inbox_ ABSL_GUARDED_BY(mutex_);
  std::deque<grpc::ByteBuffer> outbox_ ABSL_GUARDED_BY(mutex_);
  size_t outbox_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool wants_slot_ ABSL_GUARDED_BY(mutex_) = false;  // the next request does
  bool is_let_in_ ABSL_GUARDED_BY(mutex_) = false;   // the server has taken a `start`
  bool awaits_start_ ABSL_GUARDED_BY(mutex_) = false;  // the call that is written does
  absl::flat_hash_map<uint64_t, TensorCall*> open_ ABSL_GUARDED_BY(mutex_);  // by id
  uint64_t last_id_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace quantd

#endif  // QUANTD_CLIENT_EXCHANGE_H_
