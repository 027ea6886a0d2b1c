#ifndef QUANTD_SERVER_ADMIT_WAITING_ROOM_H_
#define QUANTD_SERVER_ADMIT_WAITING_ROOM_H_

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/base/mutex.h"
#include "core/exec/memory_budget.h"

namespace quantd {

// The part of the server's memory that calls are let into before they hold anything else. Everybody
// may use all of it while nobody else wants any; then callers have equal shares (waiting_room.cc).
// Has no clock. Outlives its places. Thread-safe.
class WaitingRoom {
 public:
  // What a stream may have sent before anything of it is read, and its start frame: gRPC reads
  // 256 KiB ahead.
  static constexpr int64_t kStreamBytes = int64_t{320} << 10;

  // Returns how large the room is: as many streams as may wait, but at least a quarter of the
  // memory and at most half of it.
  static int64_t BytesFor(int64_t memory_bytes, int64_t max_waiting);
  // Returns how many streams find a place in such a room and may wait in it.
  static int64_t LengthFor(int64_t memory_bytes, int64_t max_waiting);

  // The bytes of one call; given back when it is destroyed. Movable. Not thread-safe.
  class Place {
   public:
    Place() = default;
    Place(Place&& other) noexcept
        : room_(std::exchange(other.room_, nullptr)),
          caller_(std::move(other.caller_)),
          bytes_(std::move(other.bytes_)) {}
    Place& operator=(Place other) noexcept {
      std::swap(room_, other.room_);
      std::swap(caller_, other.caller_);
      std::swap(bytes_, other.bytes_);
      return *this;
    }
    ~Place() {
      if (room_ != nullptr) room_->Leave(caller_, bytes_.bytes());
    }
    int64_t bytes() const { return bytes_.bytes(); }

   private:
    friend class WaitingRoom;
    Place(WaitingRoom& room, const std::string& caller, MemoryBudget::Reservation bytes)
        : room_(&room), caller_(caller), bytes_(std::move(bytes)) {}
    WaitingRoom* room_ = nullptr;
    std::string caller_;
    MemoryBudget::Reservation bytes_;
  };

  // A room of `limit_bytes` of `memory`, which outlives it.
  WaitingRoom(MemoryBudget& memory, int64_t limit_bytes) : memory_(limit_bytes, &memory) {}

  // Lets a call of `caller` in. kResourceExhausted, with a hint when to come again: there is no
  // room for it, or others want their shares; `what` is for the message.
  absl::StatusOr<Place> Enter(const std::string& caller, int64_t bytes, absl::string_view what,
                              absl::Time now) ABSL_LOCKS_EXCLUDED(mutex_);
  // True if a call of `caller` that could go shall go, since the caller has more than its share and
  // others have found no place; at most one for each that has found none.
  bool MustLeave(const std::string& caller, absl::Time now) ABSL_LOCKS_EXCLUDED(mutex_);
  // True where places are scarce: who has not said anything yet has less time then.
  bool crowded() const;
  // Returns what MustLeave's calls end with.
  absl::Status Dismissal() const;

 private:
  int64_t ShareOf(const std::string& caller) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int64_t Held(const std::string& caller) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Notes that `caller`, who has less than its share, has found no place; forgets it where it does
  // not come again by `until`.
  void Demand(const std::string& caller, absl::Time until) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndDemand(const std::string& caller) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Forget(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Refuse(const std::string& caller, bool is_over, const absl::Status& status,
                      absl::Time now) ABSL_LOCKS_EXCLUDED(mutex_);
  void Leave(const std::string& caller, int64_t bytes) ABSL_LOCKS_EXCLUDED(mutex_);

  MemoryBudget memory_;
  mutable Mutex mutex_;
  std::map<std::string, int64_t> held_ ABSL_GUARDED_BY(mutex_);  // by caller; none is 0
  // Demands: until when, by caller; the same by time; those for which nobody was told to go.
  std::map<std::string, absl::Time> demands_ ABSL_GUARDED_BY(mutex_);
  std::set<std::pair<absl::Time, std::string>> demands_by_time_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> unanswered_ ABSL_GUARDED_BY(mutex_);
  int64_t demanders_outside_ ABSL_GUARDED_BY(mutex_) = 0;  // of them, those who hold nothing
};

}  // namespace quantd

#endif  // QUANTD_SERVER_ADMIT_WAITING_ROOM_H_
