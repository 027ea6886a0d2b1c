#ifndef QUANTD_SERVER_CALLS_RECEIVED_CHUNK_H_
#define QUANTD_SERVER_CALLS_RECEIVED_CHUNK_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/base/mutex.h"
#include "core/exec/piece.h"
#include "proto/frame_codec.h"
#include "server/calls/call.h"
#include "server/net/shared_regions.h"

namespace quantd {

// Tells the client which chunks in the memory that it shares have been read, of two at once where
// another frame has come: a message costs a good part of what encoding a chunk does. Thread-safe.
class SharedChunks : public std::enable_shared_from_this<SharedChunks> {
 public:
  // `outbox` lives until Close.
  SharedChunks(std::shared_ptr<const SharedRegion> region, FrameOutbox& outbox)
      : region_(std::move(region)), outbox_(&outbox) {}

  // Returns the bytes of `range`, whose keeper tells the client when it goes.
  absl::StatusOr<Piece> Map(const SharedRange& range);
  // Tells of what has been read, now that no frame is at work.
  void Flush();
  // Tells nobody any more.
  void Close();

 private:
  void Release(int64_t offset);
  void TellReleased() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::shared_ptr<const SharedRegion> region_;
  Mutex mutex_;
  FrameOutbox* outbox_ ABSL_GUARDED_BY(mutex_);  // null: closed
  std::vector<int64_t> read_ ABSL_GUARDED_BY(mutex_);  // offsets, of which the client is to hear
};

// A chunk of a request: its bytes lie where gRPC received them, or in shared memory, and are kept
// there by their pieces.
struct ReceivedChunk {
  std::string plane;
  int64_t offset = 0;
  int64_t size_bytes = 0;
  std::vector<Piece> pieces;
};

// Returns the chunk of `frame` after a check of its CRC32C, before anybody reads it. kDataLoss: the
// CRC is wrong. kInvalidArgument: a shared range that cannot be; `shared` is null where there is no
// shared memory.
absl::StatusOr<ReceivedChunk> ReceiveChunk(ParsedFrame frame, SharedChunks* shared);

}  // namespace quantd

#endif  // QUANTD_SERVER_CALLS_RECEIVED_CHUNK_H_
