#ifndef QUANTD_CLIENT_BYTE_STREAM_H_
#define QUANTD_CLIENT_BYTE_STREAM_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>

#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "core/base/mutex.h"

namespace quantd {

// Returns the gRPC status as ours; codes keep their number.
absl::Status FromGrpc(const grpc::Status& status);

// Sets the deadline that `context`'s call ends by; InfiniteFuture is none.
void SetDeadline(absl::Time deadline, grpc::ClientContext& context);

// One raw bidirectional call with blocking ends: one thread writes while another reads. The reactor
// inside reads a few messages ahead and leaves the rest to flow control. Thread-safe.
class ByteStream final : private grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  // Starts the call of `method` ("/package.Service/Method"), with the metadata `key`=`value` if
  // there is a key.
  ByteStream(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
             absl::Time deadline, const std::string& key = "", const std::string& value = "");

  // Cancels the call if it still runs, and waits for its end.
  ~ByteStream() override;

  // Sends `message`, when those before have gone out: a small one queues behind them, for a large
  // one this waits. kAborted: the call is over; Read tells why.
  absl::Status Write(grpc::ByteBuffer message) ABSL_LOCKS_EXCLUDED(mutex_);

  // Says that nothing more will be written, when the last message has gone out.
  void WritesDone() ABSL_LOCKS_EXCLUDED(mutex_);

  // Returns the next message, nothing at the call's regular end, or the error that it ended with.
  absl::StatusOr<std::optional<grpc::ByteBuffer>> Read() ABSL_LOCKS_EXCLUDED(mutex_);

  // Ends the call with kCancelled.
  void Cancel() { context_.TryCancel(); }

 private:
  static constexpr size_t kMaxReadAhead = 4;
  static constexpr size_t kMaxQueuedBytes = size_t{64} << 10;  // each message counts 512 beside

  void OnWriteDone(bool ok) override;
  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

  bool WriteIsOver() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !writing_; }
  bool MayQueue() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !writing_ || queued_bytes_ < kMaxQueuedBytes;
  }
  bool ReadIsReady() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !received_.empty() || done_;
  }
  // Gives up the hold that lets threads of ours start operations, so that the call can end.
  void Release() ABSL_LOCKS_EXCLUDED(mutex_);

  grpc::ClientContext context_;
  grpc::GenericStub stub_;
  Mutex mutex_;
  grpc::ByteBuffer outgoing_;  // the message being written; untouched while writing_
  std::deque<grpc::ByteBuffer> queued_ ABSL_GUARDED_BY(mutex_);  // empty unless writing_
  size_t queued_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  grpc::ByteBuffer incoming_;  // the message being read; untouched while reading_
  std::deque<grpc::ByteBuffer> received_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;
  bool write_broken_ ABSL_GUARDED_BY(mutex_) = false;
  bool held_ ABSL_GUARDED_BY(mutex_) = true;  // operations may be started
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace quantd

#endif  // QUANTD_CLIENT_BYTE_STREAM_H_
