#ifndef QUANTD_CLIENT_PLANE_SINK_H_
#define QUANTD_CLIENT_PLANE_SINK_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "core/scheme/scheme.h"

namespace quantd {

// Takes the result of one tensor: the planes of its packed form, or, as one plane, its values.
// Called from one thread at a time, in the order Begin, Write ..., End. An error that it returns
// fails the tensor and is what the caller gets.
class PlaneSink {
 public:
  virtual ~PlaneSink() = default;

  // Tells the planes, with exact sizes, before any of their bytes.
  virtual absl::Status Begin(std::span<const PlaneDesc> planes) = 0;

  // Gives bytes of plane `plane`, which continue what came before at `offset_bytes`. Their checksum
  // has been checked. `piece` is valid during the call only.
  virtual absl::Status Write(int plane, int64_t offset_bytes, std::span<const std::byte> piece) = 0;

  // Tells that all planes are complete and that their digests are the server's.
  virtual absl::Status End() { return absl::OkStatus(); }

  // Forgets everything, since the tensor is sent again; Begin follows. The default refuses, and a
  // broken call is then the caller's to make again.
  virtual absl::Status Restart() {
    return absl::UnimplementedError("this sink takes a tensor once only");
  }
};

// Keeps the planes in memory.
class MemorySink final : public PlaneSink {
 public:
  absl::Status Begin(std::span<const PlaneDesc> planes) override;
  absl::Status Write(int plane, int64_t offset_bytes, std::span<const std::byte> piece) override;
  absl::Status Restart() override;

  const std::vector<std::vector<std::byte>>& planes() const { return planes_; }
  std::vector<std::vector<std::byte>>& planes() { return planes_; }

 private:
  std::vector<std::vector<std::byte>> planes_;
};

}  // namespace quantd

#endif  // QUANTD_CLIENT_PLANE_SINK_H_
