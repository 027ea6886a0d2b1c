#ifndef QUANTD_CORE_SESSION_HELD_BAND_H_
#define QUANTD_CORE_SESSION_HELD_BAND_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>

#include "absl/status/statusor.h"
#include "core/base/status_macros.h"
#include "core/exec/buffer_pool.h"
#include "core/session/evidence.h"
#include "core/session/piece_queue.h"
#include "core/session/stripe_encoder.h"

namespace quantd {

// The parameters of a band, or of the whole tensor, that its stripes share.
struct BandParams {
  explicit BandParams(GroupSpan span) : groups(span) {}

  const GroupSpan groups;
  ParamBuffer params;
  std::once_flag resolved;  // where they are known: by the first stripe that wants them
  bool is_put = false;      // the committer's: they are written
};

// A band, or a tensor, whose values are held until its parameters are found: it is scanned stripe by
// stripe while it arrives, then resolved, then encoded from here.
struct HeldBand {
  HeldBand(int64_t begin_elem, int64_t end_elem) : begin(begin_elem), end(end_elem) {}

  // Takes the next stripe's values in, which lie `offset_bytes` behind the band's first of
  // `held_bytes`: in place where all of them are owned; else returns where they are to be copied to.
  // kResourceExhausted: there is no memory for them.
  absl::StatusOr<std::span<std::byte>> TakeIn(const PieceRange& values, int64_t offset_bytes, int64_t held_bytes,
                              BufferPool& pool) {
    if (values.owned) {
      for (const std::span<const std::byte> piece : values.bytes.pieces()) whole.Append(piece);
      return std::span<std::byte>();
    }
    if (memory.size() == 0) {
      QUANTD_ASSIGN_OR_RETURN(memory, pool.Acquire(static_cast<size_t>(held_bytes)));
    }
    const std::span<std::byte> place = memory.span().subspan(
        static_cast<size_t>(offset_bytes), static_cast<size_t>(values.bytes.size_bytes()));
    whole.Append(place);
    return place;
  }

  const int64_t begin, end;  // elements
  BufferPool::Buffer memory;  // of values that are not owned, each at its place in the band
  ByteRange whole;            // what has been taken in
  int64_t taken_end = 0;      // elements up to which values have been taken in
  std::optional<EvidenceCollector> evidence;
  std::shared_ptr<BandParams> params;  // null: stripes find theirs themselves
  std::atomic<bool> resolved = false;
};

}  // namespace quantd

#endif  // QUANTD_CORE_SESSION_HELD_BAND_H_
