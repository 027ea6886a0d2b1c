// A stream's way from its machine to gRPC: actions become operations, gRPC's reactions events, and
// the jobs, which block, have a thread each, or both ends would wait for each other.
//
// Entry: RunCalls. Tested by all of tests/client.
#include "client/run_calls.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/client_callback.h>

#include <algorithm>
#include <deque>
#include <optional>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "client/exchange.h"
#include "client/retry.h"
#include "core/base/hand_over.h"

namespace quantd {
namespace {

// A reactor of gRPC's as the port of a stream. Write and Read are called by one thread each.
class GrpcStream final : public StreamPort,
                         private grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  // `region` may be null.
  GrpcStream(const Route& route, std::unique_ptr<StreamRegion> region, const StreamMethod& method,
             const CallOptions& options, CallQueue& queue)
      : stub_(route.channel) {
    SetDeadline(options.deadline, context_);
    if (region != nullptr) context_.AddMetadata(kMemoryTokenKey, region->token());
    exchange_.emplace(method, *this, queue, std::move(region), options);
    stub_.PrepareBidiStreamingCall(&context_, method.path, {}, this);
    AddHold();  // lets threads of ours start operations
    exchange_->Run();
    HandOver(this);
    StartCall();
    cancelling_.emplace(options.cancellation, [this] { context_.TryCancel(); });
  }

  // Writes calls until there are no more, or the stream breaks.
  void Write() {
    for (auto step = Exchange::Step::kMore; step != Exchange::Step::kOver;) {
      step = exchange_->WriteStep(absl::Now());
      if (step == Exchange::Step::kWait) exchange_->AwaitWrite();
    }
  }

  // Takes responses until the stream is over, after which this may be destroyed.
  void Read() {
    for (auto step = Exchange::Step::kMore; step != Exchange::Step::kOver;) {
      step = exchange_->ReadStep();
      if (step == Exchange::Step::kWait) exchange_->AwaitRead();
    }
  }

  Exchange& exchange() { return *exchange_; }

 private:
  void Read(grpc::ByteBuffer* message) override { StartRead(message); }
  void Write(const grpc::ByteBuffer* message) override { StartWrite(message); }
  void WritesDone() override { StartWritesDone(); }
  void Cancel() override { context_.TryCancel(); }

  void OnReadDone(bool ok) override {
    TakeOver(this);
    exchange_->OnRead(ok);
    if (!ok) RemoveHold();  // no action comes any more; may call OnDone
  }
  void OnWriteDone(bool ok) override {
    TakeOver(this);
    exchange_->OnWritten(ok);
  }
  void OnDone(const grpc::Status& status) override {
    TakeOver(this);
    exchange_->OnEnded(StatusOf(status, context_));
  }

  grpc::ClientContext context_;
  grpc::GenericStub stub_;
  std::optional<Exchange> exchange_;
  std::optional<Cancellation::Scope> cancelling_;
};

// Returns memory for one stream; null: it goes without. The error is that of the stream.
absl::StatusOr<std::unique_ptr<StreamRegion>> RegionFor(const Route& route) {
  if (route.regions == nullptr) return nullptr;
  absl::StatusOr<std::unique_ptr<StreamRegion>> region = route.regions->Acquire();
  if (region.ok() || route.transport == Transport::kSharedMemory) return region;
  return nullptr;
}

// Runs all calls once.
void RunOnce(const Route& route, const StreamMethod& method, std::span<TensorCall* const> calls,
             const CallOptions& options) {
  CallQueue queue(calls);
  const size_t num_streams =
      std::min(calls.size(), static_cast<size_t>(std::max(1, options.streams)));
  std::deque<GrpcStream> streams;
  std::vector<std::thread> threads;
  absl::Status failure;
  for (size_t i = 0; i < num_streams; ++i) {
    absl::StatusOr<std::unique_ptr<StreamRegion>> region = RegionFor(route);
    if (!region.ok()) {
      failure = region.status();
      break;  // those that are there do it all
    }
    GrpcStream* const stream =
        &streams.emplace_back(route, *std::move(region), method, options, queue);
    threads.emplace_back([stream] { stream->Read(); });
    if (i > 0) threads.emplace_back([stream] { stream->Write(); });
  }
  if (!streams.empty()) streams.front().Write();
  for (std::thread& thread : threads) thread.join();
  if (!streams.empty()) failure = streams.front().exchange().Failure();
  // Streams that broke leave calls that none has taken.
  while (TensorCall* const call = queue.Pop()) call->Finish(failure);
  for (GrpcStream& stream : streams) {
    // The region of a stream that ended well is of use to the next one.
    std::unique_ptr<StreamRegion> region = stream.exchange().TakeRegion();
    if (region != nullptr) route.regions->Release(std::move(region));
  }
}

}  // namespace

void RunCalls(const Route& route, const StreamMethod& method, std::span<TensorCall* const> calls,
              const CallOptions& options) {
  std::vector<TensorCall*> pending(calls.begin(), calls.end());
  RetrySchedule schedule(options, std::random_device()());
  while (!pending.empty()) {
    RunOnce(route, method, pending, options);
    std::vector<absl::Status> errors;
    for (TensorCall* const call : pending) errors.push_back(call->status());
    const std::optional<absl::Duration> pause = schedule.Next(errors, absl::Now());
    if (!pause.has_value()) return;
    std::erase_if(pending, [](TensorCall* call) {
      return !RetrySchedule::IsWorthIt(call->status()) || !call->Restart().ok();
    });
    if (!pending.empty()) Pause(*pause, options);
  }
}

}  // namespace quantd
