#ifndef QUANTD_SERVER_NET_CONNECTION_GUARD_H_
#define QUANTD_SERVER_NET_CONNECTION_GUARD_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/base/mutex.h"
#include "server/net/frame_walker.h"

namespace quantd {

// Why a guard ends a connection.
enum class GuardReason { kHeaders, kResets, kAnswers, kCalls, kIdleFrames };
inline constexpr GuardReason kGuardReasons[] = {GuardReason::kHeaders, GuardReason::kResets,
                                                GuardReason::kAnswers, GuardReason::kCalls,
                                                GuardReason::kIdleFrames};
// Returns the name of a reason, for metrics: "headers".
absl::string_view NameOf(GuardReason reason);
// Returns what the peer did, for the log.
absl::string_view TextOf(GuardReason reason);

// What a guard allows one connection.
struct GuardLimits {
  int64_t block_bytes = 32 << 10;  // of a header block, as it is on the wire
  int64_t block_fields = 256;
  double reset_burst = 200;  // RST_STREAM frames
  double resets_per_second = 100;
  double unproven_reset_burst = 20;
  // Frames that bring a call no further, such as empty DATA. Each one that does, either way, makes
  // up for some of them: receivers of much send many WINDOW_UPDATEs.
  double idle_frame_burst = 20'000;
  double idle_frames_per_second = 2'000;
  double unproven_idle_frame_burst = 2'000;
  double idle_frames_per_useful_one = 4;
  int64_t owed_answers = 1000;  // to SETTINGS and PING, which the peer does not take
  // Calls that the server has neither let in nor answered yet, and the cost of their headers:
  // nothing more is read meanwhile.
  int64_t pending_calls = 8;
  int64_t pending_header_cost = 32 << 10;
  // What may come in spite of that, since it came at once. MAX_CONCURRENT_STREAMS is 1,024.
  int64_t max_pending_calls = 1024 + 64;
  int64_t max_open_calls = 2 * 1024;
  // Of all connections together; one with many of them is ended then.
  int64_t total_pending_calls = 2048;
  int64_t many_pending_calls = 256;
  // What is read at once, which bounds what gets past the bound of pending calls, and gRPC's
  // buffers. The last two hold while the peer sends little data beside other frames.
  size_t unproven_read_bytes = 1024;
  size_t proven_read_bytes = 4096;
  size_t bulk_read_bytes = 1 << 20;  // no limit from here
};

// A bucket that leaks. Not thread-safe.
class LeakyBucket {
 public:
  explicit LeakyBucket(double leak_per_second) : leak_per_second_(leak_per_second) {}
  // Puts 1 in, and returns what it holds.
  double Add(absl::Time now);
  void Remove(double amount) { level_ = std::max(0.0, level_ - amount); }

 private:
  const double leak_per_second_;
  double level_ = 0;
  absl::Time at_ = absl::InfinitePast();
};

// What one connection may do before gRPC sees what it does: the bytes of both directions pass by,
// and the guard says when nothing more shall be read for now, and when the connection must end. It
// knows no socket; server/interpose.cc brings the bytes. A connection is unproven until a call of
// it is let in. Thread-safe; each direction's bytes come in order.
class ConnectionGuard {
 public:
  // `total_pending` counts the pending calls of all connections, and outlives them; `resume` is
  // called, under the guard's lock, when a peer that MayReceive held back may go on.
  ConnectionGuard(const GuardLimits& limits, std::atomic<int64_t>& total_pending,
                  std::function<void()> resume);
  ~ConnectionGuard();

  // Returns how many bytes may be read from the peer now; 0: none until `resume`.
  size_t MayReceive();
  // Takes bytes that came from the peer, in pieces, which gRPC gets if this returns nothing. Else
  // the connection is to be ended.
  std::optional<GuardReason> Received(std::span<const absl::string_view> pieces, absl::Time now);
  // Takes bytes that were sent to the peer.
  void Sent(std::span<const absl::string_view> pieces);
  std::optional<GuardReason> Received(absl::string_view bytes, absl::Time now) {
    return Received({&bytes, 1}, now);
  }
  void Sent(absl::string_view bytes) { Sent({&bytes, 1}); }

  // A call of the connection is let in; it has been answered, or is gone.
  void LetIn();
  void Answered();
  // A call is refused; what was left of it is gone.
  void Refused();
  void RefusedIsGone();

  bool is_proven() const { return is_proven_.load(std::memory_order_relaxed); }
  int64_t pending_calls();

 private:
  class Incoming;
  class Outgoing;
  struct OpenCall {
    // kComing: its headers are not whole; kSilent: the server has said nothing on it.
    enum State { kComing, kSilent, kAnswered } state = kComing;
    int64_t header_cost = 0;  // from the end of its headers
  };
  void OnReceived(const FrameHead& head) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnHeaderBytes(absl::string_view bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void BeginPartOfBlock(const FrameHead& head) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MaybeEndBlock() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnSent(const FrameHead& head) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnReset(uint32_t stream) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Break(GuardReason reason) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void BreakSilence(OpenCall& call) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int64_t Pending() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool MustWait() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // To be called after what may change the number of pending calls.
  void Settle() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const GuardLimits limits_;
  std::atomic<int64_t>& total_pending_;
  const std::function<void()> resume_;
  std::atomic<bool> is_proven_ = false;

  Mutex mutex_;
  FrameWalker incoming_ ABSL_GUARDED_BY(mutex_){/*begins_with_preface=*/true};
  FrameWalker outgoing_ ABSL_GUARDED_BY(mutex_){/*begins_with_preface=*/false};
  HeaderBlockMeter block_ ABSL_GUARDED_BY(mutex_);
  uint32_t block_stream_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t part_left_ ABSL_GUARDED_BY(mutex_) = 0;  // of the frame of the block that comes
  bool is_last_part_ ABSL_GUARDED_BY(mutex_) = false;
  uint32_t last_stream_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<uint32_t, OpenCall> calls_ ABSL_GUARDED_BY(mutex_);  // by stream
  int64_t silent_calls_ ABSL_GUARDED_BY(mutex_) = 0;                       // of calls_
  int64_t silent_header_cost_ ABSL_GUARDED_BY(mutex_) = 0;                 // theirs
  int64_t let_in_ ABSL_GUARDED_BY(mutex_) = 0;   // and not answered; some of the silent ones
  int64_t refused_ ABSL_GUARDED_BY(mutex_) = 0;  // and not gone
  int64_t counted_ ABSL_GUARDED_BY(mutex_) = 0;  // our part of total_pending_
  int64_t owed_answers_ ABSL_GUARDED_BY(mutex_) = 0;
  LeakyBucket resets_ ABSL_GUARDED_BY(mutex_);
  LeakyBucket idle_frames_ ABSL_GUARDED_BY(mutex_);
  absl::Time now_ ABSL_GUARDED_BY(mutex_);
  bool is_held_ ABSL_GUARDED_BY(mutex_) = false;
  size_t read_bytes_ ABSL_GUARDED_BY(mutex_);  // at once, of a proven connection
  std::optional<GuardReason> broken_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace quantd

#endif  // QUANTD_SERVER_NET_CONNECTION_GUARD_H_
