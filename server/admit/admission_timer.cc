#include "server/admit/admission_timer.h"

#include "absl/time/clock.h"

namespace quantd {

AdmissionTimer::AdmissionTimer(Admission& admission) : admission_(admission) {
  admission_.SetListener([this] {
    MutexLock lock(&mutex_);
    changed_ = true;
  });
  thread_ = std::thread([this] { Main(); });
}

AdmissionTimer::~AdmissionTimer() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

void AdmissionTimer::Main() {
  const auto woken = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return stopping_ || changed_; };
  for (;;) {
    const absl::Time next = admission_.Expire(absl::Now());
    MutexLock lock(&mutex_);
    mutex_.AwaitWithDeadline(absl::Condition(&woken), next);
    if (stopping_) return;
    changed_ = false;
  }
}

}  // namespace quantd
