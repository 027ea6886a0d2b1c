#include "client/stream_region.h"

#include <algorithm>
#include <atomic>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"

namespace quantd {
namespace {

constexpr int64_t kOutputOffset = 4096;

std::atomic_ref<uint32_t> FlagOf(const SharedMemory& memory, int slot) {
  return std::atomic_ref<uint32_t>(reinterpret_cast<uint32_t*>(memory.bytes().data())[slot]);
}

}  // namespace

absl::StatusOr<std::unique_ptr<StreamRegion>> StreamRegion::Connect(const std::string& path) {
  for (int64_t slot_bytes = kSlotBytes;; slot_bytes /= 4) {
    QUANTD_ASSIGN_OR_RETURN(std::unique_ptr<SharedMemory> memory,
                            SharedMemory::Create(BytesFor(slot_bytes)));
    absl::StatusOr<AcceptedMemory> server = OfferMemory(path, *memory);
    if (server.ok()) {
      return std::make_unique<StreamRegion>(std::move(memory), slot_bytes, *std::move(server));
    }
    if (!absl::IsResourceExhausted(server.status()) || slot_bytes <= kMinSlotBytes) {
      return server.status();
    }
  }
}

bool StreamRegion::has_input() const {
  return std::find(in_use_.begin(), in_use_.end(), false) != in_use_.end();
}

std::span<std::byte> StreamRegion::TakeInput() {
  bool* const slot = std::find(in_use_.begin(), in_use_.end(), false);
  *slot = true;
  return memory_->bytes().subspan(
      static_cast<size_t>(input_offset() + (slot - in_use_.begin()) * slot_bytes_),
      static_cast<size_t>(slot_bytes_));
}

SharedRange StreamRegion::RangeOf(std::span<std::byte> slot, size_t size_bytes) const {
  return {slot.data() - memory_->bytes().data(), static_cast<int64_t>(size_bytes)};
}

absl::Status StreamRegion::ReleaseInput(int64_t offset) {
  const int64_t slot = (offset - input_offset()) / slot_bytes_;
  if (offset < input_offset() || slot >= kInputSlots || !in_use_[static_cast<size_t>(slot)]) {
    return absl::DataLossError(
        absl::StrCat("the server gave back shared memory at ", offset, ", which it did not have"));
  }
  in_use_[static_cast<size_t>(slot)] = false;
  return absl::OkStatus();
}

v1::SharedSlots StreamRegion::output_slots() const {
  v1::SharedSlots slots;
  slots.set_offset(kOutputOffset);
  slots.set_slot_bytes(slot_bytes_);
  slots.set_count(kOutputSlots);
  slots.set_flags_offset(0);
  return slots;
}

absl::StatusOr<std::span<const std::byte>> StreamRegion::Output(const SharedRange& range) const {
  const absl::StatusOr<std::span<std::byte>> bytes = memory_->Range(range.offset, range.size_bytes);
  if (!bytes.ok()) {
    return absl::DataLossError(
        absl::StrCat("the server's answer is wrong: ", bytes.status().message()));
  }
  return std::span<const std::byte>(*bytes);
}

void StreamRegion::ReleaseOutput(const SharedRange& range) {
  const int64_t slot = (range.offset - kOutputOffset) / slot_bytes_;
  if (range.offset < kOutputOffset || slot >= kOutputSlots) return;
  FlagOf(*memory_, static_cast<int>(slot)).store(0, std::memory_order_release);
}

bool StreamRegion::is_free() const {
  for (int slot = 0; slot < kOutputSlots; ++slot) {
    if (FlagOf(*memory_, slot).load(std::memory_order_acquire) != 0) return false;
  }
  return std::find(in_use_.begin(), in_use_.end(), true) == in_use_.end();
}

RegionPool::RegionPool(const std::string& path) : path_(absl::StrCat(path, kMemorySocketSuffix)) {}

absl::StatusOr<std::unique_ptr<StreamRegion>> RegionPool::Acquire() {
  {
    MutexLock lock(&mutex_);
    while (!kept_.empty()) {
      std::unique_ptr<StreamRegion> region = std::move(kept_.back());
      kept_.pop_back();
      if (region->connected()) return region;
    }
  }
  return StreamRegion::Connect(path_);
}

void RegionPool::Release(std::unique_ptr<StreamRegion> region) {
  if (!region->is_free()) return;
  MutexLock lock(&mutex_);
  kept_.push_back(std::move(region));
}

}  // namespace quantd
