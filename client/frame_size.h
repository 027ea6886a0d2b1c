#ifndef QUANTD_CLIENT_FRAME_SIZE_H_
#define QUANTD_CLIENT_FRAME_SIZE_H_

#include <cstdint>

#include "absl/time/time.h"

namespace quantd {

// How much payload the next frame of a stream shall have. Large frames cost less each byte where
// they go out at once; small ones keep a slow link's ends from holding, and waiting for, what takes
// long to go over. Not thread-safe.
class FrameSize {
 public:
  static constexpr int64_t kMinBytes = int64_t{256} << 10, kFirstBytes = int64_t{1} << 20,
                           kMaxBytes = int64_t{4} << 20;

  // 0: adapts between kMinBytes and kMaxBytes; else all frames are of `fixed_bytes`.
  explicit FrameSize(int64_t fixed_bytes) : fixed_bytes_(fixed_bytes) {}

  // Returns the size of the frame that is about to be sent, at `now`. Doubles it where frames have
  // taken less than half a millisecond each, and halves it where they have taken more than 16.
  int64_t Next(absl::Time now);

 private:
  const int64_t fixed_bytes_;
  int64_t bytes_ = kFirstBytes;
  int frames_ = 0;  // of this size
  absl::Time since_;
};

}  // namespace quantd

#endif  // QUANTD_CLIENT_FRAME_SIZE_H_
