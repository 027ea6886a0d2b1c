#ifndef QUANTD_TESTS_SIM_SIM_CALL_H_
#define QUANTD_TESTS_SIM_SIM_CALL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/calls/call.h"
#include "server/service_context.h"
#include "tests/sim/dice.h"
#include "tests/sim/sim_client.h"
#include "tests/sim/sim_tensor.h"

namespace quantd::sim {

// What the peer of a call does beside what it should.
struct SimFaults {
  bool cancels = false;       // at some step
  bool damages = false;       // a chunk's checksum is wrong
  bool hangs_up = false;      // half-closes in a tensor
  bool falls_silent = false;  // neither sends nor takes anything more
  bool garbles = false;       // a frame is lost, repeated, cut short, or has another byte
  bool says_nothing = false;  // from the beginning
  bool any() const {
    return cancels || damages || hangs_up || falls_silent || garbles || says_nothing;
  }
};

// One call with its peer: the port of the server's machine, and who sends some tensors and checks
// what comes back. That is either a script, which interleaves them, or, where it is a stream and
// `by_client`, the client library.
class SimCall final : public CallPort {
 public:
  SimCall(Dice& dice, ServiceContext& context, Rpc rpc, std::string caller, SimFaults faults,
          std::vector<SimTensor> tensors, bool by_client);

  // Begins, unless the caller has too many streams, or the waiting room is full.
  void Begin();
  // Appends what can happen next.
  void AddActions(std::vector<std::function<void()>>& actions);
  // The connection breaks.
  void Break() { broken_ = true; }

  bool over() const { return over_ && (client_ == nullptr || client_->over()); }
  Rpc rpc() const { return rpc_; }
  const std::string& caller() const { return caller_; }
  const std::vector<SimTensor>& tensors() const { return tensors_; }
  // What the call ended with; nothing before its end.
  const std::optional<absl::Status>& status() const { return finished_; }
  // Says what is wrong with what came, and how it ended; empty: nothing. `may_fail`: the server had
  // a reason to break it off.
  std::string Fault(bool may_fail) const;

  void Read(grpc::ByteBuffer* frame) override;
  void Write(const grpc::ByteBuffer* frame, bool more_follows) override;
  void Finish(const absl::Status& status, const CallTrailers& trailers,
              const grpc::ByteBuffer* last) override;
  void Cancel() override { broken_ = true; }

 private:
  void MakeRequests();
  void JoinRequests();
  void Garble();
  void End();
  void EndAtPeer();
  void GiveFrame();
  void TakeFrame();
  void BreakOff();
  std::string Take(const grpc::ByteBuffer& frame);

  Dice& dice_;
  ServiceContext& context_;
  const Rpc rpc_;
  const std::string caller_;
  const SimFaults faults_;
  std::vector<SimTensor> tensors_;
  std::unique_ptr<SimClient> client_;  // null: it is a script
  std::vector<grpc::ByteBuffer> requests_;
  bool together_ = false;  // frames of it are
  size_t sent_ = 0;
  int64_t steps_to_fault_ = 0;
  std::shared_ptr<Call> call_;
  grpc::ByteBuffer* reading_ = nullptr;        // what the server waits for
  const grpc::ByteBuffer* writing_ = nullptr;  // what the peer has not taken
  const grpc::ByteBuffer* last_ = nullptr;     // that goes out with the end
  bool half_closed_ = false, broken_ = false, told_broken_ = false, silent_ = false, over_ = false;
  std::optional<absl::Status> finished_;
  std::string fault_;
};

}  // namespace quantd::sim

#endif  // QUANTD_TESTS_SIM_SIM_CALL_H_
