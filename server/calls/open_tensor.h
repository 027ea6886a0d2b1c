#ifndef QUANTD_SERVER_CALLS_OPEN_TENSOR_H_
#define QUANTD_SERVER_CALLS_OPEN_TENSOR_H_

#include <grpcpp/support/byte_buffer.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/exec/piece.h"
#include "core/session/planner.h"
#include "core/session/stripe_session.h"
#include "server/calls/received_chunk.h"
#include "server/observe/metrics.h"

namespace quantd {

// One plane as it comes in.
struct IncomingPlane {
  std::string name;
  int64_t size_bytes = 0;
  int64_t received_bytes = 0;
};

// Returns the planes of the packed form as they come in.
std::vector<IncomingPlane> IncomingPlanes(const Plan& plan);

// Returns the place of the plane called `name`; kNotFound lists those that there are.
absl::StatusOr<int> FindPlane(const std::vector<IncomingPlane>& planes, absl::string_view name);

// One tensor that is under way on a call: its planes come in, in order, and go to its session. An
// error is the tensor's alone. Not thread-safe.
class OpenTensor {
 public:
  virtual ~OpenTensor() = default;
  // Takes a chunk, which is of the only plane if it names none. kNotFound: of no plane that there
  // is. kInvalidArgument: out of order, or twice. kOutOfRange: past the plane's end. What is wrong
  // with the values is said by the session.
  absl::Status Accept(ReceivedChunk chunk);
  virtual StripeSession& session() = 0;
  // Returns the last frame of the tensor; the session has ended.
  virtual absl::StatusOr<grpc::ByteBuffer> Finish() = 0;
  // Returns what is known of it so far, but for the result.
  virtual TensorOutcome outcome();

 protected:
  OpenTensor(const Plan& plan, std::vector<IncomingPlane> planes);
  // Hands bytes of a plane, which has been checked, to the session.
  virtual void Push(int plane, Piece piece) = 0;
  // Likewise, of a tensor whose planes were checked as a whole.
  void PushWhole(int plane, const std::string& bytes);
  std::chrono::nanoseconds elapsed() const { return std::chrono::steady_clock::now() - start_; }

  TensorOutcome ended_;  // what the end has shown

 private:
  std::vector<IncomingPlane> planes_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace quantd

#endif  // QUANTD_SERVER_CALLS_OPEN_TENSOR_H_
