#ifndef QUANTD_SERVER_ADMIT_IDLE_WATCH_H_
#define QUANTD_SERVER_ADMIT_IDLE_WATCH_H_

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "core/base/mutex.h"

namespace quantd {

// What may wait for its peer. Thread-safe.
class Idler {
 public:
  virtual ~Idler() = default;
  // Gives up if it has waited for its peer for `timeout`, or for another reason of its own; returns
  // whether it has.
  virtual bool EndIfIdle(absl::Duration timeout) = 0;
};

// Ends what waits too long for its peer. Somebody calls Look every now and then: a thread or an
// alarm for each call would cost more than a timeout that is met to the second is worth.
// Outlives its places. Thread-safe.
class IdleWatch {
  using Idlers = std::list<std::weak_ptr<Idler>>;

 public:
  // Of one that is looked after, until it is destroyed. Movable. Not thread-safe.
  class Place {
   public:
    Place() = default;
    Place(Place&& other) noexcept : watch_(std::exchange(other.watch_, nullptr)), at_(other.at_) {}
    Place& operator=(Place other) noexcept {
      std::swap(watch_, other.watch_);
      std::swap(at_, other.at_);
      return *this;
    }
    ~Place() {
      if (watch_ != nullptr) watch_->Remove(at_);
    }

   private:
    friend class IdleWatch;
    Place(IdleWatch& watch, Idlers::iterator at) : watch_(&watch), at_(at) {}
    IdleWatch* watch_ = nullptr;
    Idlers::iterator at_;
  };

  // With an infinite timeout nothing is ended for its waiting.
  explicit IdleWatch(absl::Duration timeout) : timeout_(timeout) {}

  Place Add(std::weak_ptr<Idler> idler);
  void Look();

  // Returns how many have been ended.
  int64_t ended() const { return ended_.load(); }

 private:
  void Remove(Idlers::iterator at);

  const absl::Duration timeout_;
  Mutex mutex_;
  Idlers idlers_ ABSL_GUARDED_BY(mutex_);
  std::atomic<int64_t> ended_ = 0;
};

}  // namespace quantd

#endif  // QUANTD_SERVER_ADMIT_IDLE_WATCH_H_
