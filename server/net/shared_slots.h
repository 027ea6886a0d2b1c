#ifndef QUANTD_SERVER_NET_SHARED_SLOTS_H_
#define QUANTD_SERVER_NET_SHARED_SLOTS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "absl/status/statusor.h"
#include "proto/frame_codec.h"
#include "quantd/v1/quantization.pb.h"
#include "server/net/shared_regions.h"

namespace quantd {

// The places in a shared region that a client wants payload in. What the client does to flags and
// bytes meanwhile harms its own result only. Not thread-safe.
class SharedSlots {
 public:
  // kInvalidArgument: a field, or no region, which is null.
  static absl::StatusOr<std::unique_ptr<SharedSlots>> Make(
      const v1::SharedSlots& slots, std::shared_ptr<const SharedRegion> region);

  size_t slot_bytes() const { return static_cast<size_t>(slots_.slot_bytes()); }
  // Returns the number of a slot that was free, or nothing.
  std::optional<int> Take();
  std::span<std::byte> bytes(int slot) const;
  // Returns the first `size_bytes` of a slot as frames name them.
  SharedRange RangeOf(int slot, size_t size_bytes) const;
  // Makes a slot free of which the client has not been told.
  void GiveBack(int slot);

 private:
  SharedSlots(const v1::SharedSlots& slots, std::shared_ptr<const SharedRegion> region)
      : slots_(slots), region_(std::move(region)) {}
  std::atomic_ref<uint32_t> Flag(int slot) const;

  const v1::SharedSlots slots_;
  const std::shared_ptr<const SharedRegion> region_;
};

}  // namespace quantd

#endif  // QUANTD_SERVER_NET_SHARED_SLOTS_H_
