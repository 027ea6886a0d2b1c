#ifndef QUANTD_CORE_SESSION_ORDERED_JOBS_H_
#define QUANTD_CORE_SESSION_ORDERED_JOBS_H_

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "core/base/mutex.h"
#include "core/exec/executor.h"

// Jobs that run on any threads and whose results are put in order: the machine under every session.
//
//   source.Next()   one at a time, in order      a stripe is cut, its output memory acquired
//   job.Run()       any threads, at once         encoded, measured, hashed
//   job.Commit()    one at a time, in order      figures, parameters, frames: the sink is called
//
//   in flight:  [done, waits for its turn] [running] [done] [running] [running] | next
//                ^ committed by whoever finishes the oldest one
//
// There is no thread of its own and no barrier: a thread that has a job done commits what has become
// due and takes the next one. At most `max_in_flight` jobs are between Next and the end of Commit, so
// that one slow job stalls the others only when so many are ahead of it. Each helper that finds work
// for another one wakes one more, up to the executor's workers; after kJobsPerTurn jobs it goes to
// the end of the executor's queue, so that sessions share the workers fairly.

namespace quantd {

class Job {
 public:
  virtual ~Job() = default;
  virtual void Run() = 0;
  // An error ends everything: no job after this one is committed.
  virtual absl::Status Commit() = 0;
  // True if it can be filled and run again.
  virtual bool reusable() const { return false; }
};

// What is wrong with the input, in its turn.
class FailingJob final : public Job {
 public:
  explicit FailingJob(absl::Status status) : status_(std::move(status)) {}
  void Run() override {}
  absl::Status Commit() override { return status_; }

 private:
  const absl::Status status_;
};

// Where jobs come from. All calls are made under the lock of OrderedJobs: they are short, and call
// nothing of it.
class JobSource {
 public:
  virtual ~JobSource() = default;
  // Returns the next job; null: there is none now. Whatever may change that calls Wake.
  virtual std::unique_ptr<Job> Next() = 0;
  // True if Next would give a job, as far as can be told at once.
  virtual bool MayHaveNext() = 0;
  // Takes back a job that is committed, or will not be.
  virtual void Recycle(std::unique_ptr<Job> job) = 0;
  // True when all jobs there will ever be have been given.
  virtual bool Exhausted() = 0;
  // True if more input is wanted.
  virtual bool TakesInput() = 0;
};

// Thread-safe.
class OrderedJobs : public std::enable_shared_from_this<OrderedJobs> {
 public:
  // `source` lives until Stop has returned; `executor` outlives this. `on_event` is called, under no
  // lock and on any thread, when input is wanted that was not before, and when all has ended; it may
  // come a moment after Stop. Null: nobody wants to know.
  OrderedJobs(JobSource& source, Executor& executor, int64_t max_in_flight,
              std::function<void()> on_event);

  // Does one job on this thread and commits what is due; false: there is none to do now.
  bool RunOne();
  // Makes a change under the lock that may give work, and has a worker look for it.
  void Wake(absl::FunctionRef<void()> change = [] {});
  // The same for a caller that calls RunOne or Await next: what one thread does is not worth waking
  // another one for.
  void Change(absl::FunctionRef<void()> change);
  // Has the calling thread do jobs, and wait for those of others, until there is nothing to do: all
  // has ended, or what the source waits for has not come.
  void Await();
  // Begins no more jobs; `status` is the result, unless there is one. Those that run end by
  // themselves; no event follows where there are none.
  void Cancel(const absl::Status& status);
  // The same, and returns when none runs.
  void Stop();

  // OK while nothing has failed.
  absl::Status status();
  // The same, but kFailedPrecondition before the end.
  absl::Status result();
  // True when all jobs are committed, or one has failed or all are cancelled and none runs.
  bool ended();
  // True while jobs are at work, or wait for their turn.
  bool busy();
  // Answers for `source`, under the lock. False means that an event will follow.
  bool WantsInput();

 private:
  static constexpr int kJobsPerTurn = 16;
  struct Entry {
    std::unique_ptr<Job> job;
    bool done = false;
  };

  // Does at most `most` jobs, which the lock is not held for; returns their number.
  int RunJobs(int most) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Does what is to be done under no lock.
  void Tell(bool wake, bool event) ABSL_LOCKS_EXCLUDED(mutex_);
  void CommitDue() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // True if one more helper shall be submitted, when the lock is released.
  bool ShallWakeOne() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool EndedLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // True if an event is due, which it then no longer is.
  bool EventIsDue() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SubmitHelper();
  void Help();

  JobSource& source_;
  Executor& executor_;
  const int64_t max_in_flight_;
  const std::function<void()> on_event_;

  Mutex mutex_;
  std::list<Entry> entries_ ABSL_GUARDED_BY(mutex_);  // in order
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  int running_ ABSL_GUARDED_BY(mutex_) = 0;         // jobs between Next and the end of Run
  int helpers_ ABSL_GUARDED_BY(mutex_) = 0;         // submitted, or at work
  bool committing_ ABSL_GUARDED_BY(mutex_) = false;  // a thread is at it
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  bool told_ended_ ABSL_GUARDED_BY(mutex_) = false;
  bool input_awaited_ ABSL_GUARDED_BY(mutex_) = false;  // WantsInput has said no
  int64_t changes_ ABSL_GUARDED_BY(mutex_) = 0;         // jobs that have ended, wakes
};

}  // namespace quantd

#endif  // QUANTD_CORE_SESSION_ORDERED_JOBS_H_
