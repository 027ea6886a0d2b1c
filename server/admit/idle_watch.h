#ifndef QUANTD_SERVER_ADMIT_IDLE_WATCH_H_
#define QUANTD_SERVER_ADMIT_IDLE_WATCH_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "core/base/mutex.h"

namespace quantd {

// What may wait for its peer. Thread-safe.
class Idler {
 public:
  virtual ~Idler() = default;
  // Gives up if it has waited for its peer for `timeout`; returns whether it has.
  virtual bool EndIfIdle(absl::Duration timeout) = 0;
};

// Ends what waits too long for its peer. Somebody calls Look every now and then: a thread or an
// alarm for each stream would cost more than a timeout that is met to the second is worth.
// Thread-safe.
class IdleWatch {
 public:
  // With an infinite timeout nothing is ever ended.
  explicit IdleWatch(absl::Duration timeout) : timeout_(timeout) {}

  // Looks after `idler` for as long as others hold it.
  void Add(std::weak_ptr<Idler> idler);
  void Look();

  // Returns how many have been ended.
  int64_t ended() const { return ended_.load(); }

 private:
  const absl::Duration timeout_;
  Mutex mutex_;
  std::vector<std::weak_ptr<Idler>> idlers_ ABSL_GUARDED_BY(mutex_);
  std::atomic<int64_t> ended_ = 0;
};

}  // namespace quantd

#endif  // QUANTD_SERVER_ADMIT_IDLE_WATCH_H_
