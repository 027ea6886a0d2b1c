#ifndef QUANTD_CLIENT_STREAM_REGION_H_
#define QUANTD_CLIENT_STREAM_REGION_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/mutex.h"
#include "core/io/shared_memory.h"
#include "proto/frame_codec.h"
#include "quantd/v1/quantization.pb.h"

namespace quantd {

// Memory that is shared with a server, in slots, for one stream at a time: its writer fills input
// slots, its reader empties output slots. Thread-compatible; what is const, and ReleaseOutput, may
// be called at any time.
class StreamRegion {
 public:
  static constexpr int kInputSlots = 4, kOutputSlots = 6;
  // The size of slots, and what they may shrink to where the server has not the memory.
  static constexpr int64_t kSlotBytes = int64_t{4} << 20, kMinSlotBytes = int64_t{256} << 10;
  // | page of flags | output slots | input slots |
  static constexpr int64_t BytesFor(int64_t slot_bytes) {
    return 4096 + (kInputSlots + kOutputSlots) * slot_bytes;
  }

  // Makes the memory and passes it over the socket at `path`, with smaller slots as long as the
  // server has not enough memory for it. Errors are those of OfferMemory.
  static absl::StatusOr<std::unique_ptr<StreamRegion>> Connect(const std::string& path);
  // Of memory of BytesFor(`slot_bytes`) that `server` has accepted.
  StreamRegion(std::unique_ptr<SharedMemory> memory, int64_t slot_bytes, AcceptedMemory server)
      : memory_(std::move(memory)), slot_bytes_(slot_bytes), server_(std::move(server)) {}

  int64_t slot_bytes() const { return slot_bytes_; }

  const std::string& token() const { return server_.token; }
  // True if the token is still good.
  bool connected() const { return IsConnected(server_.connection); }

  // True if the server has none of some input slot's bytes left to take.
  bool has_input() const;
  // Returns such a slot, which there is, and has it in use.
  std::span<std::byte> TakeInput();
  // Returns how frames name the first `size_bytes` of an input slot.
  SharedRange RangeOf(std::span<std::byte> slot, size_t size_bytes) const;
  // Makes an input slot free that was not sent.
  void ReleaseInput(std::span<std::byte> slot) {
    ReleaseInput(RangeOf(slot, 0).offset).IgnoreError();  // it is in use
  }
  // The server has taken the bytes at `offset`. kDataLoss: there is nothing that it has to take.
  absl::Status ReleaseInput(int64_t offset);

  // What `start` says of the output slots.
  v1::SharedSlots output_slots() const;
  // Returns the bytes that a response names. kDataLoss: there are none such.
  absl::StatusOr<std::span<const std::byte>> Output(const SharedRange& range) const;
  // Has the server use them again.
  void ReleaseOutput(const SharedRange& range);

  // True if another stream may have it: the server uses nothing of it any more.
  bool is_free() const;

 private:
  int64_t input_offset() const { return BytesFor(slot_bytes_) - kInputSlots * slot_bytes_; }

  const std::unique_ptr<SharedMemory> memory_;
  const int64_t slot_bytes_;
  const AcceptedMemory server_;
  std::array<bool, kInputSlots> in_use_ = {};
};

// The regions of one client, kept for the next stream. Thread-safe.
class RegionPool {
 public:
  // Of the server whose socket for gRPC is at `path`.
  explicit RegionPool(const std::string& path);
  // Returns a region that is kept and still good, or a new one; errors are StreamRegion::Connect's.
  absl::StatusOr<std::unique_ptr<StreamRegion>> Acquire() ABSL_LOCKS_EXCLUDED(mutex_);
  // Keeps it, if another stream may have it.
  void Release(std::unique_ptr<StreamRegion> region) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  const std::string path_;
  Mutex mutex_;
  std::vector<std::unique_ptr<StreamRegion>> kept_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace quantd

#endif  // QUANTD_CLIENT_STREAM_REGION_H_
