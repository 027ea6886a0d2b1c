#ifndef QUANTD_CORE_SESSION_WORK_H_
#define QUANTD_CORE_SESSION_WORK_H_

#include <chrono>
#include <cstdint>

namespace quantd {

// What a session has done so far, and where its time went. Says nothing of the result.
struct SessionWork {
  int64_t stripes = 0;                    // that were encoded
  std::chrono::nanoseconds statistics{};  // passes over values that are held, for their parameters
  std::chrono::nanoseconds encoding{};    // of all threads together, like the others
};

// Adds the time between its beginning and its end to a sum that outlives it.
class ScopedTimer {
 public:
  explicit ScopedTimer(std::chrono::nanoseconds& sum) : sum_(sum) {}
  ~ScopedTimer() { sum_ += std::chrono::steady_clock::now() - begin_; }
  ScopedTimer(const ScopedTimer&) = delete;
  ScopedTimer& operator=(const ScopedTimer&) = delete;

 private:
  std::chrono::nanoseconds& sum_;
  const std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

}  // namespace quantd

#endif  // QUANTD_CORE_SESSION_WORK_H_
