// Freed buffers by size class, powers of two from 4 KiB to 32 MiB: 5,000 bytes take one of 8 KiB,
// and so does whoever wants 8,000 next. Larger ones go back to the system. A class is a stack: the
// buffer that was let go last, which the caches may still hold, is taken first. What is kept has a
// bound, and what does not fit is freed.
//
// A buffer from the pool costs a lock and a push; a new one costs a fault for each page that is
// written.
//
// Entry: Acquire. Tested by tests/core/exec/buffer_pool_test.cc.
#include "core/exec/buffer_pool.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"

namespace quantd {
namespace {

// From this size on memory comes in huge pages where the system has them: faulting in 4 KiB pages
// costs more than the work on them (measured on a buffered tensor of 256 MiB: 0.4 against 2 GB/s).
constexpr size_t kHugeFromBytes = size_t{4} << 20;
constexpr size_t kHugePageBytes = size_t{2} << 20;

// Returns null where there is no memory.
std::byte* AllocateBytes(size_t size_bytes) {
  const bool huge = size_bytes >= kHugeFromBytes;
  const size_t alignment = huge ? kHugePageBytes : BufferPool::kAlignment;
  const size_t rounded_bytes = (size_bytes + alignment - 1) / alignment * alignment;
  void* data = std::aligned_alloc(alignment, rounded_bytes);
#if defined(__linux__)
  if (huge && data != nullptr) madvise(data, rounded_bytes, MADV_HUGEPAGE);  // a hint: it may fail
#endif
  return static_cast<std::byte*>(data);
}

void FreeBytes(std::byte* data) { std::free(data); }

}  // namespace

BufferPool::Buffer::Buffer(Buffer&& other) noexcept
    : pool_(std::exchange(other.pool_, nullptr)),
      data_(std::exchange(other.data_, nullptr)),
      size_bytes_(std::exchange(other.size_bytes_, 0)),
      size_class_(std::exchange(other.size_class_, 0)) {}

BufferPool::Buffer& BufferPool::Buffer::operator=(Buffer other) noexcept {
  std::swap(pool_, other.pool_);
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  std::swap(size_class_, other.size_class_);
  return *this;
}

BufferPool::Buffer::~Buffer() {
  if (data_ != nullptr) pool_->Release(data_, size_class_);
}

absl::StatusOr<BufferPool::Buffer> BufferPool::Acquire(size_t size_bytes) {
  Buffer buffer;
  if (size_bytes == 0) return buffer;
  buffer.pool_ = this;
  buffer.size_bytes_ = size_bytes;
  buffer.size_class_ =
      std::max(0, static_cast<int>(std::bit_width(size_bytes - 1)) - 12);  // 4 KiB is 2^12
  if (buffer.size_class_ >= kNumClasses) {
    QUANTD_RETURN_IF_ERROR(Allocate(size_bytes, buffer));
    return buffer;
  }
  {
    MutexLock lock(&mutex_);
    std::vector<std::byte*>& kept = kept_[static_cast<size_t>(buffer.size_class_)];
    if (!kept.empty()) {
      buffer.data_ = kept.back();
      kept.pop_back();
      kept_bytes_ -= ClassBytes(buffer.size_class_);
      return buffer;
    }
  }
  QUANTD_RETURN_IF_ERROR(Allocate(ClassBytes(buffer.size_class_), buffer));
  return buffer;
}

absl::Status BufferPool::Allocate(size_t size_bytes, Buffer& buffer) {
  const bool may = may_allocate_ == nullptr || may_allocate_(size_bytes);
  buffer.data_ = may ? AllocateBytes(size_bytes) : nullptr;
  if (buffer.data_ != nullptr) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("the system gives no memory for a buffer of ", size_bytes, " bytes"));
}

void BufferPool::Release(std::byte* data, int size_class) {
  if (size_class < kNumClasses) {
    MutexLock lock(&mutex_);
    if (kept_bytes_ + ClassBytes(size_class) <= max_kept_bytes_) {
      kept_[static_cast<size_t>(size_class)].push_back(data);
      kept_bytes_ += ClassBytes(size_class);
      return;
    }
  }
  FreeBytes(data);
}

void BufferPool::Trim() {
  MutexLock lock(&mutex_);
  for (std::vector<std::byte*>& kept : kept_) {
    for (std::byte* data : kept) FreeBytes(data);
    kept.clear();
  }
  kept_bytes_ = 0;
}

size_t BufferPool::kept_bytes() const {
  MutexLock lock(&mutex_);
  return kept_bytes_;
}

}  // namespace quantd
