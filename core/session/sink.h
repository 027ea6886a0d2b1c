#ifndef QUANTD_CORE_SESSION_SINK_H_
#define QUANTD_CORE_SESSION_SINK_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace quantd {

// Memory of a sink; nullopt: there is none now. An error ends the session.
using SinkMemory = absl::StatusOr<std::optional<std::span<std::byte>>>;

// Takes what a session puts out: an outgoing slice, a shared page, a file mapping. Plane 0, the codes
// or the values, is written in place: memory for it is acquired stripe by stripe, in order and ahead
// of the work, and committed in the same order when it is written. Each plane is filled from its
// beginning to its end without gaps. No call blocks.
//
// Acquire may come on any thread, at the same time as the others, which come one at a time.
class PayloadSink {
 public:
  virtual ~PayloadSink() = default;
  // Returns memory, aligned for the plane's elements, for bytes [offset_bytes, + size_bytes) of plane
  // 0, valid until its Commit. Where there is none now, the session's Ready will be called when there
  // is.
  virtual SinkMemory Acquire(int64_t offset_bytes, int64_t size_bytes) = 0;
  // Says that the memory of the oldest Acquire that is not committed is written. `crc32c` is that of
  // its bytes if wants_crc().
  virtual void Commit(int64_t offset_bytes, int64_t size_bytes, uint32_t crc32c) = 0;
  // Takes a copy of bytes of another plane, which belong to codes that are committed after them.
  virtual void Put(int plane, int64_t offset_bytes, std::span<const std::byte> bytes) = 0;
  virtual bool wants_crc() const { return false; }
};

// Writes each plane into memory of its whole size.
class SpanSink final : public PayloadSink {
 public:
  explicit SpanSink(std::vector<std::span<std::byte>> planes) : planes_(std::move(planes)) {}

  SinkMemory Acquire(int64_t offset_bytes, int64_t size_bytes) override {
    return planes_[0].subspan(static_cast<size_t>(offset_bytes), static_cast<size_t>(size_bytes));
  }
  void Commit(int64_t, int64_t, uint32_t) override {}
  void Put(int plane, int64_t offset_bytes, std::span<const std::byte> bytes) override {
    std::copy(bytes.begin(), bytes.end(),
              planes_[static_cast<size_t>(plane)].begin() + offset_bytes);
  }

 private:
  const std::vector<std::span<std::byte>> planes_;
};

}  // namespace quantd

#endif  // QUANTD_CORE_SESSION_SINK_H_
