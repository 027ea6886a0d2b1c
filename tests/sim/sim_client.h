#ifndef QUANTD_TESTS_SIM_SIM_CLIENT_H_
#define QUANTD_TESTS_SIM_SIM_CLIENT_H_

#include <grpcpp/support/byte_buffer.h>

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/exchange.h"
#include "client/tensor_call.h"
#include "tests/sim/dice.h"
#include "tests/sim/sim_tensor.h"

namespace quantd::sim {

// What goes wrong at a client beside its stream.
struct ClientFaults {
  bool source = false;   // ends with an error
  bool sink = false;     // takes nothing
  bool garbles = false;  // a response has another byte
};

// The peer of a call as the client library is it: its machine, and a wire on which a few messages
// are on the way. Jobs of the machine and what happens on the wire are actions.
class SimClient final : public StreamPort {
 public:
  SimClient(Dice& dice, Rpc rpc, ClientFaults faults, std::vector<SimTensor>& tensors);
  ~SimClient() override;

  void Begin() { exchange_->Run(); }
  // Appends what can happen next.
  void AddActions(std::vector<std::function<void()>>& actions);

  // The server's end of the wire: a request, or what follows the last one.
  bool has_request() const { return !to_server_.empty() || half_closed_; }
  // Returns the next request, or nothing where there are no more.
  std::optional<grpc::ByteBuffer> NextRequest();
  bool has_room() const { return to_client_.size() < kOnTheWay; }
  void Respond(const grpc::ByteBuffer& response);
  // The stream is over; `broken`: what is on the way may be lost.
  void End(const absl::Status& status, bool broken);

  bool cancelled() const { return cancelled_; }
  bool over() const { return wrote_all_ && read_all_; }
  // Says what is wrong with what came; empty: nothing. `may_fail`: there was a reason to.
  std::string Fault(bool may_fail) const;

  void Read(grpc::ByteBuffer* message) override;
  void Write(const grpc::ByteBuffer* message) override;
  void WritesDone() override;
  void Cancel() override { cancelled_ = true; }

 private:
  static constexpr size_t kOnTheWay = 2;
  struct Tensor;

  void MakeCall(Tensor& tensor, const CallOptions& options);
  void WriteStep();
  void ReadStep();
  void Deliver();
  void NextOfEnd();
  void JudgeTensors();
  void Stir() { write_due_ = read_due_ = true; }

  Dice& dice_;
  const Rpc rpc_;
  const ClientFaults faults_;
  std::deque<Tensor> tensors_;
  std::unique_ptr<CallQueue> queue_;
  std::unique_ptr<quantd::Exchange> exchange_;
  std::deque<grpc::ByteBuffer> to_server_, to_client_;
  grpc::ByteBuffer* reading_ = nullptr;
  const grpc::ByteBuffer* writing_ = nullptr;
  std::optional<absl::Status> ended_;
  bool write_due_ = true, read_due_ = true;  // a step of that kind may do something
  bool wrote_all_ = false, read_all_ = false;
  bool half_closed_ = false, cancelled_ = false, told_read_ = false, told_end_ = false;
  std::string fault_;
};

}  // namespace quantd::sim

#endif  // QUANTD_TESTS_SIM_SIM_CLIENT_H_
