#ifndef QUANTD_SERVER_CALLS_FRAME_STREAM_H_
#define QUANTD_SERVER_CALLS_FRAME_STREAM_H_

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/base/mutex.h"
#include "core/exec/cancel_token.h"
#include "server/admit/admission.h"
#include "server/admit/caller_accounts.h"
#include "server/admit/idle_watch.h"
#include "server/net/caller.h"
#include "server/observe/call_record.h"
#include "server/service_context.h"

namespace quantd {

// Takes response frames. Thread-safe.
class FrameOutbox {
 public:
  virtual ~FrameOutbox() = default;
  // Queues `frame`. Never blocks: the stream asks for no more work while too much is queued.
  virtual void Send(grpc::ByteBuffer frame) = 0;
  // True if everything has been sent.
  virtual bool Drained() = 0;
  // True if another request frame has come.
  virtual bool MoreHasCome() = 0;
  // True while so much is queued that no more shall be made; the handler's Work will be called when
  // some of it has been sent. Takes no lock.
  virtual bool Full() = 0;
  // Returns what has the handler's Work called again; it may be called at any time, even when the
  // stream is gone.
  virtual std::function<void()> Waker() = 0;
};

// What is to be done next for a handler.
enum class Progress {
  kMore,      // call Work again
  kIdle,      // nothing is left of the frame
  kBusy,      // call Work again when the waker says so, or a frame has been sent
  kDraining,  // call Work again when all responses have been sent
  kWaiting,   // call Grant when there is memory for its wish(); it holds none
};

// Memory that a handler waits for.
struct MemoryWish {
  int64_t bytes = 0;
  absl::string_view what;  // for messages: what it is for
};

// What one kind of stream does with its frames. The stream makes all calls one at a time, on the
// executor. Not thread-safe.
class FrameHandler {
 public:
  virtual ~FrameHandler() = default;
  // Takes one request frame; nothing is left of those before. An error ends the stream.
  virtual absl::Status Accept(const grpc::ByteBuffer& frame) = 0;
  // False while the frame accepted last waits for memory: nothing is read behind it.
  virtual bool may_read_on() const = 0;
  // Does some stripes' worth of what the frame has left to do. An error ends the stream.
  virtual absl::StatusOr<Progress> Work() = 0;
  virtual MemoryWish wish() const = 0;
  // Hands over, instead of a call of Work, what was wished for. An error ends the stream.
  virtual absl::Status Grant(MemoryBudget::Reservation granted) = 0;
  // Says, likewise, that there will be no memory.
  virtual absl::Status Refuse(const absl::Status& status) = 0;
  // Says that the peer has sent all its frames; the result is the stream's. Called when may_close().
  virtual absl::Status Close() = 0;
  virtual bool may_close() const { return true; }
  // True while something is at work that no turn does.
  virtual bool busy() const = 0;
  // Says that nobody wants any results any more. Called instead of the other calls, under the
  // stream's lock.
  virtual void Cancel() = 0;
  // Returns what the log shall say of the stream.
  virtual std::string Summary() const = 0;
  // Returns what of its time went into statistics and encoding.
  virtual CallTimes times() const = 0;
};

// The machine between a gRPC stream and its handler: one frame is read while another one is worked
// on and others are written. Frames wait in gRPC, where flow control holds the peer back, while
// kMaxFramesRead wait here or while too much output is queued. The second frame is not read before
// the handler has the memory for it.
//
// Lives until gRPC is done with the call and no worker is at it. Thread-safe.
class FrameStream : public FrameOutbox,
                    public Idler,
                    public std::enable_shared_from_this<FrameStream> {
 public:
  // `stream` is what the caller may hold, `base` what is read before there is more.
  FrameStream(ServiceContext& context, grpc::CallbackServerContext& call, Caller caller,
              CallerAccounts::Stream stream, MemoryBudget::Reservation base,
              absl::string_view method);
  ~FrameStream() override;

  // Begins to read. `handler` may use this stream as its outbox, and `cancel_token`.
  void Run(std::unique_ptr<FrameHandler> handler);

  void Send(grpc::ByteBuffer frame) override;
  bool Drained() override;
  bool MoreHasCome() override;
  bool Full() override;
  std::function<void()> Waker() override;
  // Ends the call with kDeadlineExceeded; while the peer leaves a response untaken, it cannot be
  // told and finds the call cancelled.
  bool EndIfIdle(absl::Duration timeout) override;
  const CancelToken& cancel_token() const { return cancel_; }
  CallContext& call_context() { return call_context_; }

 protected:
  // What gRPC has told.
  void HandleRead(bool ok);
  void HandleWrite(bool ok);
  void HandleCancel();
  void HandleDone();
  void Wake();

  // What gRPC shall do. None of these calls back before it returns.
  virtual void ReadNext(grpc::ByteBuffer* frame) = 0;
  // `more_follows`: right behind it, so that gRPC may send both at once.
  virtual void WriteNext(const grpc::ByteBuffer* frame, bool more_follows) = 0;
  virtual void EndCall(const absl::Status& status) = 0;

 private:
  // Has a turn run, if one is due. True if it shall be the caller who runs it, without the lock,
  // which only HandleRead, on gRPC's thread, offers.
  bool Schedule(bool may_run_here) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SubmitTurn() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MaybeRead() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MaybeWrite() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MaybeEnd() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool MustStop() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  enum class Next { kFrame, kClose, kWork, kStop };
  Next TakeNext(grpc::ByteBuffer& frame) ABSL_LOCKS_EXCLUDED(mutex_);
  void Turn(bool here);
  void Wait(Progress progress);
  void Resume(absl::StatusOr<MemoryBudget::Reservation> answer);
  absl::StatusOr<Progress> WorkOrAnswer();

  ServiceContext& context_;
  grpc::CallbackServerContext& call_;
  const Caller caller_;
  const CallerAccounts::Stream stream_;
  const MemoryBudget::Reservation base_;
  CallContext call_context_;
  CancelToken cancel_;
  std::unique_ptr<FrameHandler> handler_;  // used by the turn at work alone
  std::shared_ptr<FrameStream> self_;      // until gRPC is done

  Mutex mutex_;
  grpc::ByteBuffer incoming_ ABSL_GUARDED_BY(mutex_);  // gRPC's while reading_
  std::deque<grpc::ByteBuffer> inbox_ ABSL_GUARDED_BY(mutex_);
  std::deque<grpc::ByteBuffer> outbox_ ABSL_GUARDED_BY(mutex_);  // the first is gRPC's if writing_
  std::atomic<size_t> queued_bytes_ = 0;  // in outbox_
  std::atomic<bool> starved_ = false;     // somebody was told that it is full
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool corked_ ABSL_GUARDED_BY(mutex_) = false;       // the handler is about to send more
  bool half_closed_ ABSL_GUARDED_BY(mutex_) = false;  // the peer has sent everything
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;       // the handler has been told
  bool working_ ABSL_GUARDED_BY(mutex_) = false;      // a turn is submitted or at work
  bool admitted_ ABSL_GUARDED_BY(mutex_) = false;     // a frame has been worked off
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;     // the handler waits for the outbox
  bool waiting_ ABSL_GUARDED_BY(mutex_) = false;      // the handler waits for memory
  bool woken_ ABSL_GUARDED_BY(mutex_) = false;        // the waker was called during a turn
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;        // EndCall was called
  // The memory that the handler waits for, or why there will be none.
  std::optional<absl::StatusOr<MemoryBudget::Reservation>> answer_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Admission::Place> place_ ABSL_GUARDED_BY(mutex_);  // in the queue
  absl::Status status_ ABSL_GUARDED_BY(mutex_);                      // an error ends the stream
  absl::Time progress_ ABSL_GUARDED_BY(mutex_);   // when the peer or a turn last did something
  absl::Time submitted_ ABSL_GUARDED_BY(mutex_);  // the turn that waits for a worker
  absl::Duration slow_step_ ABSL_GUARDED_BY(mutex_) = absl::Milliseconds(1);  // of late
  absl::Time write_began_ ABSL_GUARDED_BY(mutex_);  // of the frame that is gRPC's
  CallRecord record_ ABSL_GUARDED_BY(mutex_);
};

using MakeHandler = std::function<std::unique_ptr<FrameHandler>(
    CallContext& context, FrameOutbox& outbox, const CancelToken& cancel)>;

// Returns the reactor of a bidirectional stream, which deletes itself. Callers that may not make
// calls are told so.
grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* ServeBidi(
    ServiceContext& context, grpc::CallbackServerContext& call, absl::string_view method,
    const MakeHandler& make_handler);

// Returns the reactor of a client stream, likewise; the last frame that the handler sends is the
// response.
grpc::ServerReadReactor<grpc::ByteBuffer>* ServeClientStream(ServiceContext& context,
                                                             grpc::CallbackServerContext& call,
                                                             grpc::ByteBuffer* response,
                                                             absl::string_view method,
                                                             const MakeHandler& make_handler);

}  // namespace quantd

#endif  // QUANTD_SERVER_CALLS_FRAME_STREAM_H_
