#ifndef QUANTD_CORE_SESSION_STRIPE_SESSION_H_
#define QUANTD_CORE_SESSION_STRIPE_SESSION_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "core/exec/piece.h"
#include "core/session/ordered_jobs.h"
#include "core/session/piece_queue.h"
#include "core/session/session_context.h"
#include "core/session/sink.h"
#include "core/session/work.h"

namespace quantd {

// What sessions have in common. A session takes bytes in pieces (Push, which each kind has of its
// own), works on them by the executor's workers and by threads that call Help or Await, and gives its
// output to a sink, in order. Who pushes calls Help or Await next: small tensors are done by then, and
// workers join where there is more. Its `on_event` is called on any thread, under no lock, when input is
// wanted again and when all has ended by itself; it may come a moment after the session is gone.
// Nothing blocks but Await and the destructor, which waits for the stripes at work. Thread-safe, but
// Push calls come one at a time.
class StripeSession : private JobSource {
 public:
  // Says that no more comes. Missing bytes are kDataLoss, with their number: status() says so, as it
  // says whatever is wrong with the input, after the stripes before it.
  void EndInput();
  // Says that what was to come is damaged or lost.
  void FailInput(const absl::Status& status);
  // Says that the sink may have memory again.
  void Ready();
  SessionWork work() const;

  // True while more input is useful. False means that an event will follow.
  bool WantsInput() { return jobs_->WantsInput(); }
  // Does one stripe's work on this thread; false: there is none to do now.
  bool Help() { return jobs_->RunOne(); }
  // Does and awaits all work that there is.
  void Await() { jobs_->Await(); }
  // Begins no more stripes; the status becomes `status`, unless it is an error already.
  void Cancel(const absl::Status& status) { jobs_->Cancel(status); }
  // True when all output has been given to the sink, or the session has failed, and nothing runs.
  bool ended() { return jobs_->ended(); }
  // True while stripes are at work.
  bool busy() { return jobs_->busy(); }
  absl::Status status() { return jobs_->status(); }

 protected:
  class StripeJob : public Job {
   public:
    // Pieces that it lets go of when it has run: that is under no lock.
    std::vector<Piece> settled;
  };
  // A job whose Run and Commit are the session's, and what it works on.
  template <typename Session, typename Work>
  class JobOf final : public StripeJob, public Work {
   public:
    explicit JobOf(Session& session) : session_(session) {}
    void Run() override {
      session_.Run(static_cast<Work&>(*this));
      settled.clear();
    }
    absl::Status Commit() override { return session_.Commit(static_cast<Work&>(*this)); }
    bool reusable() const override { return Work::kReusable; }

   private:
    Session& session_;
  };

  // `input_bytes` come in all, of what errors call `input_name`.
  StripeSession(const SessionContext& context, int64_t stripes_in_flight, int64_t input_bytes,
                std::string input_name, std::function<void()> on_event)
      : input_(input_bytes, std::move(input_name)),
        jobs_(std::make_shared<OrderedJobs>(static_cast<JobSource&>(*this), *context.executor,
                                            stripes_in_flight, std::move(on_event))) {}
  // Returns when no job runs: for the destructors of sessions, whose members jobs use.
  void Stop() { jobs_->Stop(); }
  // The status, and kFailedPrecondition before the end.
  absl::Status result() { return jobs_->result(); }
  // Takes input in by `take`, under the lock, and copies what is scarce where no stripe is complete.
  void TakeIn(absl::FunctionRef<void()> take);

  // All that follows is called under the lock.
  // True if a stripe has come whole.
  virtual bool HasStripe() const = 0;
  // True if a job can begin.
  virtual bool MayBegin() const { return HasStripe() && !sink_is_full_; }
  // Begins it; null: the sink has no memory now, or no_memory_ says that there will be none.
  virtual std::unique_ptr<StripeJob> Begin() = 0;
  // True if what has come gives no more jobs.
  virtual bool InputIsSpent() const { return !HasStripe(); }
  // True if all that shall come has come, and all its jobs have begun.
  virtual bool AllBegun() const = 0;
  virtual bool MayTakeMore() const { return input_.may_come() && !HasStripe(); }
  virtual void CheckEnd() { input_.End(); }

  // Returns a job to fill: one that is done, or a new one. Of a session's jobs one type is reusable.
  template <typename JobType, typename Session>
  std::unique_ptr<JobType> NewJob(Session& session) {
    if (spare_.empty()) return std::make_unique<JobType>(session);
    std::unique_ptr<JobType> job(static_cast<JobType*>(spare_.back().release()));
    spare_.pop_back();
    return job;
  }
  // Returns memory for the output of a stripe; nullopt: there is none now.
  std::optional<std::span<std::byte>> AcquireFrom(PayloadSink& sink, int64_t offset_bytes,
                                                  int64_t size_bytes);

  CheckedInput input_;
  bool sink_is_full_ = false;  // until Ready
  absl::Status no_memory_;     // an error ends the session
  std::atomic<int64_t> stripes_ = 0, statistics_ns_ = 0, encoding_ns_ = 0;  // under no lock

 private:
  // JobSource.
  std::unique_ptr<Job> Next() final;
  bool MayHaveNext() final { return !failed_ && (MayBegin() || MayFail()); }
  void Recycle(std::unique_ptr<Job> job) final;
  bool Exhausted() final { return failed_ || (AllBegun() && input_.error().ok()); }
  bool TakesInput() final { return MayTakeMore(); }
  bool MayFail() const { return !input_.error().ok() && InputIsSpent(); }

  std::vector<std::unique_ptr<Job>> spare_;
  bool failed_ = false;  // the job that says so has begun
  const std::shared_ptr<OrderedJobs> jobs_;
};

}  // namespace quantd

#endif  // QUANTD_CORE_SESSION_STRIPE_SESSION_H_
