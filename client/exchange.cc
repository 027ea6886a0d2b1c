#include "client/exchange.h"

#include <algorithm>
#include <deque>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/byte_stream.h"
#include "core/base/mutex.h"
#include "core/base/status_macros.h"
#include "quantd/v1/quantization.pb.h"

namespace quantd {
namespace {

// The calls of one round that no stream has taken yet. Thread-safe.
class CallQueue {
 public:
  explicit CallQueue(std::span<TensorCall* const> calls) : calls_(calls.begin(), calls.end()) {}

  // Returns the next call, or null.
  TensorCall* Pop() {
    MutexLock lock(&mutex_);
    if (calls_.empty()) return nullptr;
    TensorCall* const call = calls_.front();
    calls_.pop_front();
    return call;
  }

 private:
  Mutex mutex_;
  std::deque<TensorCall*> calls_ ABSL_GUARDED_BY(mutex_);
};

// One stream and the calls on it. Calls are written one after the other, while the responses of
// those before still come in, over gRPC alone or with payload in a region of its own. Write and
// Read are called by one thread each.
class StreamRun {
 public:
  // `region` may be null.
  StreamRun(const Route& route, std::unique_ptr<StreamRegion> region, const std::string& method,
            const CallOptions& options, CallQueue* queue)
      : max_open_(static_cast<size_t>(std::max(1, options.tensors_in_flight))),
        frame_size_(options.chunk_bytes),
        queue_(queue),
        regions_(route.regions),
        region_(std::move(region)),
        stream_(route.channel, method, options.deadline, region_ ? kMemoryTokenKey : "",
                region_ ? region_->token() : "") {}

  // The region of a stream that ended well is of use to the next one.
  ~StreamRun() {
    if (region_ != nullptr && ended_well_) regions_->Release(std::move(region_));
  }

  // Writes calls until there are no more, or the stream breaks.
  void Write() {
    while (TensorCall* const call = NextCall()) {
      if (absl::Status prepared = call->Prepare(); !prepared.ok()) {
        call->Fail(prepared);
        continue;
      }
      const uint64_t tensor_id = Open(call);
      if (!WriteCall(tensor_id, *call).ok()) break;
    }
    stream_.WritesDone();
  }

  // Hands responses to their calls until the stream ends. All calls still open then fail.
  void Read() {
    const absl::Status status = ReadAll();
    MutexLock lock(&mutex_);
    broken_ = true;
    ended_well_ = status.ok();
    status_ = status.ok() ? absl::UnavailableError("the server ended the stream early") : status;
    for (const auto& [tensor_id, call] : open_) call->Fail(status_);
    open_.clear();
    if (region_ != nullptr) region_->Break();
  }

  // Returns what the stream ended with, after Read.
  absl::Status status() {
    MutexLock lock(&mutex_);
    return status_;
  }

 private:
  TensorCall* NextCall() {
    MutexLock lock(&mutex_, absl::Condition(this, &StreamRun::MayOpen));
    return broken_ ? nullptr : queue_->Pop();
  }

  bool MayOpen() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return broken_ || open_.size() < max_open_;
  }

  uint64_t Open(TensorCall* call) {
    MutexLock lock(&mutex_);
    const uint64_t tensor_id = ++last_id_;
    if (broken_) {
      call->Fail(status_);
    } else {
      open_[tensor_id] = call;
    }
    return tensor_id;
  }

  // Writes all frames of one call. A call that has failed is only closed: the server then gives up
  // what it holds of it. The error is that of the stream.
  absl::Status WriteCall(uint64_t tensor_id, TensorCall& call) {
    while (call.status().ok()) {
      absl::StatusOr<std::optional<grpc::ByteBuffer>> frame =
          call.NextRequest(tensor_id, frame_size_, region_.get());
      if (!frame.ok()) {
        call.Fail(frame.status());
        break;
      }
      if (!frame->has_value()) break;
      QUANTD_RETURN_IF_ERROR(stream_.Write(std::move(**frame)));
    }
    v1::StreamingQuantizeRequest end;  // equal to StreamingDequantizeRequest on the wire
    end.set_tensor_id(tensor_id);
    end.mutable_end();
    return stream_.Write(SerializeFrame(end));
  }

  absl::Status ReadAll() {
    while (true) {
      QUANTD_ASSIGN_OR_RETURN(std::optional<grpc::ByteBuffer> message, stream_.Read());
      if (!message.has_value()) return absl::OkStatus();
      absl::StatusOr<ParsedFrame> frame = ParseFrame(*message, kResponseFrame);
      message->Clear();
      absl::Status status =
          frame.ok() ? TakeResponse(*frame) : absl::DataLossError(frame.status().message());
      if (!status.ok()) {
        stream_.Cancel();
        return status;
      }
    }
  }

  // Does what there is to do for shared memory, and hands the frame on. Errors are those of the
  // stream as a whole.
  absl::Status TakeResponse(ParsedFrame& frame) {
    if (frame.kind == FrameKind::kReleased) {
      v1::Released released;
      if (region_ == nullptr || !released.ParseFromString(frame.message)) {
        return absl::DataLossError("the server sent a frame that cannot be read");
      }
      for (const int64_t offset : released.offsets()) {
        QUANTD_RETURN_IF_ERROR(region_->ReleaseInput(offset));
      }
      return absl::OkStatus();
    }
    if (!frame.shared.has_value()) return Dispatch(frame);
    if (region_ == nullptr) {
      return absl::DataLossError("the server put data into shared memory, where there is none");
    }
    QUANTD_ASSIGN_OR_RETURN(const std::span<const std::byte> bytes, region_->Output(*frame.shared));
    frame.data = {bytes};
    frame.data_bytes = bytes.size();
    const absl::Status status = Dispatch(frame);
    region_->ReleaseOutput(*frame.shared);
    return status;
  }

  absl::Status Dispatch(const ParsedFrame& frame) {
    TensorCall* call = nullptr;
    {
      MutexLock lock(&mutex_);
      const auto found = open_.find(frame.tensor_id);
      if (found != open_.end()) call = found->second;
    }
    if (call == nullptr) {
      return absl::DataLossError(absl::StrCat("the server answered for tensor id ", frame.tensor_id,
                                              ", which is not open"));
    }
    if (TakeFrame(frame, *call)) {
      MutexLock lock(&mutex_);
      open_.erase(frame.tensor_id);
    }
    return absl::OkStatus();
  }

  // Returns true if the call is over on this stream.
  static bool TakeFrame(const ParsedFrame& frame, TensorCall& call) {
    if (frame.kind == FrameKind::kError) {
      v1::TensorError error;
      const bool parsed = error.ParseFromString(frame.message) && error.code() != 0;
      call.Fail(parsed ? absl::Status(static_cast<absl::StatusCode>(error.code()), error.message())
                       : absl::DataLossError("the server sent an error that cannot be read"));
      return true;
    }
    // What still comes of a call that failed on our side has no use.
    if (!call.status().ok()) return frame.kind == FrameKind::kEnd;
    const absl::StatusOr<bool> complete = call.TakeResponse(frame);
    if (!complete.ok()) call.Fail(complete.status());
    return frame.kind == FrameKind::kEnd;
  }

  const size_t max_open_;
  FrameSize frame_size_;
  CallQueue* const queue_;
  RegionPool* const regions_;
  std::unique_ptr<StreamRegion> region_;  // null: none
  ByteStream stream_;
  Mutex mutex_;
  absl::flat_hash_map<uint64_t, TensorCall*> open_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_id_ ABSL_GUARDED_BY(mutex_) = 0;
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_well_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

// Returns memory for one stream; null: it goes without. The error is that of the stream.
absl::StatusOr<std::unique_ptr<StreamRegion>> RegionFor(const Route& route) {
  if (route.regions == nullptr) return nullptr;
  absl::StatusOr<std::unique_ptr<StreamRegion>> region = route.regions->Acquire();
  if (region.ok() || route.transport == Transport::kSharedMemory) return region;
  return nullptr;
}

// Runs all calls once.
void RunOnce(const Route& route, const std::string& method, std::span<TensorCall* const> calls,
             const CallOptions& options) {
  CallQueue queue(calls);
  const size_t num_streams =
      std::min(calls.size(), static_cast<size_t>(std::max(1, options.streams)));
  std::deque<StreamRun> runs;
  std::vector<std::thread> threads;
  absl::Status failure;
  for (size_t i = 0; i < num_streams; ++i) {
    absl::StatusOr<std::unique_ptr<StreamRegion>> region = RegionFor(route);
    if (!region.ok()) {
      failure = region.status();
      break;  // those that are there do it all
    }
    StreamRun* const run = &runs.emplace_back(route, *std::move(region), method, options, &queue);
    threads.emplace_back([run] { run->Read(); });
    if (i > 0) threads.emplace_back([run] { run->Write(); });
  }
  if (!runs.empty()) runs.front().Write();
  for (std::thread& thread : threads) thread.join();
  if (!runs.empty()) failure = runs.front().status();
  // Streams that broke leave calls that none has taken.
  while (TensorCall* const call = queue.Pop()) call->Fail(failure);
}

}  // namespace

void RunCalls(const Route& route, const std::string& method, std::span<TensorCall* const> calls,
              const CallOptions& options) {
  std::vector<TensorCall*> pending(calls.begin(), calls.end());
  absl::Duration backoff = options.first_backoff;
  for (int attempt = 1; !pending.empty(); ++attempt, backoff *= 2) {
    RunOnce(route, method, pending, options);
    if (attempt >= options.max_attempts || absl::Now() + backoff >= options.deadline) return;
    std::erase_if(pending, [](TensorCall* call) {
      if (!absl::IsUnavailable(call->status())) return true;
      if (!call->Restart().ok()) return true;
      call->ClearFailure();
      return false;
    });
    if (!pending.empty()) absl::SleepFor(backoff);
  }
}

}  // namespace quantd
