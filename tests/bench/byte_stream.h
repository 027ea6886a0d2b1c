#ifndef QUANTD_TESTS_BENCH_BYTE_STREAM_H_
#define QUANTD_TESTS_BENCH_BYTE_STREAM_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>

#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "core/base/mutex.h"

namespace quantd::bench {

// A bidirectional call with blocking ends and nothing in it: what the client's streams are compared
// with, and as they do, it reads a few messages ahead. One thread writes while another reads to the
// end. Thread-safe.
class ByteStream final : private grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  ByteStream(const std::shared_ptr<grpc::Channel>& channel, const std::string& method)
      : stub_(channel) {
    MutexLock lock(&mutex_);
    stub_.PrepareBidiStreamingCall(&context_, method, {}, this);
    AddHold();
    reading_ = true;
    StartRead(&incoming_);
    StartCall();
  }
  ~ByteStream() override { MutexLock lock(&mutex_, absl::Condition(&done_)); }

  // Sends `message` when the one before has gone out; false: the call is over.
  bool Write(grpc::ByteBuffer message) {
    MutexLock lock(&mutex_, absl::Condition(this, &ByteStream::WriteIsOver));
    if (broken_) return false;
    outgoing_.Swap(&message);
    writing_ = true;
    StartWrite(&outgoing_);
    return true;
  }

  // Says that nothing more will be written, when the last message has gone out.
  void WritesDone() {
    MutexLock lock(&mutex_, absl::Condition(this, &ByteStream::WriteIsOver));
    if (!broken_) StartWritesDone();
  }

  // Returns the next message, or nothing at the end.
  std::optional<grpc::ByteBuffer> Read() {
    MutexLock lock(&mutex_, absl::Condition(this, &ByteStream::ReadIsReady));
    if (received_.empty()) return std::nullopt;
    std::optional<grpc::ByteBuffer> message(std::in_place);
    message->Swap(&received_.front());
    received_.pop_front();
    if (!reading_ && !broken_) {
      reading_ = true;
      StartRead(&incoming_);
    }
    return message;
  }

 private:
  static constexpr size_t kMaxReadAhead = 4;

  bool WriteIsOver() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !writing_; }
  bool ReadIsReady() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !received_.empty() || done_;
  }

  void OnWriteDone(bool ok) override {
    MutexLock lock(&mutex_);
    writing_ = false;
    outgoing_.Clear();
    if (!ok) broken_ = true;
  }
  void OnReadDone(bool ok) override {
    {
      MutexLock lock(&mutex_);
      reading_ = false;
      if (ok) {
        received_.emplace_back();
        received_.back().Swap(&incoming_);
        if (received_.size() < kMaxReadAhead && !broken_) {
          reading_ = true;
          StartRead(&incoming_);
        }
        return;
      }
      broken_ = true;
    }
    RemoveHold();  // may call OnDone
  }
  void OnDone(const grpc::Status&) override {
    MutexLock lock(&mutex_);
    done_ = true;
  }

  grpc::ClientContext context_;
  grpc::GenericStub stub_;
  Mutex mutex_;
  grpc::ByteBuffer outgoing_;  // the message being written; untouched while writing_
  grpc::ByteBuffer incoming_;  // the message being read; untouched while reading_
  std::deque<grpc::ByteBuffer> received_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;  // no operation may be started
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace quantd::bench

#endif  // QUANTD_TESTS_BENCH_BYTE_STREAM_H_
