#include "client/byte_stream.h"

#include <utility>

namespace quantd {
namespace {

// What a message takes beside its bytes.
constexpr size_t kOverheadBytes = 512;

}  // namespace

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

void SetDeadline(absl::Time deadline, grpc::ClientContext& context) {
  if (deadline != absl::InfiniteFuture()) context.set_deadline(absl::ToChronoTime(deadline));
}

ByteStream::ByteStream(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                       absl::Time deadline, const std::string& key, const std::string& value)
    : stub_(channel) {
  SetDeadline(deadline, context_);
  if (!key.empty()) context_.AddMetadata(key, value);
  MutexLock lock(&mutex_);
  stub_.PrepareBidiStreamingCall(&context_, method, {}, this);
  AddHold();
  reading_ = true;
  StartRead(&incoming_);
  StartCall();
}

ByteStream::~ByteStream() {
  Cancel();
  Release();
  MutexLock lock(&mutex_, absl::Condition(&done_));
}

absl::Status ByteStream::Write(grpc::ByteBuffer message) {
  const size_t message_bytes = message.Length() + kOverheadBytes;
  const bool is_small = message_bytes < kMaxQueuedBytes;
  MutexLock lock(&mutex_, absl::Condition(this, is_small ? &ByteStream::MayQueue
                                                         : &ByteStream::WriteIsOver));
  if (write_broken_ || !held_) return absl::AbortedError("the call is over");
  if (writing_) {
    queued_bytes_ += message_bytes;
    queued_.emplace_back().Swap(&message);
    return absl::OkStatus();
  }
  outgoing_.Swap(&message);
  writing_ = true;
  StartWrite(&outgoing_);
  return absl::OkStatus();
}

void ByteStream::WritesDone() {
  MutexLock lock(&mutex_, absl::Condition(this, &ByteStream::WriteIsOver));
  if (!write_broken_ && held_) StartWritesDone();
}

absl::StatusOr<std::optional<grpc::ByteBuffer>> ByteStream::Read() {
  MutexLock lock(&mutex_, absl::Condition(this, &ByteStream::ReadIsReady));
  if (received_.empty()) {
    if (!status_.ok()) return status_;
    return std::nullopt;
  }
  std::optional<grpc::ByteBuffer> message(std::in_place);
  message->Swap(&received_.front());
  received_.pop_front();
  if (!reading_ && held_) {
    reading_ = true;
    StartRead(&incoming_);
  }
  return message;
}

void ByteStream::Release() {
  {
    MutexLock lock(&mutex_);
    if (!held_) return;
    held_ = false;
  }
  RemoveHold();  // may call OnDone
}

void ByteStream::OnWriteDone(bool ok) {
  MutexLock lock(&mutex_);
  writing_ = false;
  // Frees what the message refers to; a caller may wait for that.
  outgoing_.Clear();
  if (!ok) write_broken_ = true;
  if (write_broken_ || !held_) {
    queued_.clear();
    queued_bytes_ = 0;
  }
  if (queued_.empty()) return;
  outgoing_.Swap(&queued_.front());
  queued_.pop_front();
  queued_bytes_ -= outgoing_.Length() + kOverheadBytes;
  writing_ = true;
  StartWrite(&outgoing_);
}

void ByteStream::OnReadDone(bool ok) {
  {
    MutexLock lock(&mutex_);
    reading_ = false;
    if (ok) {
      received_.emplace_back();
      received_.back().Swap(&incoming_);
      if (received_.size() < kMaxReadAhead && held_) {
        reading_ = true;
        StartRead(&incoming_);
      }
      return;
    }
  }
  // The peer has said all: nothing that is still to be written would be answered.
  Release();
}

void ByteStream::OnDone(const grpc::Status& status) {
  MutexLock lock(&mutex_);
  status_ = FromGrpc(status);
  done_ = true;
}

}  // namespace quantd
