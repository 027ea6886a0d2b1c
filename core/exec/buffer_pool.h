#ifndef QUANTD_CORE_EXEC_BUFFER_POOL_H_
#define QUANTD_CORE_EXEC_BUFFER_POOL_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/mutex.h"

namespace quantd {

// Keeps freed buffers for reuse, so that hot paths write to pages that are already mapped: fresh
// pages hold any kernel to a fraction of memory bandwidth. Outlives its buffers. Thread-safe.
class BufferPool {
 public:
  static constexpr size_t kAlignment = 64;

  // Memory from the pool, aligned to kAlignment; returns there when destroyed. Its contents are
  // unspecified at first. Movable. Thread-compatible.
  class Buffer {
   public:
    Buffer() = default;
    Buffer(Buffer&& other) noexcept;
    // By value, so that what was held goes back at once and not when `other` dies.
    Buffer& operator=(Buffer other) noexcept;
    ~Buffer();
    std::byte* data() const { return data_; }
    size_t size() const { return size_bytes_; }
    std::span<std::byte> span() const { return {data_, size_bytes_}; }

   private:
    friend class BufferPool;
    BufferPool* pool_ = nullptr;
    std::byte* data_ = nullptr;
    size_t size_bytes_ = 0;
    int size_class_ = 0;
  };

  // Keeps at most `max_kept_bytes` of freed memory. `may_allocate` says, if not null, whether the
  // system is to have so many bytes: for tests.
  explicit BufferPool(size_t max_kept_bytes, std::function<bool(size_t)> may_allocate = nullptr)
      : max_kept_bytes_(max_kept_bytes), may_allocate_(std::move(may_allocate)) {}
  ~BufferPool() { Trim(); }
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  // Returns a buffer of exactly `size_bytes` (0 is allowed), reused where one of its class is kept.
  // kResourceExhausted: the system gives no more memory, whatever the budget says.
  absl::StatusOr<Buffer> Acquire(size_t size_bytes);

  // Gives all kept memory back to the system.
  void Trim();

  size_t kept_bytes() const;

 private:
  // Class c holds buffers of 4 KiB << c; larger ones are not kept.
  static constexpr int kNumClasses = 14;
  static constexpr size_t ClassBytes(int size_class) { return size_t{4096} << size_class; }
  absl::Status Allocate(size_t size_bytes, Buffer& buffer);
  void Release(std::byte* data, int size_class);

  const size_t max_kept_bytes_;
  const std::function<bool(size_t)> may_allocate_;
  mutable Mutex mutex_;
  size_t kept_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::array<std::vector<std::byte*>, kNumClasses> kept_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace quantd

#endif  // QUANTD_CORE_EXEC_BUFFER_POOL_H_
