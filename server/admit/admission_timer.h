#ifndef QUANTD_SERVER_ADMIT_ADMISSION_TIMER_H_
#define QUANTD_SERVER_ADMIT_ADMISSION_TIMER_H_

#include <thread>

#include "absl/base/thread_annotations.h"
#include "core/base/mutex.h"
#include "server/admit/admission.h"

namespace quantd {

// The clock of an Admission: a thread that refuses those whose time is up. Thread-safe.
class AdmissionTimer {
 public:
  // `admission` outlives this, and has nobody waiting yet.
  explicit AdmissionTimer(Admission& admission);
  ~AdmissionTimer();
  AdmissionTimer(const AdmissionTimer&) = delete;
  AdmissionTimer& operator=(const AdmissionTimer&) = delete;

 private:
  void Main();

  Admission& admission_;
  Mutex mutex_;
  bool changed_ ABSL_GUARDED_BY(mutex_) = false;  // somebody waits that was not looked at
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace quantd

#endif  // QUANTD_SERVER_ADMIT_ADMISSION_TIMER_H_
