#ifndef QUANTD_TESTS_BENCH_ECHO_SERVICE_H_
#define QUANTD_TESTS_BENCH_ECHO_SERVICE_H_

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

// The least that a gRPC server can do with the same bytes: what a service is measured beside.
namespace quantd::bench {

// Methods of the echo, which answer with this part of each message.
inline constexpr char kEchoQuarter[] = "/quantd.bench.Echo/Quarter";
inline constexpr char kEchoHalf[] = "/quantd.bench.Echo/Half";
inline constexpr char kEchoAll[] = "/quantd.bench.Echo/All";

// Returns the first part of a message without copying it.
inline grpc::ByteBuffer FirstOf(const grpc::ByteBuffer& message, size_t divisor) {
  std::vector<grpc::Slice> slices;
  (void)message.Dump(&slices);
  size_t left = message.Length() / divisor;
  std::vector<grpc::Slice> kept;
  for (const grpc::Slice& slice : slices) {
    const size_t take = std::min(left, slice.size());
    if (take == 0) break;
    kept.push_back(take == slice.size() ? slice : slice.sub(0, take));
    left -= take;
  }
  return grpc::ByteBuffer(kept.data(), kept.size());
}

// Reads the next message while the answer to the one before is written.
class EchoReactor final : public grpc::ServerGenericBidiReactor {
 public:
  explicit EchoReactor(size_t divisor) : divisor_(divisor) { StartRead(&incoming_); }
  void OnReadDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    read_done_ = true;
    ended_ = !ok;
    Advance();
  }
  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    ended_ = ended_ || !ok;
    Advance();
  }
  void OnDone() override { delete this; }

 private:
  void Advance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (writing_ || !read_done_) return;
    if (ended_) return Finish(grpc::Status::OK);
    outgoing_ = FirstOf(incoming_, divisor_);
    read_done_ = false;
    writing_ = true;
    StartWrite(&outgoing_);
    StartRead(&incoming_);
  }
  const size_t divisor_;
  absl::Mutex mutex_;
  grpc::ByteBuffer incoming_, outgoing_;
  bool read_done_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
};

class EchoService final : public grpc::CallbackGenericService {
  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override {
    return new EchoReactor(context->method() == kEchoQuarter ? 4
                           : context->method() == kEchoHalf  ? 2
                                                             : 1);
  }
};

}  // namespace quantd::bench

#endif  // QUANTD_TESTS_BENCH_ECHO_SERVICE_H_
