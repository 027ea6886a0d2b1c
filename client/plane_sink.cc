#include "client/plane_sink.h"

#include <cstring>

namespace quantd {

absl::Status MemorySink::Begin(std::span<const PlaneDesc> planes) {
  planes_.resize(planes.size());
  for (size_t i = 0; i < planes.size(); ++i) {
    planes_[i].resize(static_cast<size_t>(planes[i].size_bytes));
  }
  return absl::OkStatus();
}

absl::Status MemorySink::Write(int plane, int64_t offset_bytes, std::span<const std::byte> piece) {
  if (piece.empty()) return absl::OkStatus();
  std::memcpy(planes_[static_cast<size_t>(plane)].data() + offset_bytes, piece.data(),
              piece.size());
  return absl::OkStatus();
}

absl::Status MemorySink::Restart() {
  planes_.clear();
  return absl::OkStatus();
}

}  // namespace quantd
