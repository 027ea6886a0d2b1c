// What gRPC 1.51 leaves open to any peer, before anybody asks for a token, and what bounds it here:
//
//   header blocks    gRPC counts each frame alone: CONTINUATIONs without end, or references to one
//                    entry of the table again and again -> bytes and fields of a whole block
//   calls            those of a peer that never acknowledges SETTINGS have no limit, and a call
//                    costs 11 KiB before its message has come -> few of them may be undecided
//   rapid reset      a call that is reset does not count, but its rest lives on for a while
//                    -> a rate of resets
//   empty frames     they cost time alone, but a million of them a second; so do priorities and
//                    window updates -> a rate of frames beyond those that the calls account for
//   SETTINGS, PING   each is answered, and answers wait where the peer takes none -> their number
//
// A client may well open a hundred calls at once. So too many calls end no connection: they wait
// where they are, in the system's buffers, until the server has decided about those before them,
// which it does at their headers. Deciding is letting in (LetIn), where admission accounts for
// them from then on, or any frame of an answer. Only what comes in a single read in spite of that
// may be too much.
//
// The guard sees frames go to the system a little after the peer may have seen them, so numbers
// that a peer may use up fully have room above.
//
// Entries: MayReceive, Received, Sent. Tested by tests/server/net/connection_guard_test.cc, and
// with gRPC by tests/attack.
#include "server/net/connection_guard.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace quantd {
namespace {

// What a field costs gRPC beside its bytes: two slices and their place.
constexpr int64_t kFieldCost = 64;

int64_t CostOf(const HeaderBlockMeter& block) {
  return block.bytes() + kFieldCost * block.fields();
}

// Whether a frame brings no call any further.
bool IsIdle(const FrameHead& head) {
  switch (head.type) {
    case kDataFrame:
      return head.length == 0 && (head.flags & kEndStreamFlag) == 0;
    case kContinuationFrame:
      return head.length == 0;
    case kHeadersFrame:
    case kResetFrame:  // which has a rate of its own
      return false;
    default:
      return true;
  }
}

}  // namespace

double LeakyBucket::Add(absl::Time now) {
  // Never less than 0: a clock that was set back would fill the bucket.
  const double seconds = std::max(0.0, absl::ToDoubleSeconds(now - at_));
  Remove(seconds * leak_per_second_);
  at_ = now;
  return ++level_;
}

absl::string_view NameOf(GuardReason reason) {
  switch (reason) {
    case GuardReason::kHeaders:
      return "headers";
    case GuardReason::kResets:
      return "resets";
    case GuardReason::kAnswers:
      return "answers";
    case GuardReason::kCalls:
      return "calls";
    case GuardReason::kIdleFrames:
      return "idle_frames";
  }
  return "";
}

absl::string_view TextOf(GuardReason reason) {
  switch (reason) {
    case GuardReason::kHeaders:
      return "its headers are too long, too many, or padded";
    case GuardReason::kResets:
      return "it resets too many calls";
    case GuardReason::kAnswers:
      return "it takes no answers to its SETTINGS and PINGs";
    case GuardReason::kCalls:
      return "it opens too many calls at once";
    case GuardReason::kIdleFrames:
      return "it sends too many frames that bring no call any further";
  }
  return "";
}

class ConnectionGuard::Incoming final : public FrameWalker::Visitor {
 public:
  explicit Incoming(ConnectionGuard& guard) : guard_(guard) {}
  void OnHead(const FrameHead& head) override ABSL_NO_THREAD_SAFETY_ANALYSIS {
    guard_.OnReceived(head);
  }
  void OnHeaderBytes(absl::string_view bytes) override ABSL_NO_THREAD_SAFETY_ANALYSIS {
    guard_.OnHeaderBytes(bytes);
  }

 private:
  ConnectionGuard& guard_;
};

class ConnectionGuard::Outgoing final : public FrameWalker::Visitor {
 public:
  explicit Outgoing(ConnectionGuard& guard) : guard_(guard) {}
  void OnHead(const FrameHead& head) override ABSL_NO_THREAD_SAFETY_ANALYSIS {
    guard_.OnSent(head);
  }
  void OnHeaderBytes(absl::string_view) override {}

 private:
  ConnectionGuard& guard_;
};

ConnectionGuard::ConnectionGuard(const GuardLimits& limits, std::atomic<int64_t>& total_pending,
                                 std::function<void()> resume)
    : limits_(limits),
      total_pending_(total_pending),
      resume_(std::move(resume)),
      resets_(limits.resets_per_second),
      idle_frames_(limits.idle_frames_per_second),
      read_bytes_(limits.proven_read_bytes) {}

ConnectionGuard::~ConnectionGuard() {
  MutexLock lock(&mutex_);
  total_pending_ -= counted_;
}

size_t ConnectionGuard::MayReceive() {
  MutexLock lock(&mutex_);
  is_held_ = MustWait();
  if (is_held_) return 0;
  if (!is_proven()) return limits_.unproven_read_bytes;
  return read_bytes_ < limits_.bulk_read_bytes ? read_bytes_ : std::numeric_limits<size_t>::max();
}

std::optional<GuardReason> ConnectionGuard::Received(std::span<const absl::string_view> pieces,
                                                     absl::Time now) {
  MutexLock lock(&mutex_);
  now_ = now;
  Incoming visitor(*this);
  const int64_t data_before = incoming_.data_bytes();
  int64_t bytes = 0;
  for (const absl::string_view piece : pieces) {
    incoming_.Walk(piece, visitor);
    bytes += static_cast<int64_t>(piece.size());
  }
  const bool is_bulk = 2 * (incoming_.data_bytes() - data_before) > bytes;
  read_bytes_ = is_bulk ? std::min(read_bytes_ * 4, limits_.bulk_read_bytes)
                        : std::max(read_bytes_ / 4, limits_.proven_read_bytes);
  Settle();
  if (Pending() > limits_.max_pending_calls ||
      static_cast<int64_t>(calls_.size()) > limits_.max_open_calls ||
      (Pending() > limits_.many_pending_calls && total_pending_ > limits_.total_pending_calls)) {
    Break(GuardReason::kCalls);
  }
  return broken_;
}

void ConnectionGuard::Sent(std::span<const absl::string_view> pieces) {
  MutexLock lock(&mutex_);
  Outgoing visitor(*this);
  for (const absl::string_view piece : pieces) outgoing_.Walk(piece, visitor);
  Settle();
}

void ConnectionGuard::LetIn() {
  MutexLock lock(&mutex_);
  is_proven_.store(true, std::memory_order_relaxed);
  ++let_in_;
  Settle();
}

void ConnectionGuard::Answered() {
  MutexLock lock(&mutex_);
  --let_in_;
  Settle();
}

void ConnectionGuard::Refused() {
  MutexLock lock(&mutex_);
  ++refused_;
  Settle();
}

void ConnectionGuard::RefusedIsGone() {
  MutexLock lock(&mutex_);
  --refused_;
  Settle();
}

int64_t ConnectionGuard::pending_calls() {
  MutexLock lock(&mutex_);
  return Pending();
}

void ConnectionGuard::OnReceived(const FrameHead& head) {
  if (!IsIdle(head)) {
    idle_frames_.Remove(limits_.idle_frames_per_useful_one);
  } else if (idle_frames_.Add(now_) >
             (is_proven() ? limits_.idle_frame_burst : limits_.unproven_idle_frame_burst)) {
    Break(GuardReason::kIdleFrames);
  }
  switch (head.type) {
    case kHeadersFrame:
      // gRPC would take the length of the padding for a field.
      if ((head.flags & kPaddedFlag) != 0) Break(GuardReason::kHeaders);
      block_ = HeaderBlockMeter((head.flags & kPriorityFlag) != 0 ? 5 : 0);
      block_stream_ = head.stream;
      if (head.stream > last_stream_) {
        last_stream_ = head.stream;
        calls_.emplace(head.stream, OpenCall());
      }
      BeginPartOfBlock(head);
      break;
    case kContinuationFrame:
      BeginPartOfBlock(head);
      break;
    case kResetFrame:
      OnReset(head.stream);
      break;
    case kSettingsFrame:
    case kPingFrame:
      if ((head.flags & kAckFlag) == 0 && ++owed_answers_ > limits_.owed_answers) {
        Break(GuardReason::kAnswers);
      }
      break;
    default:
      break;
  }
}

void ConnectionGuard::BeginPartOfBlock(const FrameHead& head) {
  part_left_ = head.length;
  is_last_part_ = (head.flags & kEndHeadersFlag) != 0;
  MaybeEndBlock();
}

void ConnectionGuard::OnHeaderBytes(absl::string_view bytes) {
  block_.Add(bytes);
  if (block_.bytes() > limits_.block_bytes || block_.fields() > limits_.block_fields) {
    Break(GuardReason::kHeaders);
  }
  part_left_ -= bytes.size();
  MaybeEndBlock();
}

// A call is pending from the end of its headers: nothing is decided before that, so that holding
// the rest of them back would be for ever.
void ConnectionGuard::MaybeEndBlock() {
  if (part_left_ > 0 || !is_last_part_) return;
  const auto call = calls_.find(block_stream_);
  if (call == calls_.end() || call->second.state != OpenCall::kComing) return;
  call->second = {.state = OpenCall::kSilent, .header_cost = CostOf(block_)};
  ++silent_calls_;
  silent_header_cost_ += CostOf(block_);
}

void ConnectionGuard::OnReset(uint32_t stream) {
  if (resets_.Add(now_) > (is_proven() ? limits_.reset_burst : limits_.unproven_reset_burst)) {
    Break(GuardReason::kResets);
  }
  const auto call = calls_.find(stream);
  if (call == calls_.end()) return;
  BreakSilence(call->second);
  calls_.erase(call);
}

void ConnectionGuard::OnSent(const FrameHead& head) {
  const bool is_answer = (head.flags & kAckFlag) != 0 &&
                         (head.type == kSettingsFrame || head.type == kPingFrame);
  if (is_answer && owed_answers_ > 0) --owed_answers_;
  if (head.type == kDataFrame) idle_frames_.Remove(limits_.idle_frames_per_useful_one);
  if (head.type != kHeadersFrame && head.type != kDataFrame && head.type != kResetFrame) return;
  const auto call = calls_.find(head.stream);
  if (call == calls_.end()) return;
  BreakSilence(call->second);
  if (head.type == kResetFrame || (head.flags & kEndStreamFlag) != 0) calls_.erase(call);
}

void ConnectionGuard::BreakSilence(OpenCall& call) {
  const bool was_silent = call.state == OpenCall::kSilent;
  call.state = OpenCall::kAnswered;
  if (!was_silent) return;
  --silent_calls_;
  silent_header_cost_ -= call.header_cost;
}

void ConnectionGuard::Break(GuardReason reason) {
  if (!broken_.has_value()) broken_ = reason;
}

// A refused call has been answered before gRPC is done with it: the greater number is the truth.
int64_t ConnectionGuard::Pending() const { return std::max(refused_, silent_calls_ - let_in_); }

bool ConnectionGuard::MustWait() const {
  if (Pending() >= limits_.pending_calls) return true;
  // Which of the silent calls are let in is not known: each has their mean cost.
  return silent_calls_ > 0 &&
         silent_header_cost_ * Pending() / silent_calls_ >= limits_.pending_header_cost;
}

void ConnectionGuard::Settle() {
  if (const int64_t pending = Pending(); pending != counted_) {  // all connections share the sum
    total_pending_ += pending - counted_;
    counted_ = pending;
  }
  if (!is_held_ || MustWait()) return;
  is_held_ = false;
  resume_();
}

}  // namespace quantd
