#ifndef QUANTD_SERVER_CALLS_CALL_H_
#define QUANTD_SERVER_CALLS_CALL_H_

#include <grpcpp/support/byte_buffer.h>

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
#include "server/admit/waiting_room.h"
#include "server/net/caller.h"
#include "server/observe/call_record.h"
#include "server/service_context.h"

namespace quantd {

// Takes response frames. Thread-safe.
class FrameOutbox {
 public:
  virtual ~FrameOutbox() = default;
  // Queues `frame`. Never blocks: the call asks for no more work while too much is queued.
  virtual void Send(grpc::ByteBuffer frame) = 0;
  // Queues the last frame, which goes out together with the end of the call: nothing else is read.
  virtual void SendLast(grpc::ByteBuffer frame) = 0;
  // True if everything has been sent.
  virtual bool Drained() = 0;
  // True if another request frame has come.
  virtual bool MoreHasCome() = 0;
  // From now on frames may go together in a message, and those that answer the one at work do.
  virtual void SendTogether() = 0;
  // True while so much is queued that no more shall be made; the handler's Work will be called when
  // some of it has been sent. Takes no lock.
  virtual bool Full() = 0;
  // Returns what has the handler's Work called again; it may be called at any time, even when the
  // call is gone.
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

// What one kind of call does with its frames. All its methods are called one at a time, by turns.
// Unless it says otherwise it takes one frame, and waits for nothing. Not thread-safe.
class FrameHandler {
 public:
  virtual ~FrameHandler() = default;
  // Takes one request frame; nothing is left of those before. An error ends the call.
  virtual absl::Status Accept(const grpc::ByteBuffer& frame) = 0;
  // False while nothing is read behind the frame accepted last.
  virtual bool may_read_on() const { return false; }
  // True while it has memory for a frame beside the one that it is given.
  virtual bool may_read_ahead() const { return false; }
  // Does some stripes' worth of what the frame has left to do. An error ends the call.
  virtual absl::StatusOr<Progress> Work() { return Progress::kIdle; }
  virtual MemoryWish wish() const { return {}; }
  // Hands over, instead of a call of Work, what was wished for. An error ends the call.
  virtual absl::Status Grant(MemoryBudget::Reservation /*granted*/) { return absl::OkStatus(); }
  // Says, likewise, that there will be no memory.
  virtual absl::Status Refuse(const absl::Status& status) { return status; }
  // Says that the peer has sent all its frames; the result is the call's. Called when may_close().
  virtual absl::Status Close() = 0;
  virtual bool may_close() const { return true; }
  // True while something is at work that no turn does.
  virtual bool busy() const { return false; }
  // Says that nobody wants any results any more. Called instead of the other calls, under the
  // call's lock.
  virtual void Cancel() {}
  // Returns what the log shall say of the call.
  virtual std::string Summary() const { return {}; }
  // Returns what of its time went into statistics and encoding.
  virtual CallTimes times() const { return {}; }
};

// Makes a handler; its arguments outlive it.
using MakeHandler = std::unique_ptr<FrameHandler> (*)(CallContext& context, FrameOutbox& outbox,
                                                      const CancelToken& cancel);

// What brings frames and takes them: gRPC, or a simulation of it. All calls come under the
// machine's lock, and return before what they ask for happens.
class CallPort {
 public:
  virtual ~CallPort() = default;
  // Reads the next frame into `frame`, then says so by OnRead.
  virtual void Read(grpc::ByteBuffer* frame) = 0;
  // Writes `frame`, which stays as it is until OnWritten. `more_follows`: right behind it, so that
  // both may be sent at once.
  virtual void Write(const grpc::ByteBuffer* frame, bool more_follows) = 0;
  // Ends the call; nothing else follows. Reads and writes that are under way end first. `last`, a
  // frame that stays as it is until OnDone, goes out right before, in one piece; null: there is
  // none.
  virtual void Finish(const absl::Status& status, const CallTrailers& trailers,
                      const grpc::ByteBuffer* last) = 0;
  // Ends what is under way: the peer finds the call cancelled.
  virtual void Cancel() = 0;
};

// A call as a machine: events come in, by the methods that begin with On, and actions go out by the
// port. One frame is read while another one is worked on and others are written. Frames wait at the
// peer, whom flow control holds back, while one waits here or while too much output is queued. A
// unary call is one with a single frame each way: its handler reads no second one, and its answer
// is the last frame. That one frame may be as large as a message may be, and gRPC does not say
// beforehand how large it is, so it is read when there is room for the largest.
//
// Work is done in turns, one at a time, on the executor, or, if it is little, on the thread that
// brings a frame. Between turns the call is in one of these states:
//
//          +---------------- peer, session, sent: something is to be done -----------+
//          v                                                                         |
//        kDue --> kAtWork --> kIdle ----------------------------------------------- -+
//                  |   ^  `-> kDraining  until all responses are sent
//        frame     v   |  `-> kWaiting   until memory is granted, or refused; a unary call
//                  v   |                 first for room to read its request
//              kAccepting                             kEnded: Finish was called
//
// kStirred is kAtWork with something that the turn has not seen. Each event takes the lock once,
// and actions run under it, so that none follows Finish. It knows no clock but the context's, no
// thread and no socket: tests/sim runs it with thousands of orders of events.
//
// Lives until OnDone and until no turn is at work. Thread-safe.
class Call final : public FrameOutbox, public Idler, public std::enable_shared_from_this<Call> {
 public:
  // Lets a call in, before anything of it is read: a stream counts as one of its caller's, and all
  // take memory of the waiting room for what is read before there is more, but those of the health
  // service, which count as streams and always have an answer. kResourceExhausted: there is no
  // room. `port` lives until OnDone; `shared` is null where the client shares no memory.
  static absl::StatusOr<std::shared_ptr<Call>> Open(ServiceContext& context, CallPort& port,
                                                    const Caller& caller, CallFacts facts,
                                                    std::shared_ptr<const SharedRegion> shared);
  ~Call() override;

  // Begins to read. The handler is given this call as outbox.
  void Run(MakeHandler make_handler);

  enum class ReadResult {
    kFrame,      // a frame is there
    kHalfClose,  // the peer has sent everything
    kBroken,     // the call is cancelled, or its peer gone
  };
  void OnRead(ReadResult result);
  void OnWritten(bool ok);
  void OnCancelled();
  // The port is done with the call.
  void OnDone();
  // Ends the call with kDeadlineExceeded if it has waited for its peer for so long; while the peer
  // leaves a response untaken, it cannot be told and finds the call cancelled. Also ends one whose
  // token is taken back, and, where others find no room, one that holds nothing but its place.
  bool EndIfIdle(absl::Duration timeout) override;

  void Send(grpc::ByteBuffer frame) override;
  void SendLast(grpc::ByteBuffer frame) override;
  bool Drained() override;
  bool MoreHasCome() override;
  void SendTogether() override;
  bool Full() override;
  std::function<void()> Waker() override;

 private:
  enum class State { kIdle, kDue, kAtWork, kStirred, kAccepting, kDraining, kWaiting, kEnded };
  // What the peer still sends. kClosed: nothing, and the handler knows; kAnswered: nothing counts,
  // since the last frame is queued.
  enum class Peer { kSends, kHalfClosed, kClosed, kAnswered };
  enum class Next { kFrame, kClose, kWork, kStop };

  Call(ServiceContext& context, CallPort& port, const Caller& caller, CallFacts facts,
       CallerAccounts::Stream stream, WaitingRoom::Place base,
       std::shared_ptr<const SharedRegion> shared);

  void Queue(grpc::ByteBuffer frame) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // True if the peer has been sent all but the last frame of all, which goes out by Finish.
  bool HasWritten() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Something is to be done: has a turn run, or the one at work look again. True if it shall be the
  // caller who runs it, without the lock, which only OnRead offers.
  bool Stir(bool may_run_here) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SubmitTurn() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Reads the request of a unary call when there is room for one.
  void ReadRequest() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MaybeRead() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MaybeWrite() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MaybeEnd() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool MustStop() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Returns what the call shall end with though nothing has happened; OK: it goes on.
  absl::Status ReasonToEnd(absl::Duration timeout) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status IdleError(absl::Duration timeout) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool AtWork() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  void Turn(bool here);
  // False: the turn is over. Takes what has come of a wait for memory.
  bool BeginStep(bool here, bool is_first,
                 std::optional<absl::StatusOr<MemoryBudget::Reservation>>& answer)
      ABSL_LOCKS_EXCLUDED(mutex_);
  absl::StatusOr<Progress> TellAnswer(absl::StatusOr<MemoryBudget::Reservation> answer);
  Next TakeNext(grpc::ByteBuffer& frame) ABSL_LOCKS_EXCLUDED(mutex_);
  // False: the turn is over.
  bool EndStep(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mutex_);
  // Ends the turn in `state`, or begins another one if that is due already.
  void EndTurn(State state) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SendHeld() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Pause(Progress progress) ABSL_LOCKS_EXCLUDED(mutex_);
  void OnAnswer(absl::StatusOr<MemoryBudget::Reservation> answer);

  ServiceContext& context_;
  CallPort& port_;
  const std::string caller_name_;
  const std::shared_ptr<const std::atomic<bool>> revoked_;  // its token is; null: it needs none
  const CallerAccounts::Stream stream_;
  const WaitingRoom::Place base_;
  CallContext call_context_;
  const size_t max_bytes_here_;  // of a frame whose turn is run by the thread that brings it
  Executor* executor_;           // runs the other turns
  CancelToken cancel_;
  std::unique_ptr<FrameHandler> handler_;  // used by the turn at work alone
  std::shared_ptr<Call> self_;             // until OnDone

  Mutex mutex_;
  State state_ ABSL_GUARDED_BY(mutex_) = State::kIdle;
  Peer peer_ ABSL_GUARDED_BY(mutex_) = Peer::kSends;
  bool heard_ ABSL_GUARDED_BY(mutex_) = false;  // a frame has come
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::ByteBuffer incoming_ ABSL_GUARDED_BY(mutex_);              // the port's while reading_
  std::optional<grpc::ByteBuffer> inbox_ ABSL_GUARDED_BY(mutex_);  // a frame to be worked on
  std::deque<grpc::ByteBuffer> outbox_ ABSL_GUARDED_BY(mutex_);
  bool together_ ABSL_GUARDED_BY(mutex_) = false;      // several go in one message
  bool held_ ABSL_GUARDED_BY(mutex_) = false;  // a few are kept until all of them are there
  grpc::ByteBuffer outgoing_ ABSL_GUARDED_BY(mutex_);  // the port's while writing_
  size_t outgoing_bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // its share of queued_bytes_
  std::atomic<size_t> queued_bytes_ = 0;  // in outbox_, and outgoing
  std::atomic<bool> starved_ = false;     // somebody was told that it is full
  absl::Status status_ ABSL_GUARDED_BY(mutex_);  // an error ends the call
  // The memory that the handler waits for, or why there will be none.
  std::optional<absl::StatusOr<MemoryBudget::Reservation>> answer_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Admission::Place> place_ ABSL_GUARDED_BY(mutex_);  // in the queue; kWaiting
  MemoryBudget::Reservation reading_room_ ABSL_GUARDED_BY(mutex_);   // while a request is read
  absl::Time progress_ ABSL_GUARDED_BY(mutex_);     // when the peer or a turn last did something
  absl::Time submitted_ ABSL_GUARDED_BY(mutex_);    // the turn that waits for a worker
  absl::Time step_began_ ABSL_GUARDED_BY(mutex_);   // of the turn at work
  absl::Time write_began_ ABSL_GUARDED_BY(mutex_);  // of the frame that is the port's
  absl::Duration slow_step_ ABSL_GUARDED_BY(mutex_);  // of late
  CallRecord record_ ABSL_GUARDED_BY(mutex_);
  IdleWatch::Place watched_;  // until OnDone
};

}  // namespace quantd

#endif  // QUANTD_SERVER_CALLS_CALL_H_
