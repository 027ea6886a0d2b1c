#include "tests/sim/world.h"

#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/admit/admission.h"
#include "server/admit/caller_accounts.h"
#include "server/admit/idle_watch.h"
#include "server/admit/waiting_room.h"
#include "server/service_context.h"
#include "tests/sim/dice.h"
#include "tests/sim/sim_call.h"

namespace quantd::sim {
namespace {

constexpr absl::Duration kIdleTimeout = absl::Seconds(60);
constexpr int kMaxSteps = 200'000;
constexpr int64_t kMaxMessageBytes = int64_t{8} << 20, kReaders = 2;

absl::Time clock_now = absl::UnixEpoch();  // simulated; one world runs at a time

// Everything of a server but gRPC.
class SimServer {
 public:
  // `may_allocate` is asked for each reservation and each buffer. All arguments outlive this.
  SimServer(Dice& dice, Outcome& outcome, const std::function<bool()>& may_allocate,
            int64_t max_streams = 4)
      : executor_(dice),
        budget_(int64_t{4} << (20 + dice.Below(5))),
        waiting_room_(budget_, budget_.limit_bytes() / 4),
        reading_room_(std::make_shared<MemoryBudget>(kReaders * kMaxMessageBytes)),
        accounts_(budget_,
                  {.max_streams = max_streams,
                   .max_memory_bytes = budget_.limit_bytes() / 4 * 3}),
        idle_watch_(kIdleTimeout),
        admission_(budget_, {.max_waiting = 8, .headroom_bytes = budget_.limit_bytes() / 16},
                   [this](std::function<void()> task) { executor_.Submit(std::move(task)); }),
        readers_(*reading_room_, {.max_waiting = 8},
                 [this](std::function<void()> task) { executor_.Submit(std::move(task)); }) {
    budget_.SetReleaseListener([this] { admission_.Pump(); });
    reading_room_->SetReleaseListener([this] { readers_.Pump(); });
    reading_room_->SetRefusal([&may_allocate](int64_t) { return !may_allocate(); });
    budget_.SetRefusal([&may_allocate](int64_t) { return !may_allocate(); });
    admission_.SetListener([&outcome] { ++outcome.waited; });
    context.shared_pool = std::make_shared<BufferPool>(
        size_t{1} << 20, [&may_allocate](size_t) { return may_allocate(); });
    context.session = {&executor_, context.shared_pool.get(), &budget_};
    context.limits = {.max_message_bytes = kMaxMessageBytes,
                      .max_unary_bytes = int64_t{4} << 20,
                      .session_budget_bytes = budget_.limit_bytes() / 4,
                      .max_queued_bytes = int64_t{1} << (12 + dice.Below(9)),
                      .frame_bytes = int64_t{128} << 10,
                      .max_open_tensors = 3};
    context.small_calls = &executor_;
    context.admission = &admission_;
    context.accounts = &accounts_;
    context.waiting_room = &waiting_room_;
    context.readers = &readers_;
    context.reading_room = reading_room_;
    context.idle_watch = &idle_watch_;
    context.worker_threads = 2;
    context.now = [] { return clock_now; };
  }

  SimExecutor& executor() { return executor_; }
  MemoryBudget& budget() { return budget_; }
  // Time passes: who waits too long is refused, who is silent ended.
  void Look() {
    admission_.Expire(clock_now);
    readers_.Expire(clock_now);
    idle_watch_.Look();
  }
  // Called when all calls are gone; returns how many bytes they have left held.
  int64_t End() {
    while (!executor_.empty()) executor_.RunOne();
    return budget_.used_bytes();
  }

 private:
  SimExecutor executor_;
  MemoryBudget budget_;
  WaitingRoom waiting_room_;
  const std::shared_ptr<MemoryBudget> reading_room_;
  CallerAccounts accounts_;
  IdleWatch idle_watch_;
  Admission admission_, readers_;

 public:
  ServiceContext context;
};

SimFaults AnyFaults(Dice& dice) {
  SimFaults faults;
  switch (dice.Below(10)) {
    case 0: faults.cancels = true; break;
    case 1: faults.damages = true; break;
    case 2: faults.hangs_up = true; break;
    case 3: faults.falls_silent = true; break;
    case 4: faults.garbles = true; break;
    default: break;
  }
  return faults;
}

std::unique_ptr<SimCall> AnyCall(Dice& dice, SimServer& server, int64_t number) {
  const SimFaults faults = AnyFaults(dice);
  constexpr Rpc kRpcs[] = {Rpc::kQuantize,   Rpc::kQuantize,  Rpc::kQuantize,     Rpc::kDequantize,
                           Rpc::kDequantize, Rpc::kCalibrate, Rpc::kUnaryQuantize};
  const Rpc rpc = kRpcs[dice.Below(std::ssize(kRpcs))];
  const bool is_single = rpc == Rpc::kCalibrate || rpc == Rpc::kUnaryQuantize;
  std::vector<SimTensor> tensors;
  for (int64_t left = is_single ? 1 : 1 + dice.Below(3); left > 0; --left) {
    tensors.emplace_back(rpc, tensors.size() + 1, dice.Below(kNumTensors), !faults.garbles);
  }
  return std::make_unique<SimCall>(dice, server.context, rpc, absl::StrCat("caller", number % 2),
                                   faults, std::move(tensors), /*by_client=*/dice.OneIn(2));
}

// The same tensors, of those that have not come back, asked for once more.
std::unique_ptr<SimCall> CallAgain(Dice& dice, SimServer& server, const SimCall& call) {
  std::vector<SimTensor> tensors;
  for (const SimTensor& tensor : call.tensors()) {
    if (!tensor.over()) tensors.emplace_back(call.rpc(), tensor.id(), tensor.number(), true);
  }
  if (tensors.empty()) return nullptr;
  return std::make_unique<SimCall>(dice, server.context, call.rpc(), call.caller(), SimFaults{},
                                   std::move(tensors), /*by_client=*/dice.OneIn(2));
}

using Calls = std::vector<std::unique_ptr<SimCall>>;

// Runs the calls on their server until nothing is left to do. `drains`: at some step no more begin,
// and a while later those that run are broken off. Returns what went wrong.
std::string RunCalls(Dice& dice, SimServer& server, Calls& calls, bool drains) {
  // Others hold memory for a while.
  std::optional<MemoryBudget::Reservation> others;
  if (dice.OneIn(2)) {
    auto held = server.budget().Reserve(
        server.budget().limit_bytes() / 8 * (1 + dice.Below(7)), "others");
    if (held.ok()) others = *std::move(held);
  }
  const int64_t drained_at = drains ? dice.Below(100) : kMaxSteps;
  const int64_t broken_at = drained_at + (drains ? dice.Below(100) : 0);
  size_t begun = 0;
  for (int step = 0; step < kMaxSteps; ++step) {
    if (step == broken_at) {
      for (size_t i = 0; i < begun; ++i) calls[i]->Break();
    }
    std::vector<std::function<void()>> actions;
    if (begun < calls.size() && step < drained_at) {
      actions.push_back([&] { calls[begun++]->Begin(); });
    }
    for (size_t i = 0; i < begun; ++i) calls[i]->AddActions(actions);
    if (!server.executor().empty()) actions.push_back([&] { server.executor().RunOne(); });
    if (others.has_value() && dice.OneIn(20)) actions.push_back([&] { others.reset(); });
    if (!actions.empty()) {
      if (dice.OneIn(50)) clock_now += absl::Milliseconds(dice.Below(100));
      actions[static_cast<size_t>(dice.Below(std::ssize(actions)))]();
      continue;
    }
    if (others.has_value()) {
      others.reset();
      continue;
    }
    bool over = begun == calls.size() || step >= drained_at;
    for (size_t i = 0; i < begun; ++i) over = over && calls[i]->over();
    if (over) return "";
    if (clock_now > absl::UnixEpoch() + absl::Hours(1)) return "stands still";
    clock_now += absl::Seconds(10);
    server.Look();
  }
  return "does not end";
}

// Says what is wrong with how the calls ended, and counts it.
std::string Judge(const Calls& calls, bool may_fail, Outcome& outcome) {
  for (size_t i = 0; i < calls.size(); ++i) {
    const SimCall& call = *calls[i];
    if (!call.over() && !call.status().has_value() && may_fail) continue;  // never begun
    const std::string wrong = call.Fault(may_fail);
    if (!wrong.empty()) return absl::StrCat("call ", i, ": ", wrong);
    for (const SimTensor& tensor : call.tensors()) {
      outcome.done += tensor.done() ? 1 : 0;
      outcome.failed += tensor.failed() ? 1 : 0;
    }
    outcome.broken += call.status()->ok() ? 0 : 1;
  }
  return "";
}

// After what has gone wrong, a server that has all it needs gives everything.
std::string RunAgain(Dice& dice, const Calls& broken, Outcome& outcome) {
  const std::function<bool()> always = [] { return true; };
  SimServer server(dice, outcome, always);
  Calls calls;
  for (const auto& call : broken) {
    if (auto again = CallAgain(dice, server, *call); again != nullptr) {
      calls.push_back(std::move(again));
    }
  }
  std::string fault = RunCalls(dice, server, calls, /*drains=*/false);
  Outcome made;
  if (fault.empty()) fault = Judge(calls, /*may_fail=*/false, made);
  outcome.made_again += made.done;
  calls.clear();
  const int64_t left_bytes = server.End();
  if (!fault.empty() || left_bytes == 0) return fault;
  return absl::StrCat("the second server still holds ", left_bytes, " bytes of memory");
}

// The streams of a caller that say nothing.
class Hog {
 public:
  Hog(Dice& dice, SimServer& server) : dice_(dice), server_(server) {}
  // Begins one more, and returns whether it was let in.
  bool Begin() {
    std::vector<SimTensor> tensors;
    tensors.emplace_back(Rpc::kQuantize, 1, dice_.Below(kNumTensors), true);
    calls_.push_back(std::make_unique<SimCall>(dice_, server_.context, Rpc::kQuantize, "hog",
                                               SimFaults{.says_nothing = true}, std::move(tensors),
                                               /*by_client=*/false));
    calls_.back()->Begin();
    return !calls_.back()->over();
  }
  void AddActions(std::vector<std::function<void()>>& actions) {
    for (const auto& call : calls_) call->AddActions(actions);
  }
  // Forgets those that have ended, and returns how many of them had been let in.
  int64_t Forget() { return std::erase_if(calls_, [](const auto& call) { return call->over(); }); }
  void Break() {
    for (const auto& call : calls_) call->Break();
  }
  bool empty() const { return calls_.empty(); }

 private:
  Dice& dice_;
  SimServer& server_;
  Calls calls_;
};

// Lets one of the things happen that can; false: there are none. `call` may be null.
bool RunOne(Dice& dice, SimServer& server, Hog& hog, SimCall* call) {
  std::vector<std::function<void()>> actions;
  if (call != nullptr) call->AddActions(actions);
  hog.AddActions(actions);
  if (!server.executor().empty()) actions.push_back([&] { server.executor().RunOne(); });
  if (hog.Forget() > 0 || dice.OneIn(50)) actions.push_back([&] { hog.Begin(); });
  if (actions.empty()) return false;
  actions[static_cast<size_t>(dice.Below(std::ssize(actions)))]();
  return true;
}

void PassSecond(SimServer& server) {
  clock_now += absl::Seconds(1);
  server.Look();
}

// Runs a call beside the hog until it is over; time passes by the second.
std::string RunBeside(Dice& dice, SimServer& server, Hog& hog, SimCall& call) {
  call.Begin();
  for (int step = 0; step < kMaxSteps && !call.over(); ++step) {
    if (!RunOne(dice, server, hog, &call)) PassSecond(server);
  }
  return call.over() ? "" : "does not end";
}

// Of what happens while an honest caller waits to come again.
constexpr int kStepsASecond = 100;

// Calls of an honest caller, each until it is served.
std::string RunHonest(Dice& dice, SimServer& server, Hog& hog, Outcome& outcome) {
  for (int64_t left = 1 + dice.Below(4); left > 0; --left) {
    std::vector<SimTensor> tensors;
    tensors.emplace_back(Rpc::kQuantize, 1, dice.Below(kNumTensors), true);
    auto call = std::make_unique<SimCall>(dice, server.context, Rpc::kQuantize, "honest",
                                          SimFaults{}, std::move(tensors), /*by_client=*/false);
    const absl::Time begun = clock_now;
    while (call != nullptr) {
      std::string fault = RunBeside(dice, server, hog, *call);
      if (fault.empty()) fault = call->Fault(/*may_fail=*/false);
      if (!fault.empty()) return fault;
      outcome.done += call->tensors()[0].done() ? 1 : 0;
      outcome.broken += call->status()->ok() ? 0 : 1;
      call = CallAgain(dice, server, *call);
      if (clock_now - begun > absl::Seconds(10)) return "an honest caller is kept out";
      if (call == nullptr) continue;
      PassSecond(server);  // as it was told to
      for (int step = 0; step < kStepsASecond && RunOne(dice, server, hog, nullptr); ++step) {
      }
    }
  }
  return "";
}

}  // namespace

Outcome RunCrowd(uint64_t seed) {
  Dice dice(seed);
  clock_now = absl::UnixEpoch();
  Outcome outcome;
  const std::function<bool()> always = [] { return true; };
  SimServer server(dice, outcome, always, /*max_streams=*/1000);
  {
    Hog hog(dice, server);
    while (hog.Begin()) {
    }
    outcome.fault = RunHonest(dice, server, hog, outcome);
    hog.Break();
    for (int step = 0; step < kMaxSteps && !hog.empty(); ++step) {
      std::vector<std::function<void()>> actions;
      hog.AddActions(actions);
      if (!server.executor().empty()) actions.push_back([&] { server.executor().RunOne(); });
      if (!actions.empty()) actions[static_cast<size_t>(dice.Below(std::ssize(actions)))]();
      hog.Forget();
    }
  }
  const int64_t left_bytes = server.End();
  if (outcome.fault.empty() && left_bytes != 0) {
    outcome.fault = absl::StrCat(left_bytes, " bytes of memory are still held");
  }
  return outcome;
}

Outcome Run(const WorldOptions& options) {
  Dice dice(options.seed, options.choices);
  clock_now = absl::UnixEpoch();
  Outcome outcome;
  const std::function<bool()> may_allocate = [&] {
    return ++outcome.allocations != options.refused;
  };
  Calls calls;
  const bool drains = dice.OneIn(4);
  int64_t left_bytes = 0;
  {
    SimServer server(dice, outcome, may_allocate);
    for (int64_t left = 1 + dice.Below(4); left > 0; --left) {
      calls.push_back(AnyCall(dice, server, left));
    }
    outcome.fault = RunCalls(dice, server, calls, drains);
    if (outcome.fault.empty()) outcome.fault = Judge(calls, drains, outcome);
    if (!outcome.fault.empty()) return outcome;  // what is left cannot be told
    left_bytes = server.End();
  }
  if (left_bytes != 0) {
    outcome.fault = absl::StrCat(left_bytes, " bytes of memory are still held");
  } else if (drains) {
    ++outcome.restarts;
    outcome.fault = RunAgain(dice, calls, outcome);
  }
  return outcome;
}

}  // namespace quantd::sim
