#ifndef QUANTD_CORE_EXEC_CANCEL_TOKEN_H_
#define QUANTD_CORE_EXEC_CANCEL_TOKEN_H_

#include <atomic>

namespace quantd {

// Tells running work that nobody wants its result any more. Thread-safe.
class CancelToken {
 public:
  void Cancel() { cancelled_.store(true, std::memory_order_relaxed); }
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }

 private:
  std::atomic<bool> cancelled_ = false;
};

}  // namespace quantd

#endif  // QUANTD_CORE_EXEC_CANCEL_TOKEN_H_
