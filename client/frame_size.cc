#include "client/frame_size.h"

#include <algorithm>

namespace quantd {
namespace {

// The first frames of a size are only queued, or still come at the pace of the last; the next are
// measured.
constexpr int kFramesBefore = 2, kFramesMeasured = 4;
constexpr absl::Duration kShort = absl::Microseconds(500), kLong = absl::Milliseconds(16);

}  // namespace

int64_t FrameSize::Next(absl::Time now) {
  if (fixed_bytes_ > 0) return fixed_bytes_;
  if (frames_ == kFramesBefore) since_ = now;
  if (frames_ == kFramesBefore + kFramesMeasured) {
    const absl::Duration each = (now - since_) / kFramesMeasured;
    if (each < kShort) bytes_ = std::min(2 * bytes_, kMaxBytes);
    if (each > kLong) bytes_ = std::max(bytes_ / 2, kMinBytes);
    frames_ = 0;
  }
  ++frames_;
  return bytes_;
}

}  // namespace quantd
