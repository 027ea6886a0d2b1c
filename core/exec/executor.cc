#include "core/exec/executor.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "core/base/float_env.h"

namespace quantd {

// One running ParallelFor. `fn` belongs to the caller's frame; nobody touches it once `next` has
// passed `count`, and the caller leaves only when `done` has reached `count`.
struct Executor::Loop {
  Loop(int64_t count, absl::FunctionRef<void(int64_t)> fn) : count(count), fn(fn) {}

  // Takes indices until there are none left.
  void Work() {
    int64_t finished = 0;
    for (;;) {
      const int64_t i = next.fetch_add(1, std::memory_order_relaxed);
      if (i >= count) break;
      fn(i);
      ++finished;
    }
    if (finished == 0) return;
    MutexLock lock(&mutex);
    done += finished;
  }

  bool exhausted() const { return next.load(std::memory_order_relaxed) >= count; }

  const int64_t count;
  const absl::FunctionRef<void(int64_t)> fn;
  std::atomic<int64_t> next = 0;
  Mutex mutex;
  int64_t done ABSL_GUARDED_BY(mutex) = 0;
};

Executor::Executor(int workers) {
  threads_.reserve(static_cast<size_t>(std::max(workers, 0)));
  for (int i = 0; i < workers; ++i) threads_.emplace_back([this] { WorkerMain(); });
}

Executor::~Executor() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
  }
  for (std::thread& thread : threads_) thread.join();
}

void Executor::ParallelFor(int64_t count, absl::FunctionRef<void(int64_t)> fn) {
  if (count <= 1 || threads_.empty()) {
    for (int64_t i = 0; i < count; ++i) fn(i);
    return;
  }
  const auto loop = std::make_shared<Loop>(count, fn);
  {
    MutexLock lock(&mutex_);
    loops_.push_back(loop);
  }
  loop->Work();
  {
    MutexLock lock(&mutex_);
    std::erase(loops_, loop);
  }
  MutexLock lock(&loop->mutex);
  const auto finished = [&loop]()
                            ABSL_NO_THREAD_SAFETY_ANALYSIS { return loop->done == loop->count; };
  loop->mutex.Await(absl::Condition(&finished));
}

void Executor::Submit(std::function<void()> task) {
  if (threads_.empty()) {
    task();
    return;
  }
  MutexLock lock(&mutex_);
  tasks_.push_back(std::move(task));
}

void Executor::WorkerMain() {
  ScopedFloatEnv float_env;
  const auto has_work = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return stopping_ || !tasks_.empty() || !loops_.empty();
  };
  for (;;) {
    std::function<void()> task;
    std::shared_ptr<Loop> loop;
    {
      MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(&has_work));
      while (!loops_.empty() && loops_.front()->exhausted()) loops_.pop_front();
      if (!loops_.empty()) {  // running work goes before new work
        loop = loops_.front();
      } else if (!tasks_.empty()) {
        task = std::move(tasks_.front());
        tasks_.pop_front();
      } else if (stopping_) {
        return;
      }
    }
    if (loop) loop->Work();
    if (task) task();
  }
}

}  // namespace quantd
