#ifndef QUANTD_CLIENT_TENSOR_CALL_H_
#define QUANTD_CLIENT_TENSOR_CALL_H_

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/frame_size.h"
#include "client/stream_region.h"
#include "client/types.h"
#include "core/base/digest.h"
#include "core/base/mutex.h"
#include "proto/convert.h"
#include "proto/frame_codec.h"
#include "quantd/v1/quantization.pb.h"

namespace quantd {

// The largest message that channels of ours receive and send.
inline constexpr int kMaxMessageBytes = 64 << 20;

// A method whose calls are streams, and how its frames look.
struct StreamMethod {
  const char* path;
  FrameFields request;
  std::optional<FrameFields> response;  // none: one message, as a whole, answers the only tensor
};
inline constexpr StreamMethod kQuantizeStream{
    "/quantd.v1.QuantizationService/StreamingQuantize", kRequestFrame, kResponseFrame};
inline constexpr StreamMethod kDequantizeStream{
    "/quantd.v1.QuantizationService/StreamingDequantize", kRequestFrame, kResponseFrame};
inline constexpr StreamMethod kCalibrateStream{"/quantd.v1.QuantizationService/Calibrate",
                                               kCalibrateFrame, std::nullopt};

// Counts the slices that gRPC still holds of memory that is the caller's. Thread-safe.
class SliceLease {
 public:
  // Waits for all slices.
  ~SliceLease();
  // Returns the piece as a slice, without copying it.
  grpc::Slice Wrap(SourcePiece piece) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Held;
  Mutex mutex_;
  int64_t outstanding_ ABSL_GUARDED_BY(mutex_) = 0;
};

// What a stream has for its next request.
struct RequestRoom {
  FrameSize& frame_size;  // of chunks that go as bytes
  absl::Time now;
  const StreamRegion* region = nullptr;  // null: no shared memory
  std::span<std::byte> slot;             // of `region`; who fills it leaves it empty here
};

// One tensor on a stream, on the client's side. All kinds send `start`, the chunks of their sources
// and `end`, and get back `start`, the chunks of planes and `end`, or an error instead. What
// differs are the messages of start and end, which the kinds below fill in and check.
//
// One thread asks it for requests while another hands it responses. What has come of it is known
// under the lock of the exchange that has it, and to all when none has.
class TensorCall {
 public:
  // `inputs` are in the order of sending; no sink: no planes come back.
  TensorCall(const StreamMethod& method, std::span<const PlaneInput> inputs, PlaneSink* sink,
             const CallOptions& options);
  virtual ~TensorCall() = default;

  // What is to be done before `start` is sent; may take long.
  virtual absl::Status Prepare() { return absl::OkStatus(); }
  // Makes `start`, then chunks; false: there are no more.
  absl::StatusOr<bool> NextRequest(uint64_t tensor_id, RequestRoom& room, grpc::ByteBuffer& frame);
  bool start_sent() const { return start_sent_; }
  int64_t input_bytes() const;
  // True if the next chunk goes best by a slot of shared memory.
  bool WantsSlot() const;

  // Takes a response that is no error. Of chunks it checks order, size and checksum, digests them
  // and hands them to the sink. kDataLoss: it cannot be what was asked for; else the sink's errors.
  absl::Status TakeResponse(const ParsedFrame& frame);

  // Makes ready for another attempt, and forgets the failure.
  virtual absl::Status Restart();

  // Notes that all is well, or the first error.
  void Finish(const absl::Status& status);
  bool failed() const { return outcome_.has_value() && !outcome_->ok(); }
  // kInternal: nothing has come of it yet.
  absl::Status status() const;

 protected:
  virtual grpc::ByteBuffer StartRequest(uint64_t tensor_id, const StreamRegion* region) const = 0;
  // Checks what the server makes of `start`, and returns the planes that come back.
  virtual absl::StatusOr<std::vector<PlaneDesc>> TakeStart(const ParsedFrame& frame);
  // Checks, by EndPlanes if there are some, and keeps what `end` says.
  virtual absl::Status TakeEnd(const ParsedFrame& frame) = 0;

  // Fills in what all kinds of `start` that ask for planes have.
  template <typename Start>
  void FillStart(const TensorDesc& tensor, const QuantSpec& spec, const StreamRegion* region,
                 Start& start) const {
    *start.mutable_tensor() = ToProto(tensor);
    *start.mutable_spec() = ToProto(spec);
    start.set_omit_crc(!options_.checksums);
    const bool is_free = region != nullptr && options_.chunk_bytes <= 0;  // to be as large as slots
    start.set_max_chunk_bytes(is_free ? region->slot_bytes() : options_.chunk_bytes);
    start.set_max_message_bytes(kMaxMessageBytes);
    if (region != nullptr) *start.mutable_output_slots() = region->output_slots();
  }
  absl::Status RewindSources();
  // Checks that all planes are complete and that each has the digest that `expected(name)` gives.
  absl::Status EndPlanes(absl::FunctionRef<std::string(const std::string&)> expected);
  const CallOptions& options() const { return options_; }
  // True if something of the sources has been read to be sent.
  bool has_read() const { return has_read_; }

 private:
  // How far a source has been sent.
  struct Sender {
    PlaneInput input;
    int64_t sent_bytes = 0;
    int64_t left_bytes() const { return input.source->size_bytes() - sent_bytes; }
  };
  // How far a plane has come.
  struct Arrival {
    int64_t received_bytes = 0;
    PlaneDigest digest;
  };

  // Adds to what is sent of a source, and tells whoever wants to know.
  void CountSent(Sender& sender, int64_t bytes);
  absl::StatusOr<bool> NextChunk(uint64_t tensor_id, Sender& sender, RequestRoom& room,
                                 grpc::ByteBuffer& frame);
  absl::Status BeginPlanes(std::vector<PlaneDesc> planes);
  absl::Status TakeChunk(const ParsedFrame& frame);

  const StreamMethod& method_;
  const CallOptions options_;
  SliceLease lease_;
  std::vector<Sender> senders_;
  size_t sending_ = 0;
  bool start_sent_ = false, has_read_ = false;
  PlaneSink* const sink_;
  std::vector<PlaneDesc> planes_;
  std::vector<Arrival> arrivals_;  // of planes_
  bool begun_ = false;
  std::optional<absl::Status> outcome_;  // none: it is on the way
};

// Finds the ranges of a job's tensor; leaves the source read.
using FindRanges = std::function<absl::StatusOr<CalibratedRanges>(const QuantizeJob&)>;

// The kinds of calls; `info`, which outlives the call, is complete when the call has ended well.
// `job.plan` is there, and `find_ranges` is called for a two-pass plan without ranges.
std::unique_ptr<TensorCall> MakeQuantizeCall(QuantizeJob job, const CallOptions& options,
                                             FindRanges find_ranges, QuantizedInfo& info);
// There is a plane.
std::unique_ptr<TensorCall> MakeDequantizeCall(DequantizeJob job, const CallOptions& options,
                                               DequantizedInfo& info);
std::unique_ptr<TensorCall> MakeCalibrateCall(const TensorDesc& tensor, const QuantSpec& spec,
                                              ByteSource& source,
                                              const CalibrationOptions& calibration,
                                              const CallOptions& options, CalibrationInfo& info);

// Returns the server's plan for `tensor`; kDataLoss if it cannot be one: no planes, two of one
// name, sizes that do not follow from the shapes or do not add up.
absl::StatusOr<TensorPlan> ReadPlan(const v1::QuantizationPlan& plan, const TensorDesc& tensor);

}  // namespace quantd

#endif  // QUANTD_CLIENT_TENSOR_CALL_H_
