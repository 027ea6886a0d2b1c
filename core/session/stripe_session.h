#ifndef QUANTD_CORE_SESSION_STRIPE_SESSION_H_
#define QUANTD_CORE_SESSION_STRIPE_SESSION_H_

#include "absl/status/status.h"
#include "core/session/ordered_jobs.h"
#include "core/session/work.h"

namespace quantd {

// What sessions have in common. A session takes bytes in pieces (Push, which each kind has of its
// own), works on them by the executor's workers and by threads that call Help or Await, and gives its
// output to a sink, in order. Who pushes calls Help or Await next: small tensors are done by then, and
// workers join where there is more. Its `on_event` is called on any thread, under no lock, when input is
// wanted again and when all has ended by itself; it may come a moment after the session is gone.
// Nothing blocks but Await and the destructor, which waits for the stripes at work. Thread-safe, but
// Push calls come one at a time.
class StripeSession {
 public:
  virtual ~StripeSession() = default;

  // Says that no more comes. Missing bytes are kDataLoss, with their number: status() says so, as it
  // says whatever is wrong with the input, after the stripes before it.
  virtual void EndInput() = 0;
  // Says that what was to come is damaged or lost.
  virtual void FailInput(const absl::Status& status) = 0;
  // Says that the sink may have memory again.
  virtual void Ready() = 0;
  virtual SessionWork work() = 0;

  // True while more input is useful. False means that an event will follow.
  bool WantsInput() { return jobs().WantsInput(); }
  // Does one stripe's work on this thread; false: there is none to do now.
  bool Help() { return jobs().RunOne(); }
  // Does and awaits all work that there is.
  void Await() { jobs().Await(); }
  // Begins no more stripes; the status becomes `status`, unless it is an error already.
  void Cancel(const absl::Status& status) { jobs().Cancel(status); }
  // True when all output has been given to the sink, or the session has failed, and nothing runs.
  bool ended() { return jobs().ended(); }
  // True while stripes are at work.
  bool busy() { return jobs().busy(); }
  absl::Status status() { return jobs().status(); }

 protected:
  virtual OrderedJobs& jobs() = 0;
};

}  // namespace quantd

#endif  // QUANTD_CORE_SESSION_STRIPE_SESSION_H_
