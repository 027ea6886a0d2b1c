#ifndef QUANTD_TESTS_SIM_WORLD_H_
#define QUANTD_TESTS_SIM_WORLD_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "core/exec/executor.h"
#include "core/session/quantize_session.h"
#include "proto/frame_codec.h"
#include "server/admit/admission.h"
#include "server/calls/call.h"
#include "server/service_context.h"

// The server's calls without gRPC, threads and clock: everything that can happen next is an action,
// and a seed chooses which one does. The same seed does the same again.
namespace quantd::sim {

// Of a seed: which action goes first, how things are cut, what goes wrong.
class Dice {
 public:
  explicit Dice(uint64_t seed) : rng_(seed) {}
  // From 0 to n - 1.
  int64_t Below(int64_t n) { return static_cast<int64_t>(rng_() % static_cast<uint64_t>(n)); }
  bool OneIn(int64_t n) { return Below(n) == 0; }

 private:
  std::mt19937_64 rng_;
};

// Keeps what is submitted, and runs one of it at a time, in any order.
class SimExecutor final : public Executor {
 public:
  explicit SimExecutor(Dice& dice) : Executor(0), dice_(dice) {}
  int workers() const override { return 2; }
  void Submit(std::function<void()> task) override { tasks_.push_back(std::move(task)); }
  bool empty() const { return tasks_.empty(); }
  void RunOne();

 private:
  Dice& dice_;
  std::vector<std::function<void()>> tasks_;
};

// What a call of the peer's is about.
struct SimTensor {
  uint64_t id = 0;
  TensorDesc tensor;
  std::string spec;
  std::vector<std::byte> values;
  std::string digest;            // of its codes, made by one session at once
  std::vector<std::byte> codes;  // likewise
  // What has come.
  std::vector<std::byte> received;
  bool started = false, done = false, failed = false;
};

struct SimFaults {
  bool cancels = false;     // the peer cancels at some step
  bool damages = false;     // a chunk's checksum is wrong
  bool hangs_up = false;    // the peer half-closes in a tensor
  bool falls_silent = false;  // the peer neither sends nor takes anything more
  bool any() const { return cancels || damages || hangs_up || falls_silent; }
};

// What came of a seed.
struct Outcome {
  std::string fault;     // what went wrong; empty: nothing
  int64_t done = 0;      // tensors that came back whole
  int64_t failed = 0;    // that were told an error
  int64_t waited = 0;    // times somebody waited for memory
  int64_t broken = 0;    // calls that did not end with OK
};

// One call with its peer: the port of the server's machine, and a client that sends some tensors,
// interleaved, and checks what comes back.
class SimCall final : public CallPort {
 public:
  SimCall(Dice& dice, ServiceContext& context, const std::string& caller, SimFaults faults,
          std::vector<SimTensor> tensors);

  // Begins, unless the caller has too many streams, or the waiting room is full.
  void Begin(const MakeHandler& make_handler);
  // Appends what can happen next.
  void AddActions(std::vector<std::function<void()>>& actions);
  bool over() const { return over_; }
  bool silent() const { return silent_; }
  // Says what is wrong with how it ended; empty: nothing.
  std::string Fault() const;
  void AddTo(Outcome& outcome) const;

  void Read(grpc::ByteBuffer* frame) override;
  void Write(const grpc::ByteBuffer* frame, bool more_follows) override;
  void Finish(const absl::Status& status, const CallTrailers& trailers) override;
  void Cancel() override;

 private:
  void MakeRequests();
  void GiveFrame();
  void TakeFrame();
  void BreakOff();
  void Take(const grpc::ByteBuffer& frame);

  Dice& dice_;
  ServiceContext& context_;
  const std::string caller_;
  const SimFaults faults_;
  std::vector<SimTensor> tensors_;
  std::vector<grpc::ByteBuffer> requests_;
  size_t sent_ = 0;
  int64_t steps_to_fault_ = 0;
  std::shared_ptr<Call> call_;
  grpc::ByteBuffer* reading_ = nullptr;           // what the server waits for
  const grpc::ByteBuffer* writing_ = nullptr;     // what the peer has not taken
  bool half_closed_ = false, broken_ = false, told_broken_ = false, silent_ = false, over_ = false;
  std::optional<absl::Status> finished_;
  std::string fault_;
};

// Runs a server with some callers, and something that holds memory meanwhile.
Outcome Run(uint64_t seed);

}  // namespace quantd::sim

#endif  // QUANTD_TESTS_SIM_WORLD_H_
