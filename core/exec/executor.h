#ifndef QUANTD_CORE_EXEC_EXECUTOR_H_
#define QUANTD_CORE_EXEC_EXECUTOR_H_

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "core/base/mutex.h"

namespace quantd {

// A pool of worker threads that run tasks in the order in which they came. Workers hold a
// ScopedFloatEnv. Thread-safe. Simulations have executors of their own, without threads.
class Executor {
 public:
  // Starts `workers` threads; with 0, everything runs on its caller.
  explicit Executor(int workers);
  // Finishes all submitted tasks, then joins.
  virtual ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  virtual int workers() const { return static_cast<int>(threads_.size()); }

  // Runs `task` on a worker, in order of submission where there is one worker; with no workers,
  // runs it before returning.
  virtual void Submit(std::function<void()> task);

 private:
  void WorkerMain();

  Mutex mutex_;
  std::deque<std::function<void()>> tasks_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace quantd

#endif  // QUANTD_CORE_EXEC_EXECUTOR_H_
