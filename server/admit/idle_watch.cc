#include "server/admit/idle_watch.h"

#include <utility>

namespace quantd {

void IdleWatch::Add(std::weak_ptr<Idler> idler) {
  if (timeout_ == absl::InfiniteDuration()) return;
  MutexLock lock(&mutex_);
  idlers_.push_back(std::move(idler));
}

void IdleWatch::Look() {
  std::vector<std::shared_ptr<Idler>> alive;
  {
    MutexLock lock(&mutex_);
    std::erase_if(idlers_, [&alive](const std::weak_ptr<Idler>& idler) {
      alive.push_back(idler.lock());
      return alive.back() == nullptr;
    });
  }
  // Not under the lock: the last reference to a stream may go here, and what it does then is its
  // own.
  for (const std::shared_ptr<Idler>& idler : alive) {
    if (idler != nullptr && idler->EndIfIdle(timeout_)) ended_.fetch_add(1);
  }
}

}  // namespace quantd
