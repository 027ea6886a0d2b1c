#ifndef QUANTD_CORE_SESSION_WORK_H_
#define QUANTD_CORE_SESSION_WORK_H_

#include <atomic>
#include <chrono>
#include <cstdint>

namespace quantd {

// What a session has done so far, and where its time went. Says nothing of the result.
struct SessionWork {
  int64_t stripes = 0;                    // that were encoded
  std::chrono::nanoseconds statistics{};  // passes over values that are held, for their parameters
  std::chrono::nanoseconds encoding{};    // of all threads together, like the others
};

// Adds the time between its beginning and its end, in nanoseconds, to a sum that outlives it.
class ScopedTimer {
 public:
  explicit ScopedTimer(std::atomic<int64_t>& sum_ns) : sum_ns_(sum_ns) {}
  ~ScopedTimer() { sum_ns_ += (std::chrono::steady_clock::now() - begin_).count(); }
  ScopedTimer(const ScopedTimer&) = delete;
  ScopedTimer& operator=(const ScopedTimer&) = delete;

 private:
  std::atomic<int64_t>& sum_ns_;
  const std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

}  // namespace quantd

#endif  // QUANTD_CORE_SESSION_WORK_H_
