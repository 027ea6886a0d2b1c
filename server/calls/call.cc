// Entries: Open, the events, OnRead and its like, and the turn that they have run: Turn. Tested by
// tests/server, and by tests/sim with orders of events that no test of ours would think of.
#include "server/calls/call.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_detail.h"
#include "core/base/status_macros.h"
#include "proto/frame_codec.h"
#include "server/calls/requests.h"

namespace quantd {
namespace {

// After this many steps a call lets others have the worker.
constexpr int kStepsPerTurn = 16;
// Behind a frame that may be a start nothing is read until it is known whether there is memory.
constexpr size_t kStartFrameBytes = size_t{64} << 10;
// Up to so large a frame, and steps so short of late, the turn is run by the thread that brought
// the frame: waking another costs more. Of a unary call nothing is known but its size.
constexpr size_t kMaxBytesHere = size_t{256} << 10;
constexpr size_t kMaxUnaryBytesHere = size_t{64} << 10;
constexpr absl::Duration kMaxStepHere = absl::Microseconds(250);
constexpr absl::Duration kFirstStep = absl::Milliseconds(1);  // of a stream, before one is known
// Unary calls up to here have a worker of their own, which bulk work does not keep waiting.
constexpr size_t kSmallCallBytes = size_t{256} << 10;
// Of a unary call, what it holds in any case: all of a tiny one.
constexpr int64_t kUnaryBaseBytes = int64_t{64} << 10;
// How long a peer may keep its first frame to itself while places are scarce, and how long sending
// a request may take while others wait to send theirs.
constexpr absl::Duration kSilenceInCrowd = absl::Seconds(5);
constexpr absl::Duration kReadingInCrowd = absl::Seconds(2);
constexpr absl::Duration kRetryAfter = absl::Seconds(1);
// What a response takes beside its bytes: a peer can have very many small ones wait.
constexpr size_t kFrameOverheadBytes = 512;

}  // namespace

absl::StatusOr<std::shared_ptr<Call>> Call::Open(ServiceContext& context, CallPort& port,
                                                 const Caller& caller, CallFacts facts,
                                                 std::shared_ptr<const SharedRegion> shared) {
  CallerAccounts& accounts = *context.accounts;
  QUANTD_ASSIGN_OR_RETURN(
      CallerAccounts::Stream stream,
      facts.kind == CallKind::kUnary ? accounts.OpenUnary(caller) : accounts.OpenStream(caller));
  WaitingRoom::Place base;
  if (facts.kind != CallKind::kHealth) {
    const bool is_stream = facts.kind == CallKind::kStream;
    QUANTD_ASSIGN_OR_RETURN(
        base, context.waiting_room->Enter(caller.name,
                                          is_stream ? WaitingRoom::kStreamBytes : kUnaryBaseBytes,
                                          is_stream ? "a stream" : "a call", context.now()));
  }
  return std::shared_ptr<Call>(new Call(context, port, caller, std::move(facts), std::move(stream),
                                        std::move(base), std::move(shared)));
}

Call::Call(ServiceContext& context, CallPort& port, const Caller& caller, CallFacts facts,
           CallerAccounts::Stream stream, WaitingRoom::Place base,
           std::shared_ptr<const SharedRegion> shared)
    : context_(context),
      port_(port),
      caller_name_(caller.name),
      revoked_(caller.revoked),
      stream_(std::move(stream)),
      base_(std::move(base)),
      call_context_{.service = context,
                    .session = context.session,
                    .shared = std::move(shared),
                    .base_bytes = base_.bytes(),
                    .caller = caller.name},
      max_bytes_here_(facts.kind == CallKind::kStream ? kMaxBytesHere : kMaxUnaryBytesHere),
      executor_(context.session.executor),
      progress_(context.now()),
      slow_step_(facts.kind == CallKind::kStream ? kFirstStep : absl::ZeroDuration()),
      record_(context, std::move(facts)) {
  MutexLock lock(&mutex_);  // what the port's threads do next comes after this
  call_context_.session.budget = stream_.memory().get();
}

Call::~Call() {
  { MutexLock lock(&mutex_); }  // what other threads have done comes before this
  handler_.reset();             // under no lock: its sessions may still send
}

void Call::Run(MakeHandler make_handler) {
  handler_ = make_handler(call_context_, *this, cancel_);
  watched_ = context_.idle_watch->Add(weak_from_this());
  MutexLock lock(&mutex_);
  self_ = shared_from_this();
  if (record_.kind() == CallKind::kStream) {
    MaybeRead();
  } else {
    ReadRequest();
  }
}

// --- What handlers and their sessions ask for ---

void Call::Send(grpc::ByteBuffer frame) {
  MutexLock lock(&mutex_);
  Queue(std::move(frame));
}

void Call::SendLast(grpc::ByteBuffer frame) {
  MutexLock lock(&mutex_);
  peer_ = Peer::kAnswered;
  Queue(std::move(frame));
}

void Call::Queue(grpc::ByteBuffer frame) {
  if (MustStop() || state_ == State::kEnded) return;
  queued_bytes_ += frame.Length() + kFrameOverheadBytes;
  outbox_.emplace_back().Swap(&frame);
  if (state_ != State::kAccepting) MaybeWrite();  // answers to one frame go out together
}

bool Call::Drained() {
  MutexLock lock(&mutex_);
  return outbox_.empty() && !writing_;
}

void Call::SendTogether() {
  MutexLock lock(&mutex_);
  together_ = held_ = true;
}

void Call::SendHeld() {
  held_ = false;
  MaybeWrite();
}

bool Call::Full() {
  const auto max_bytes = static_cast<size_t>(context_.limits.max_queued_bytes);
  if (queued_bytes_ < max_bytes) return false;
  starved_ = true;  // and look again, so that a write that has ended meanwhile is not missed
  return queued_bytes_ >= max_bytes;
}

std::function<void()> Call::Waker() {
  return [call = weak_from_this()] {
    const auto self = call.lock();
    if (self == nullptr) return;
    MutexLock lock(&self->mutex_);
    self->progress_ = self->context_.now();
    self->Stir(/*may_run_here=*/false);
  };
}

bool Call::MoreHasCome() {
  MutexLock lock(&mutex_);
  return inbox_.has_value();
}

// --- Events ---

void Call::OnRead(ReadResult result) {
  {
    MutexLock lock(&mutex_);
    reading_ = false;
    progress_ = context_.now();
    bool is_small = true;
    switch (result) {
      case ReadResult::kFrame:
        heard_ = true;
        if (const absl::Status fits = CheckMessageSize(record_.rpc(), incoming_.Length(),
                                                       context_.limits.max_message_bytes);
            !fits.ok()) {
          incoming_.Clear();
          status_.Update(fits);
          return MaybeEnd();
        }
        is_small = incoming_.Length() <= max_bytes_here_;
        if (record_.kind() != CallKind::kStream && incoming_.Length() <= kSmallCallBytes) {
          call_context_.session.executor = executor_ = context_.small_calls;
        }
        record_.AddReceived(static_cast<int64_t>(incoming_.Length()));
        inbox_.emplace().Swap(&incoming_);
        break;
      case ReadResult::kHalfClose:
        if (peer_ == Peer::kSends) peer_ = Peer::kHalfClosed;
        break;
      case ReadResult::kBroken:
        cancel_.Cancel();
        return MaybeEnd();
    }
    if (!Stir(/*may_run_here=*/is_small && slow_step_ <= kMaxStepHere)) return;
  }
  Turn(/*here=*/true);
}

void Call::OnWritten(bool ok) {
  MutexLock lock(&mutex_);
  writing_ = false;
  progress_ = context_.now();
  if (!ok) cancel_.Cancel();  // the peer is gone
  queued_bytes_ -= std::exchange(outgoing_bytes_, 0);
  record_.AddSent(static_cast<int64_t>(outgoing_.Length()));
  record_.AddSend(context_.now() - write_began_);
  outgoing_.Clear();
  MaybeWrite();
  if (starved_.exchange(false)) Stir(/*may_run_here=*/false);  // a turn at work found it full
  if (state_ == State::kDraining && outbox_.empty() && !writing_) {
    state_ = State::kIdle;
    Stir(/*may_run_here=*/false);
  }
  MaybeEnd();  // if it was the last one, or there shall be no more
}

void Call::OnCancelled() {
  MutexLock lock(&mutex_);
  cancel_.Cancel();
  MaybeEnd();
}

bool Call::EndIfIdle(absl::Duration timeout) {
  MutexLock lock(&mutex_);
  const absl::Duration idle = context_.now() - progress_;
  if (state_ == State::kEnded && peer_ == Peer::kAnswered && idle >= timeout) {
    peer_ = Peer::kClosed;
    port_.Cancel();  // nobody takes the answer
    return true;
  }
  if (state_ == State::kEnded || MustStop()) return false;
  const absl::Status reason = ReasonToEnd(timeout);
  if (reason.ok()) return false;
  status_ = reason;
  if (writing_) port_.Cancel();  // nothing else ends a write that the peer does not take
  MaybeEnd();
  return true;
}

absl::Status Call::ReasonToEnd(absl::Duration timeout) {
  if (revoked_ != nullptr && revoked_->load()) {
    return absl::UnauthenticatedError("the call's token has been taken back");
  }
  const bool holds_nothing = state_ == State::kWaiting || (state_ == State::kIdle && !heard_);
  if (holds_nothing && context_.waiting_room->MustLeave(caller_name_, context_.now())) {
    return context_.waiting_room->Dismissal();
  }
  const bool waits_for_peer = (state_ == State::kIdle || state_ == State::kDraining) &&
                              (reading_ || writing_) && !handler_->busy();
  return waits_for_peer ? IdleError(timeout) : absl::OkStatus();
}

absl::Status Call::IdleError(absl::Duration timeout) {
  const absl::Duration idle = context_.now() - progress_;
  const std::string seconds = absl::FormatDuration(absl::Trunc(idle, absl::Seconds(1)));
  if (idle >= timeout) {
    return absl::DeadlineExceededError(absl::StrCat(
        "the client has neither sent nor taken a frame for ", seconds, " (--idle-timeout)"));
  }
  if (heard_) return absl::OkStatus();
  if (reading_room_.bytes() > 0 && idle >= kReadingInCrowd && context_.readers->crowded()) {
    return WithRetryAfter(
        absl::ResourceExhaustedError(absl::StrCat(
            "the request has not come within ", seconds, ", and others wait to send theirs")),
        kRetryAfter);
  }
  if (idle >= kSilenceInCrowd && context_.waiting_room->crowded()) {
    return WithRetryAfter(
        absl::ResourceExhaustedError(absl::StrCat(
            "nothing has come within ", seconds,
            ", and the waiting room (--max-waiting, --memory) is crowded")),
        kRetryAfter);
  }
  return absl::OkStatus();
}

void Call::OnAnswer(absl::StatusOr<MemoryBudget::Reservation> answer) {
  MutexLock lock(&mutex_);
  if (state_ != State::kWaiting) return;
  state_ = State::kIdle;
  record_.AddMemoryWait(context_.now() - place_->since());
  place_.reset();
  progress_ = context_.now();
  if (heard_) {
    answer_ = std::move(answer);
    Stir(/*may_run_here=*/false);
  } else if (answer.ok()) {
    reading_room_ = *std::move(answer);
    MaybeRead();
  } else {
    status_ = answer.status();
    MaybeEnd();
  }
}

void Call::OnDone() {
  std::shared_ptr<Call> self;  // destroyed after the lock
  MutexLock lock(&mutex_);
  watched_ = IdleWatch::Place();
  self = std::move(self_);
  record_.End(status_, handler_->Summary());
}

// --- Actions ---

bool Call::AtWork() {
  return state_ == State::kDue || state_ == State::kAtWork || state_ == State::kStirred ||
         state_ == State::kAccepting;
}

bool Call::Stir(bool may_run_here) {
  switch (state_) {
    case State::kAtWork:
      state_ = State::kStirred;
      return false;
    case State::kIdle:
      break;
    case State::kDue:
    case State::kStirred:
    case State::kAccepting:
    case State::kDraining:
    case State::kWaiting:
    case State::kEnded:
      return false;
  }
  if (may_run_here) {
    state_ = State::kDue;
    submitted_ = context_.now();
  } else {
    SubmitTurn();
  }
  return may_run_here;
}

void Call::SubmitTurn() {
  state_ = State::kDue;
  submitted_ = context_.now();
  executor_->Submit([self = shared_from_this()] { self->Turn(/*here=*/false); });
}

void Call::ReadRequest() {
  constexpr absl::string_view kWhat = "reading a request";
  const int64_t bytes = context_.limits.max_message_bytes;
  if (!context_.readers->crowded()) {
    absl::StatusOr<MemoryBudget::Reservation> room = context_.reading_room->Reserve(bytes, kWhat);
    if (room.ok()) {
      reading_room_ = *std::move(room);
      return MaybeRead();
    }
  }
  state_ = State::kWaiting;
  place_ = context_.readers->Wait(
      {caller_name_, context_.reading_room, bytes, kWhat, record_.deadline()}, context_.now(),
      [call = weak_from_this()](absl::StatusOr<MemoryBudget::Reservation> answer) {
        if (const auto self = call.lock()) self->OnAnswer(std::move(answer));
      });
}

void Call::MaybeRead() {
  if (reading_ || peer_ != Peer::kSends || state_ == State::kEnded || MustStop() ||
      inbox_.has_value()) {
    return;
  }
  reading_ = true;
  port_.Read(&incoming_);
}

bool Call::HasWritten() {
  const size_t left = peer_ == Peer::kAnswered ? 1 : 0;
  return !writing_ && outbox_.size() <= left;
}

void Call::MaybeWrite() {
  if (writing_ || state_ == State::kEnded) return;
  if (MustStop()) {
    outbox_.clear();
    queued_bytes_ = 0;
  }
  if (HasWritten() || (held_ && queued_bytes_ < kMaxBytesBehindFirst)) return;
  writing_ = true;
  write_began_ = context_.now();
  Together next = TakeTogether(outbox_, together_ ? kResponseFrame.frames : 0);
  outgoing_.Swap(&next.message);
  outgoing_bytes_ = next.frame_bytes + next.num_frames * kFrameOverheadBytes;
  port_.Write(&outgoing_, /*more_follows=*/!outbox_.empty());
}

bool Call::MustStop() { return cancel_.cancelled() || !status_.ok(); }

void Call::MaybeEnd() {
  if (AtWork() || state_ == State::kEnded) return;
  if (cancel_.cancelled()) {
    // With no operation pending nobody else would end the call.
    if (status_.ok() || absl::IsCancelled(status_)) status_ = record_.Cancellation();
  } else if (status_.ok()) {
    const bool has_closed = peer_ == Peer::kClosed && !inbox_.has_value();
    if ((!has_closed && peer_ != Peer::kAnswered) || !HasWritten()) return;
  } else if (writing_) {
    return;
  }
  if (state_ == State::kWaiting) record_.AddMemoryWait(context_.now() - place_->since());
  state_ = State::kEnded;
  place_.reset();
  answer_.reset();
  handler_->Cancel();
  const CallTimes times = handler_->times();
  record_.AddTimes(times.statistics, times.encode);
  const bool has_last = status_.ok() && peer_ == Peer::kAnswered;
  if (has_last) record_.AddSent(static_cast<int64_t>(outbox_.front().Length()));
  port_.Finish(status_, record_.Trailers(status_), has_last ? &outbox_.front() : nullptr);
}

// --- Turns ---

void Call::Turn(bool here) {
  for (int step = 0; step < kStepsPerTurn; ++step) {
    std::optional<absl::StatusOr<MemoryBudget::Reservation>> answer;
    if (!BeginStep(here, step == 0, answer)) return;
    const absl::StatusOr<Progress> progress =
        answer.has_value() ? TellAnswer(*std::move(answer)) : handler_->Work();
    if (progress.ok() && *progress == Progress::kMore) continue;
    if (progress.ok() && *progress != Progress::kIdle) return Pause(*progress);
    absl::Status status = progress.status();
    if (status.ok()) {
      grpc::ByteBuffer frame;
      const Next next = TakeNext(frame);
      if (next == Next::kStop) return;
      if (next == Next::kWork) continue;
      status = next == Next::kFrame ? handler_->Accept(frame) : handler_->Close();
    }
    if (!EndStep(status)) return;
  }
  MutexLock lock(&mutex_);
  SubmitTurn();
}

bool Call::BeginStep(bool here, bool is_first,
                     std::optional<absl::StatusOr<MemoryBudget::Reservation>>& answer) {
  MutexLock lock(&mutex_);
  const absl::Time now = context_.now();
  const absl::Duration last_step = now - std::exchange(step_began_, now);
  if (is_first) {
    record_.AddQueueWait(now - submitted_);
  } else {
    slow_step_ = std::max(last_step, slow_step_ / 2);
  }
  if (here && slow_step_ > kMaxStepHere) {  // the rest is for a worker
    SubmitTurn();
    return false;
  }
  state_ = State::kAtWork;  // what is told by now is looked at in this step
  if (Full() || MustStop()) {
    EndTurn(State::kIdle);
    return false;
  }
  std::swap(answer, answer_);
  return true;
}

absl::StatusOr<Progress> Call::TellAnswer(absl::StatusOr<MemoryBudget::Reservation> answer) {
  QUANTD_RETURN_IF_ERROR(answer.ok() ? handler_->Grant(*std::move(answer))
                                     : handler_->Refuse(answer.status()));
  return Progress::kMore;
}

Call::Next Call::TakeNext(grpc::ByteBuffer& frame) {
  MutexLock lock(&mutex_);
  SendHeld();
  if (inbox_.has_value()) {
    frame.Swap(&*inbox_);
    inbox_.reset();
    if (frame.Length() > kStartFrameBytes && handler_->may_read_ahead()) MaybeRead();
    state_ = State::kAccepting;
    return Next::kFrame;
  }
  if (handler_->may_read_on()) MaybeRead();
  if (peer_ == Peer::kHalfClosed && handler_->may_close()) {
    peer_ = Peer::kClosed;
    return Next::kClose;
  }
  if (state_ == State::kStirred) return Next::kWork;
  EndTurn(State::kIdle);
  return Next::kStop;
}

bool Call::EndStep(const absl::Status& status) {
  MutexLock lock(&mutex_);
  status_.Update(status);
  if (heard_) reading_room_ = MemoryBudget::Reservation();  // what it holds is reserved by now
  if (state_ == State::kAccepting) state_ = State::kAtWork;
  MaybeWrite();
  if (peer_ == Peer::kAnswered || MustStop()) {
    EndTurn(State::kIdle);
    return false;
  }
  if (handler_->may_read_on()) MaybeRead();
  return true;
}

void Call::EndTurn(State state) {
  SendHeld();
  const bool is_stirred = state_ == State::kStirred;
  state_ = state;
  progress_ = context_.now();  // what the peer waited for the work is not held against it
  MaybeEnd();
  if (is_stirred) Stir(/*may_run_here=*/false);
}

// Ends the turn at work until what the handler waits for is there.
void Call::Pause(Progress progress) {
  MutexLock lock(&mutex_);
  if (progress == Progress::kDraining && (!outbox_.empty() || writing_)) {
    return EndTurn(State::kDraining);
  }
  if (progress != Progress::kWaiting) {
    if (progress == Progress::kDraining) state_ = State::kStirred;  // has been sent meanwhile
    if (progress == Progress::kBusy && handler_->may_read_on()) MaybeRead();
    return EndTurn(State::kIdle);
  }
  const MemoryWish wish = handler_->wish();
  place_ = context_.admission->Wait(
      {caller_name_, stream_.memory(), wish.bytes, wish.what, record_.deadline()}, context_.now(),
      [call = weak_from_this()](absl::StatusOr<MemoryBudget::Reservation> answer) {
        if (const auto self = call.lock()) self->OnAnswer(std::move(answer));
      });
  EndTurn(State::kWaiting);
}

}  // namespace quantd
