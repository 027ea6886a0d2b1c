// One queue of tasks, first come first served, and threads that wait for it. A task gives way to
// others by ending and submitting the rest of its work anew, which puts it behind them. The
// destructor has all run that was submitted, by tasks too.
//
// Entry: Submit. Tested by tests/core/exec/executor_test.cc.
#include "core/exec/executor.h"

#include <algorithm>
#include <utility>

#include "core/base/float_env.h"

namespace quantd {

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
    return stopping_ || !tasks_.empty();
  };
  for (;;) {
    std::function<void()> task;
    {
      MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(&has_work));
      if (tasks_.empty()) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
}

}  // namespace quantd
