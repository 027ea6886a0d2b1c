#include "server/admit/idle_watch.h"

#include <utility>
#include <vector>

namespace quantd {

IdleWatch::Place IdleWatch::Add(std::weak_ptr<Idler> idler) {
  MutexLock lock(&mutex_);
  return Place(*this, idlers_.insert(idlers_.end(), std::move(idler)));
}

void IdleWatch::Remove(Idlers::iterator at) {
  MutexLock lock(&mutex_);
  idlers_.erase(at);
}

void IdleWatch::Look() {
  std::vector<std::shared_ptr<Idler>> alive;
  {
    MutexLock lock(&mutex_);
    alive.reserve(idlers_.size());
    for (const std::weak_ptr<Idler>& idler : idlers_) alive.push_back(idler.lock());
  }
  // Not under the lock: the last reference to a call may go here, and with it its place.
  for (const std::shared_ptr<Idler>& idler : alive) {
    if (idler != nullptr && idler->EndIfIdle(timeout_)) ended_.fetch_add(1);
  }
}

}  // namespace quantd
