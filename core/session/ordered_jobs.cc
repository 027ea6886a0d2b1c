// The machine of ordered_jobs.h. What keeps it from standing still while there is work:
//
//   a helper leaves       under the lock under which it found nothing, so that whoever brings work
//                         next sees that it is gone, and wakes one
//   a job ends            while another thread commits: that one looks at the oldest job once more
//                         before it stops
//   there is room again   after a commit, whose thread then wakes one more helper
//   a thread awaits       under the lock under which it found nothing to do
//
// Entry: RunOne, which all threads call; Wake and Change bring work. Tested by
// tests/core/session/ordered_jobs_test.cc and session_faults_test.cc.
#include "core/session/ordered_jobs.h"

#include <algorithm>
#include <utility>

#include "core/base/float_env.h"

namespace quantd {

OrderedJobs::OrderedJobs(JobSource& source, Executor& executor, int64_t max_in_flight,
                         std::function<void()> on_event)
    : source_(source),
      executor_(executor),
      max_in_flight_(max_in_flight),
      on_event_(std::move(on_event)) {}

bool OrderedJobs::RunOne() {
  MutexLock lock(&mutex_);
  return RunJobs(1) == 1;
}

int OrderedJobs::RunJobs(int most) {
  for (int done = 0; done < most; ++done) {
    const bool may_begin = !stopped_ && status_.ok() && std::ssize(entries_) < max_in_flight_;
    std::unique_ptr<Job> job = may_begin ? source_.Next() : nullptr;
    if (job == nullptr) return done;
    Entry& entry = entries_.emplace_back();
    entry.job = std::move(job);
    ++running_;
    const bool wake_first = ShallWakeOne();
    mutex_.Unlock();
    if (wake_first) SubmitHelper();
    {
      ScopedFloatEnv float_env;
      entry.job->Run();
    }
    mutex_.Lock();
    entry.done = true;
    --running_;
    CommitDue();
    ++changes_;
    const bool wake = done + 1 == most && ShallWakeOne();  // else this thread goes on
    if (const bool event = EventIsDue(); wake || event) {
      mutex_.Unlock();
      Tell(wake, event);
      mutex_.Lock();
    }
  }
  return most;
}

void OrderedJobs::Tell(bool wake, bool event) {
  if (wake) SubmitHelper();
  if (event && on_event_) on_event_();
}

void OrderedJobs::CommitDue() {
  if (committing_) return;  // whoever does sees this one too
  committing_ = true;
  while (!entries_.empty() && entries_.front().done) {
    std::unique_ptr<Job> job = std::move(entries_.front().job);
    if (status_.ok()) {
      mutex_.Unlock();
      const absl::Status status = job->Commit();
      mutex_.Lock();
      status_.Update(status);
    }
    entries_.pop_front();
    source_.Recycle(std::move(job));
  }
  committing_ = false;
}

bool OrderedJobs::ShallWakeOne() {
  const bool useful = !stopped_ && status_.ok() && helpers_ < executor_.workers() &&
                      std::ssize(entries_) < max_in_flight_ && source_.MayHaveNext();
  if (useful) ++helpers_;
  return useful;
}

bool OrderedJobs::EndedLocked() {
  if (running_ > 0 || committing_) return false;
  return !status_.ok() || stopped_ || (entries_.empty() && source_.Exhausted());
}

bool OrderedJobs::EventIsDue() {
  bool event = false;
  if (!told_ended_ && EndedLocked()) event = told_ended_ = true;
  if (input_awaited_ && !stopped_ && source_.TakesInput()) {
    input_awaited_ = false;
    event = true;
  }
  return event && !stopped_;
}

void OrderedJobs::SubmitHelper() {
  executor_.Submit([self = shared_from_this()] { self->Help(); });
}

void OrderedJobs::Help() {
  {
    MutexLock lock(&mutex_);
    if (RunJobs(kJobsPerTurn) < kJobsPerTurn) {
      // Under the same lock, so that whoever finds work later knows that this helper is gone.
      --helpers_;
      return;
    }
  }
  SubmitHelper();
}

void OrderedJobs::Wake(absl::FunctionRef<void()> change) {
  bool wake = false, event = false;
  {
    MutexLock lock(&mutex_);
    change();
    ++changes_;
    wake = ShallWakeOne();
    event = EventIsDue();
  }
  Tell(wake, event);
}

void OrderedJobs::Change(absl::FunctionRef<void()> change) {
  bool event = false;
  {
    MutexLock lock(&mutex_);
    change();
    ++changes_;
    event = EventIsDue();
  }
  Tell(/*wake=*/false, event);
}

void OrderedJobs::Await() {
  MutexLock lock(&mutex_);
  for (;;) {
    while (RunJobs(kJobsPerTurn) > 0) {
    }
    if (running_ == 0 && !committing_) return;
    const int64_t seen = changes_;
    const auto changed = [this, seen]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return changes_ != seen; };
    mutex_.Await(absl::Condition(&changed));
  }
}

void OrderedJobs::Cancel(const absl::Status& status) {
  MutexLock lock(&mutex_);
  if (EndedLocked()) return;
  status_.Update(status);
  ++changes_;
  if (EndedLocked()) told_ended_ = true;
}

void OrderedJobs::Stop() {
  MutexLock lock(&mutex_);
  stopped_ = true;
  ++changes_;
  const auto idle = [this]()
                        ABSL_NO_THREAD_SAFETY_ANALYSIS { return running_ == 0 && !committing_; };
  mutex_.Await(absl::Condition(&idle));
  for (Entry& entry : entries_) {
    if (entry.job != nullptr) source_.Recycle(std::move(entry.job));
  }
  entries_.clear();
}

absl::Status OrderedJobs::status() {
  MutexLock lock(&mutex_);
  return status_;
}

absl::Status OrderedJobs::result() {
  MutexLock lock(&mutex_);
  if (!status_.ok() || EndedLocked()) return status_;
  return absl::FailedPreconditionError("the session has not ended; call Await");
}

bool OrderedJobs::ended() {
  MutexLock lock(&mutex_);
  return EndedLocked();
}

bool OrderedJobs::busy() {
  MutexLock lock(&mutex_);
  return !entries_.empty();
}

bool OrderedJobs::WantsInput() {
  MutexLock lock(&mutex_);
  input_awaited_ = !source_.TakesInput();
  return !input_awaited_;
}

}  // namespace quantd
