#include "server/calls/frame_stream.h"

#include <grpcpp/server_context.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/status_macros.h"
#include "server/calls/grpc_status.h"
#include "server/calls/refused_call.h"
#include "server/net/shared_regions.h"

namespace quantd {
namespace {

// Frames that were read and not yet worked on; one more is on its way.
constexpr size_t kMaxFramesRead = 1;
// After this many steps a stream lets others have the worker.
constexpr int kStepsPerTurn = 16;
// What is read before a stream has the memory for more: what gRPC reads ahead, and a start frame.
constexpr int64_t kBaseBytes = int64_t{512} << 10;
// Behind a frame that may be a start nothing is read until it is known whether there is memory.
constexpr size_t kStartFrameBytes = size_t{64} << 10;
// Up to so large a frame, and steps so short of late, the turn is run by gRPC's thread that read
// the frame: waking another costs more.
constexpr size_t kMaxBytesHere = size_t{256} << 10;
constexpr absl::Duration kMaxStepHere = absl::Microseconds(250);
// What a response takes beside its bytes: a peer can have very many small ones wait.
constexpr size_t kFrameOverheadBytes = 512;

}  // namespace

FrameStream::FrameStream(ServiceContext& context, grpc::CallbackServerContext& call, Caller caller,
                         CallerAccounts::Stream stream, MemoryBudget::Reservation base,
                         absl::string_view method)
    : context_(context),
      call_(call),
      caller_(std::move(caller)),
      stream_(std::move(stream)),
      base_(std::move(base)),
      call_context_{.service = context, .session = context.session},
      progress_(absl::Now()),
      record_(context, call, caller_, method, CallKind::kStream) {
  MutexLock lock(&mutex_);  // what gRPC's threads do next comes after this
  call_context_.session.budget = stream_.memory().get();
}

FrameStream::~FrameStream() {
  { MutexLock lock(&mutex_); }  // what other threads have done comes before this
  handler_.reset();             // under no lock: its sessions may still send
}

void FrameStream::Run(std::unique_ptr<FrameHandler> handler) {
  MutexLock lock(&mutex_);
  self_ = shared_from_this();
  context_.idle_watch->Add(self_);
  handler_ = std::move(handler);
  MaybeRead();
}

void FrameStream::Send(grpc::ByteBuffer frame) {
  MutexLock lock(&mutex_);
  if (MustStop() || ended_) return;
  queued_bytes_ += frame.Length() + kFrameOverheadBytes;
  outbox_.emplace_back().Swap(&frame);
  if (!corked_) MaybeWrite();
}

bool FrameStream::Drained() {
  MutexLock lock(&mutex_);
  return outbox_.empty();
}

bool FrameStream::Full() {
  const auto max_bytes = static_cast<size_t>(context_.limits.max_queued_bytes);
  if (queued_bytes_ < max_bytes) return false;
  starved_ = true;  // and look again, so that a write that has ended meanwhile is not missed
  return queued_bytes_ >= max_bytes;
}

std::function<void()> FrameStream::Waker() {
  return [stream = weak_from_this()] {
    if (const auto self = stream.lock()) self->Wake();
  };
}

void FrameStream::Wake() {
  MutexLock lock(&mutex_);
  progress_ = absl::Now();
  woken_ = true;
  Schedule(/*may_run_here=*/false);
}

bool FrameStream::MoreHasCome() {
  MutexLock lock(&mutex_);
  return !inbox_.empty();
}

void FrameStream::HandleRead(bool ok) {
  {
    MutexLock lock(&mutex_);
    reading_ = false;
    progress_ = absl::Now();
    bool is_small = true;
    if (ok) {
      is_small = incoming_.Length() <= kMaxBytesHere;
      record_.AddReceived(static_cast<int64_t>(incoming_.Length()));
      inbox_.emplace_back().Swap(&incoming_);
      MaybeRead();
    } else if (call_.IsCancelled()) {
      cancel_.Cancel();
    } else {
      half_closed_ = true;
    }
    if (!Schedule(/*may_run_here=*/is_small && slow_step_ <= kMaxStepHere)) return;
  }
  Turn(/*here=*/true);
}

void FrameStream::HandleWrite(bool ok) {
  MutexLock lock(&mutex_);
  writing_ = false;
  progress_ = absl::Now();
  if (!ok) cancel_.Cancel();  // the peer is gone
  const size_t frame_bytes = outbox_.front().Length();
  queued_bytes_ -= frame_bytes + kFrameOverheadBytes;
  record_.AddSent(static_cast<int64_t>(frame_bytes));
  record_.AddSend(absl::Now() - write_began_);
  outbox_.pop_front();
  MaybeWrite();
  const bool drained = draining_ && outbox_.empty();
  if (drained) draining_ = false;
  if (starved_.exchange(false)) woken_ = true;  // a turn at work may have found it full
  if (woken_ || closed_ || drained || MustStop()) Schedule(/*may_run_here=*/false);
}

void FrameStream::HandleCancel() {
  MutexLock lock(&mutex_);
  cancel_.Cancel();
  MaybeEnd();
}

bool FrameStream::EndIfIdle(absl::Duration timeout) {
  MutexLock lock(&mutex_);
  const absl::Duration idle = absl::Now() - progress_;
  const bool waits_for_peer =
      !working_ && !waiting_ && (reading_ || writing_) && !handler_->busy();
  if (ended_ || MustStop() || !waits_for_peer || idle < timeout) {
    return false;
  }
  status_ = absl::DeadlineExceededError(
      absl::StrCat("the client has neither sent nor taken a frame for ",
                   absl::FormatDuration(absl::Trunc(idle, absl::Seconds(1)))));
  if (writing_) call_.TryCancel();  // nothing else ends a write that the peer does not take
  MaybeEnd();
  return true;
}

void FrameStream::HandleDone() {
  std::shared_ptr<FrameStream> self;  // destroyed after the lock
  MutexLock lock(&mutex_);
  self = std::move(self_);
  record_.End(status_, handler_->Summary());
}

bool FrameStream::Schedule(bool may_run_here) {
  if (working_ || ended_ || ((draining_ || waiting_) && !MustStop())) return false;
  working_ = true;
  if (may_run_here) {
    submitted_ = absl::Now();
  } else {
    SubmitTurn();
  }
  return may_run_here;
}

void FrameStream::SubmitTurn() {
  submitted_ = absl::Now();
  context_.session.executor->Submit([self = shared_from_this()] { self->Turn(/*here=*/false); });
}

void FrameStream::MaybeRead() {
  const bool may_read = admitted_ || record_.received_bytes() == 0;
  if (!may_read || reading_ || half_closed_ || ended_ || MustStop() ||
      inbox_.size() >= kMaxFramesRead) {
    return;
  }
  reading_ = true;
  ReadNext(&incoming_);
}

void FrameStream::MaybeWrite() {
  if (writing_ || ended_) return;
  if (MustStop()) {
    outbox_.clear();
    queued_bytes_ = 0;
  }
  if (outbox_.empty()) return;
  writing_ = true;
  write_began_ = absl::Now();
  WriteNext(&outbox_.front(), /*more_follows=*/outbox_.size() > 1);
}

bool FrameStream::MustStop() { return cancel_.cancelled() || !status_.ok(); }

void FrameStream::MaybeEnd() {
  if (working_ || ended_) return;
  if (cancel_.cancelled()) {
    // With no operation pending nobody else would end the call.
    if (status_.ok() || absl::IsCancelled(status_)) status_ = record_.Cancellation();
  } else if (status_.ok()) {
    if (!closed_ || !inbox_.empty() || !outbox_.empty()) return;
  } else if (writing_) {
    return;
  }
  ended_ = true;
  if (waiting_) record_.AddMemoryWait(absl::Now() - place_->since());
  place_.reset();
  answer_.reset();
  handler_->Cancel();
  const CallTimes times = handler_->times();
  record_.AddTimes(times.statistics, times.encode);
  record_.AddTrailers(status_);
  EndCall(status_);
}

FrameStream::Next FrameStream::TakeNext(grpc::ByteBuffer& frame) {
  MutexLock lock(&mutex_);
  if (!inbox_.empty()) {
    frame.Swap(&inbox_.front());
    inbox_.pop_front();
    if (frame.Length() > kStartFrameBytes) MaybeRead();
    corked_ = true;
    return Next::kFrame;
  }
  if (half_closed_ && !closed_ && handler_->may_close()) {
    closed_ = true;
    return Next::kClose;
  }
  if (std::exchange(woken_, false)) return Next::kWork;
  working_ = false;
  progress_ = absl::Now();  // what the peer waited for the work is not held against it
  MaybeEnd();
  return Next::kStop;
}

void FrameStream::Turn(bool here) {
  {
    MutexLock lock(&mutex_);
    record_.AddQueueWait(absl::Now() - submitted_);
  }
  absl::Time step_begin = absl::Now();
  for (int step = 0; step < kStepsPerTurn; ++step) {
    {
      MutexLock lock(&mutex_);
      const absl::Time now = absl::Now();
      const absl::Duration last_step = now - std::exchange(step_begin, now);
      if (step > 0) slow_step_ = std::max(last_step, slow_step_ / 2);
      if (here && slow_step_ > kMaxStepHere) break;  // the rest is for a worker
      woken_ = false;  // what is told by now is looked at below
      if (Full() || MustStop()) {
        working_ = false;
        progress_ = absl::Now();
        MaybeEnd();
        return;
      }
    }
    const absl::StatusOr<Progress> progress = WorkOrAnswer();
    if (progress.ok() && *progress == Progress::kMore) continue;
    if (progress.ok() && *progress != Progress::kIdle) return Wait(*progress);
    absl::Status status = progress.status();
    if (status.ok()) {
      grpc::ByteBuffer frame;
      const Next next = TakeNext(frame);
      if (next == Next::kStop) return;
      if (next == Next::kWork) continue;
      status = next == Next::kFrame ? handler_->Accept(frame) : handler_->Close();
    }
    MutexLock lock(&mutex_);
    status_.Update(status);
    corked_ = false;
    MaybeWrite();
    if (handler_->may_read_on()) MaybeRead();
  }
  MutexLock lock(&mutex_);
  SubmitTurn();
}

absl::StatusOr<Progress> FrameStream::WorkOrAnswer() {
  std::optional<absl::StatusOr<MemoryBudget::Reservation>> answer;
  {
    MutexLock lock(&mutex_);
    std::swap(answer, answer_);
  }
  if (answer.has_value()) {
    QUANTD_RETURN_IF_ERROR(answer->ok() ? handler_->Grant(**std::move(answer))
                                        : handler_->Refuse(answer->status()));
    return Progress::kMore;
  }
  const absl::StatusOr<Progress> progress = handler_->Work();
  const bool is_admitted =
      progress.ok() && (*progress == Progress::kIdle || *progress == Progress::kBusy);
  if (!is_admitted) return progress;
  MutexLock lock(&mutex_);
  if (record_.received_bytes() > 0) {
    admitted_ = true;
    MaybeRead();
  }
  return progress;
}

// Ends the turn at work until what the handler waits for is there.
void FrameStream::Wait(Progress progress) {
  MutexLock lock(&mutex_);
  working_ = false;
  if (progress == Progress::kBusy) {
    progress_ = absl::Now();
    if (woken_) Schedule(/*may_run_here=*/false);
  } else if (progress == Progress::kDraining) {
    draining_ = !outbox_.empty();
    if (!draining_) Schedule(/*may_run_here=*/false);  // has been sent meanwhile
  } else {
    waiting_ = true;
    const MemoryWish wish = handler_->wish();
    place_ = context_.admission->Wait(
        {caller_.name, stream_.memory(), wish.bytes, wish.what, record_.deadline()}, absl::Now(),
        [stream = weak_from_this()](absl::StatusOr<MemoryBudget::Reservation> answer) {
          if (const auto self = stream.lock()) self->Resume(std::move(answer));
        });
  }
  MaybeEnd();
}

void FrameStream::Resume(absl::StatusOr<MemoryBudget::Reservation> answer) {
  MutexLock lock(&mutex_);
  if (ended_ || !waiting_) return;
  waiting_ = false;
  record_.AddMemoryWait(absl::Now() - place_->since());
  place_.reset();
  progress_ = absl::Now();
  answer_ = std::move(answer);
  Schedule(/*may_run_here=*/false);
}

namespace {

class BidiStream final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                         public FrameStream {
 public:
  using FrameStream::FrameStream;
  void OnReadDone(bool ok) override { HandleRead(ok); }
  void OnWriteDone(bool ok) override { HandleWrite(ok); }
  void OnCancel() override { HandleCancel(); }
  void OnDone() override { HandleDone(); }

 private:
  void ReadNext(grpc::ByteBuffer* frame) override { StartRead(frame); }
  void WriteNext(const grpc::ByteBuffer* frame, bool more_follows) override {
    grpc::WriteOptions options;
    if (more_follows) options.set_buffer_hint();
    StartWrite(frame, options);
  }
  void EndCall(const absl::Status& status) override { Finish(ToGrpc(status)); }
};

class ClientStream final : public grpc::ServerReadReactor<grpc::ByteBuffer>, public FrameStream {
 public:
  using FrameStream::FrameStream;
  void OnReadDone(bool ok) override { HandleRead(ok); }
  void OnCancel() override { HandleCancel(); }
  void OnDone() override { HandleDone(); }

 private:
  void ReadNext(grpc::ByteBuffer* frame) override { StartRead(frame); }
  void WriteNext(const grpc::ByteBuffer*, bool) override {}  // its handler has another outbox
  void EndCall(const absl::Status& status) override { Finish(ToGrpc(status)); }
};

// Keeps the last frame as the call's response.
class ResponseSlot final : public FrameOutbox {
 public:
  // `stream` outlives this.
  ResponseSlot(grpc::ByteBuffer* response, FrameStream& stream)
      : response_(response), stream_(stream) {}
  void Send(grpc::ByteBuffer frame) override { response_->Swap(&frame); }
  bool Drained() override { return true; }
  bool MoreHasCome() override { return false; }
  bool Full() override { return false; }
  std::function<void()> Waker() override { return stream_.Waker(); }

 private:
  grpc::ByteBuffer* const response_;
  FrameStream& stream_;
};

// Gives a handler the outbox that it uses as long as it lives.
class HandlerWithSlot final : public FrameHandler {
 public:
  HandlerWithSlot(std::unique_ptr<ResponseSlot> slot, std::unique_ptr<FrameHandler> handler)
      : slot_(std::move(slot)), handler_(std::move(handler)) {}
  absl::Status Accept(const grpc::ByteBuffer& frame) override { return handler_->Accept(frame); }
  bool may_read_on() const override { return handler_->may_read_on(); }
  absl::StatusOr<Progress> Work() override { return handler_->Work(); }
  MemoryWish wish() const override { return handler_->wish(); }
  absl::Status Grant(MemoryBudget::Reservation granted) override {
    return handler_->Grant(std::move(granted));
  }
  absl::Status Refuse(const absl::Status& status) override { return handler_->Refuse(status); }
  absl::Status Close() override { return handler_->Close(); }
  bool may_close() const override { return handler_->may_close(); }
  bool busy() const override { return handler_->busy(); }
  void Cancel() override { handler_->Cancel(); }
  std::string Summary() const override { return handler_->Summary(); }
  CallTimes times() const override { return handler_->times(); }

 private:
  const std::unique_ptr<ResponseSlot> slot_;
  const std::unique_ptr<FrameHandler> handler_;
};

// Returns the memory that the caller shares, null if it shares none. kUnavailable: its connection
// for that has ended, so that the call is to be made again with another.
absl::StatusOr<std::shared_ptr<const SharedRegion>> RegionOf(
    const grpc::CallbackServerContext& call, const ServiceContext& context) {
  const auto found = call.client_metadata().find(kMemoryTokenKey);
  if (found == call.client_metadata().end()) return nullptr;
  if (context.regions == nullptr) {
    return absl::UnavailableError("this server shares no memory with its clients");
  }
  return context.regions->Find({found->second.data(), found->second.size()});
}

// Makes the stream, or the reactor that refuses the call.
template <typename Stream, typename Reactor>
Reactor* Serve(ServiceContext& context, grpc::CallbackServerContext& call, absl::string_view method,
               const std::function<void(Stream&)>& run) {
  const auto open = [&]() -> absl::StatusOr<std::shared_ptr<Stream>> {
    QUANTD_ASSIGN_OR_RETURN(Caller caller, IdentifyCaller(call, context.tokens));
    QUANTD_ASSIGN_OR_RETURN(std::shared_ptr<const SharedRegion> shared, RegionOf(call, context));
    QUANTD_ASSIGN_OR_RETURN(CallerAccounts::Stream stream, context.accounts->OpenStream(caller));
    QUANTD_ASSIGN_OR_RETURN(MemoryBudget::Reservation base,
                            context.waiting_room->Reserve(kBaseBytes, "a stream"));
    auto opened = std::make_shared<Stream>(context, call, std::move(caller), std::move(stream),
                                           std::move(base), method);
    opened->call_context().shared = std::move(shared);
    return opened;
  };
  const absl::StatusOr<std::shared_ptr<Stream>> stream = open();
  if (!stream.ok()) {
    context.metrics.CountRefusal(stream.status());
    return new Refused<Reactor>(stream.status(), call);
  }
  run(**stream);
  return stream->get();
}

}  // namespace

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* ServeBidi(
    ServiceContext& context, grpc::CallbackServerContext& call, absl::string_view method,
    const MakeHandler& make_handler) {
  using Reactor = grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>;
  return Serve<BidiStream, Reactor>(context, call, method, [&](BidiStream& stream) {
    stream.Run(make_handler(stream.call_context(), stream, stream.cancel_token()));
  });
}

grpc::ServerReadReactor<grpc::ByteBuffer>* ServeClientStream(ServiceContext& context,
                                                             grpc::CallbackServerContext& call,
                                                             grpc::ByteBuffer* response,
                                                             absl::string_view method,
                                                             const MakeHandler& make_handler) {
  using Reactor = grpc::ServerReadReactor<grpc::ByteBuffer>;
  return Serve<ClientStream, Reactor>(context, call, method, [&](ClientStream& stream) {
    auto slot = std::make_unique<ResponseSlot>(response, stream);
    auto handler = make_handler(stream.call_context(), *slot, stream.cancel_token());
    stream.Run(std::make_unique<HandlerWithSlot>(std::move(slot), std::move(handler)));
  });
}

}  // namespace quantd
