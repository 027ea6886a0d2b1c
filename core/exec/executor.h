#ifndef QUANTD_CORE_EXEC_EXECUTOR_H_
#define QUANTD_CORE_EXEC_EXECUTOR_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "core/base/mutex.h"

namespace quantd {

// A pool of worker threads that runs parallel loops and single tasks. Workers hold a
// ScopedFloatEnv. Thread-safe.
class Executor {
 public:
  // Starts `workers` threads; with 0, everything runs on its caller.
  explicit Executor(int workers);
  // Finishes all submitted tasks, then joins.
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  // How many threads a loop can use: the workers and its caller.
  int concurrency() const { return static_cast<int>(threads_.size()) + 1; }

  // Calls fn(0) ... fn(count - 1), each exactly once, in no stated order, on the caller and on
  // workers that are idle; returns when all have returned. May be called from within a task or a
  // loop: it never waits for a worker to become free.
  void ParallelFor(int64_t count, absl::FunctionRef<void(int64_t)> fn);

  // Runs `task` on a worker, in order of submission where there is one worker; with no workers,
  // runs it before returning.
  void Submit(std::function<void()> task);

 private:
  struct Loop;
  void WorkerMain();

  Mutex mutex_;
  std::deque<std::function<void()>> tasks_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::shared_ptr<Loop>> loops_ ABSL_GUARDED_BY(mutex_);  // loops that have indices left
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace quantd

#endif  // QUANTD_CORE_EXEC_EXECUTOR_H_
