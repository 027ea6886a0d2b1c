#ifndef QUANTD_CLIENT_CLIENT_H_
#define QUANTD_CLIENT_CLIENT_H_

#include <grpcpp/channel.h>
#include <grpcpp/support/channel_arguments.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "client/connect.h"
#include "client/types.h"
#include "quantd/v1/quantization.pb.h"

namespace quantd {

class RegionPool;

// A connection to a quantization service. Calls block; several threads may make them at once.
// Errors have the server's code and text, or kUnavailable where there is no server, and kDataLoss
// where what came back is not what was asked for: another tensor, other sizes, a wrong checksum or
// digest. Thread-safe.
class Client {
 public:
  // Returns a client of the server at `target`: "host:port", "unix:PATH", or any gRPC target. Does
  // not connect yet. kInvalidArgument: no target.
  static absl::StatusOr<Client> Connect(const std::string& target);
  // Likewise, with TLS and a token; errors are those of MakeChannel.
  static absl::StatusOr<Client> Connect(const ConnectOptions& options);

  // Returns a client over `channel`, one with credentials of its own or, as `transport` then says,
  // one to a server in this process. It should have been made with ClientChannelArguments().
  explicit Client(std::shared_ptr<grpc::Channel> channel, Transport transport = Transport::kAuto)
      : channel_(std::move(channel)), transport_(transport) {}

  // Waits until there is a connection to the server, which calls do for a while too
  // (CallOptions::max_attempts). kDeadlineExceeded: there was none until `deadline`.
  absl::Status WaitForReady(absl::Time deadline) const;

  // Returns what the server would make of each tensor; asks for many at once.
  std::vector<absl::StatusOr<TensorPlan>> PlanMany(std::span<const TensorDesc> tensors,
                                                   const QuantSpec& spec,
                                                   const CallOptions& options = {}) const;
  absl::StatusOr<TensorPlan> Plan(const TensorDesc& tensor, const QuantSpec& spec,
                                  const CallOptions& options = {}) const;

  // Quantizes one tensor. Where it does not fit the server's budget, finds its ranges with
  // Calibrate first, which reads the source twice; kFailedPrecondition with the ways out where it
  // is a pipe.
  absl::StatusOr<QuantizedInfo> Quantize(QuantizeJob job, const CallOptions& options = {}) const;

  // Quantizes tensors, several at a time; an error of one does not stop the others. Results are in
  // the order of the jobs.
  std::vector<absl::StatusOr<QuantizedInfo>> QuantizeMany(std::vector<QuantizeJob> jobs,
                                                          const CallOptions& options = {}) const;

  // Turns packed tensors back into values, likewise.
  absl::StatusOr<DequantizedInfo> Dequantize(DequantizeJob job,
                                             const CallOptions& options = {}) const;
  std::vector<absl::StatusOr<DequantizedInfo>> DequantizeMany(
      std::vector<DequantizeJob> jobs, const CallOptions& options = {}) const;

  // Reads one tensor and returns its ranges and statistics.
  absl::StatusOr<CalibrationInfo> Calibrate(const TensorDesc& tensor, const QuantSpec& spec,
                                            ByteSource& source,
                                            const CalibrationOptions& calibration = {},
                                            const CallOptions& options = {}) const;

  // Returns all schemes that the server has.
  absl::StatusOr<std::vector<v1::SchemeDescription>> ListSchemes(
      const CallOptions& options = {}) const;

  absl::StatusOr<v1::GetServerInfoResponse> GetServerInfo(const CallOptions& options = {}) const;

  // OK if grpc.health.v1 says SERVING of `service` (empty: the whole server), else
  // kFailedPrecondition with what it says. Asks once: a server that is not there now is not well.
  absl::Status CheckHealth(absl::string_view service = "", const CallOptions& options = {}) const;

  // Returns what carries the tensors of streams; kAuto: nobody has told. Where shared memory is to
  // be used if there is some, asks the server, as each stream does.
  Transport transport() const;

  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }

 private:
  // Returns the options with what the transport makes of them.
  CallOptions OptionsFor(CallOptions options) const;

  std::shared_ptr<grpc::Channel> channel_;
  Transport transport_;
  std::shared_ptr<RegionPool> regions_;  // null: no shared memory
};

// Returns the channel arguments that a client wants: no retries by gRPC, which lose the beginning
// of a stream, large messages, and windows that fit frames.
grpc::ChannelArguments ClientChannelArguments();

}  // namespace quantd

#endif  // QUANTD_CLIENT_CLIENT_H_
