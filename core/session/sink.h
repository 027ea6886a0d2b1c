#ifndef QUANTD_CORE_SESSION_SINK_H_
#define QUANTD_CORE_SESSION_SINK_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

namespace quantd {

// Gives the memory that a window's output is written into: an outgoing slice, a shared page, a file
// mapping. Each plane is filled from its beginning to its end without gaps. Never blocks.
class PayloadSink {
 public:
  virtual ~PayloadSink() = default;
  // Returns `size_bytes` of memory, aligned for the plane's elements, for bytes [offset_bytes, +
  // size_bytes) of plane `plane` (its place in PackedLayout::planes; 0 for the values of a
  // dequantized tensor). Valid until Commit.
  virtual std::span<std::byte> Acquire(int plane, int64_t offset_bytes, int64_t size_bytes) = 0;
  // Says that the memory of the same Acquire is written.
  virtual void Commit(int plane, int64_t offset_bytes, int64_t size_bytes) = 0;
};

// Tells running work that nobody wants its result any more. Thread-safe.
class CancelToken {
 public:
  void Cancel() { cancelled_.store(true, std::memory_order_relaxed); }
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }

 private:
  std::atomic<bool> cancelled_ = false;
};

// What one call of a session's Step did.
struct StepResult {
  int64_t consumed_bytes = 0;  // of the input given
  bool wants_input = true;     // false: call again with what is left, or with nothing
};

}  // namespace quantd

#endif  // QUANTD_CORE_SESSION_SINK_H_
