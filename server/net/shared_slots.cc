#include "server/net/shared_slots.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/checked_math.h"
#include "core/base/status_detail.h"
#include "core/base/status_macros.h"

namespace quantd {
namespace {

constexpr int kMaxSlots = 256;
constexpr int64_t kAlignment = 64;  // of slots, for any element and whole cache lines

absl::Status CheckAligned(absl::string_view name, int64_t value, int64_t min) {
  if (value >= min && value % kAlignment == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      name, "=", value, " is not allowed; use a multiple of ", kAlignment, " from ", min));
}

absl::Status Check(const v1::SharedSlots& slots, const SharedRegion* region) {
  if (region == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("output slots on a stream without ", kMemoryTokenKey));
  }
  if (slots.count() < 1 || slots.count() > kMaxSlots) {
    return absl::InvalidArgumentError(
        absl::StrCat("count=", slots.count(), " is not allowed; use 1 to ", kMaxSlots));
  }
  QUANTD_RETURN_IF_ERROR(CheckAligned("offset", slots.offset(), 0));
  QUANTD_RETURN_IF_ERROR(CheckAligned("slot_bytes", slots.slot_bytes(), kAlignment));
  QUANTD_RETURN_IF_ERROR(CheckAligned("flags_offset", slots.flags_offset(), 0));
  QUANTD_ASSIGN_OR_RETURN(const int64_t all_bytes, CheckedMul(slots.slot_bytes(), slots.count()));
  QUANTD_RETURN_IF_ERROR(region->memory->Range(slots.offset(), all_bytes).status());
  return region->memory->Range(slots.flags_offset(), slots.count() * int64_t{sizeof(uint32_t)})
      .status();
}

}  // namespace

absl::StatusOr<std::unique_ptr<SharedSlots>> SharedSlots::Make(
    const v1::SharedSlots& slots, std::shared_ptr<const SharedRegion> region) {
  const absl::Status status = Check(slots, region.get());
  if (!status.ok()) return WithField(status, "output_slots");
  return std::unique_ptr<SharedSlots>(new SharedSlots(slots, std::move(region)));
}

std::optional<int> SharedSlots::Take() {
  for (int slot = 0; slot < slots_.count(); ++slot) {
    // Pairs with the client's release: it has read the bytes. Streams of one server do not compete
    // for a slot unless the client has them.
    if (Flag(slot).load(std::memory_order_acquire) != 0) continue;
    Flag(slot).store(1, std::memory_order_relaxed);
    return slot;
  }
  return std::nullopt;
}

std::span<std::byte> SharedSlots::bytes(int slot) const {
  return region_->memory->bytes().subspan(
      static_cast<size_t>(slots_.offset() + slot * slots_.slot_bytes()), slot_bytes());
}

SharedRange SharedSlots::RangeOf(int slot, size_t size_bytes) const {
  return {slots_.offset() + slot * slots_.slot_bytes(), static_cast<int64_t>(size_bytes)};
}

void SharedSlots::GiveBack(int slot) { Flag(slot).store(0, std::memory_order_relaxed); }

std::atomic_ref<uint32_t> SharedSlots::Flag(int slot) const {
  // The region begins at a page, the flags at a multiple of kAlignment.
  auto* const flags =
      reinterpret_cast<uint32_t*>(region_->memory->bytes().data() + slots_.flags_offset());
  return std::atomic_ref<uint32_t>(flags[slot]);
}

}  // namespace quantd
