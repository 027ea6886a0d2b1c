// Small calls: unary Quantize of a 384-float embedding by 1, 8 and 64 callers beside a bare echo of
// the same message, and embeddings packed into [n, 384] tensors with a scale for each row, many on
// one stream, beside the bulk stream.
//   small_calls_bench [ROUNDS] [SECONDS]
// Prints medians over ROUNDS (10) interleaved rounds of SECONDS (0.5).
#include <grpcpp/generic/generic_stub.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <deque>
#include <filesystem>
#include <map>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "client/client.h"
#include "core/base/mutex.h"
#include "quantd/v1/quantization.grpc.pb.h"
#include "tests/bench/child_server.h"
#include "tests/bench/echo_service.h"
#include "tests/bench/load.h"

namespace quantd::bench {
namespace {

constexpr int64_t kFloats = 384;

v1::QuantizeRequest SmallRequest() {
  v1::QuantizeRequest request;
  request.mutable_start()->mutable_tensor()->set_name("e");
  request.mutable_start()->mutable_tensor()->set_data_type(v1::DATA_TYPE_F32);
  request.mutable_start()->mutable_tensor()->add_shape(kFloats);
  request.mutable_start()->mutable_spec()->set_text("int8");
  request.set_data(LoadInput().data(), kFloats * sizeof(float));
  return request;
}

// Makes one call of `method`; the answer of the echo is the request.
template <typename Response>
bool Call(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
          const v1::QuantizeRequest& request) {
  grpc::TemplatedGenericStub<v1::QuantizeRequest, Response> stub(channel);
  grpc::ClientContext context;
  Response response;
  absl::Notification done;
  bool ok = false;
  stub.UnaryCall(&context, method, grpc::StubOptions(), &request, &response,
                 [&](const grpc::Status& status) {
                   ok = status.ok();
                   done.Notify();
                 });
  done.WaitForNotification();
  return ok;
}

struct Case {
  std::string address;
  bool echo = false;
  int callers = 1;
  std::vector<double> calls_per_second, p50_us, p99_us;  // one a round
};

bool RunRound(Case& c, const std::vector<std::shared_ptr<grpc::Channel>>& channels,
              absl::Duration time) {
  const v1::QuantizeRequest request = SmallRequest();
  std::vector<std::vector<double>> times_us(static_cast<size_t>(c.callers));
  std::vector<std::thread> threads;
  std::atomic<bool> failed = false;
  const absl::Time begin = absl::Now();
  for (size_t i = 0; i < times_us.size(); ++i) {
    threads.emplace_back([&, i] {
      for (absl::Time now = absl::Now(); !failed && now - begin < time;) {
        const bool ok = c.echo
                            ? Call<v1::QuantizeRequest>(channels[i], kEchoAll, request)
                            : Call<v1::QuantizeResponse>(
                                  channels[i], "/quantd.v1.QuantizationService/Quantize", request);
        const absl::Time end = absl::Now();
        if (!ok) failed = true;
        times_us[i].push_back(absl::ToDoubleMicroseconds(end - now));
        now = end;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::vector<double> all;
  for (const auto& times : times_us) all.insert(all.end(), times.begin(), times.end());
  c.calls_per_second.push_back(static_cast<double>(all.size()) /
                               absl::ToDoubleSeconds(absl::Now() - begin));
  c.p50_us.push_back(Quantile(all, 0.5));
  c.p99_us.push_back(Quantile(std::move(all), 0.99));
  return !failed;
}

// Returns the GB/s of tensors of [rows, columns] one after the other on one stream; 0: it failed.
double StreamRate(const Client& client, int64_t rows, int64_t columns) {
  const int64_t tensor_bytes = rows * columns * int64_t{sizeof(float)};
  const auto count = static_cast<size_t>(4 * kLoadBytes / tensor_bytes);
  const TensorDesc tensor = {"e", DType::kF32, *Shape::Make({rows, columns})};
  CallOptions options;
  options.streams = 1;
  const absl::StatusOr<TensorPlan> plan = client.Plan(tensor, *ParseSpec("int8:axis=0"));
  if (!plan.ok()) return 0;
  DiscardSink sink;
  std::deque<MemorySource> sources;
  std::vector<QuantizeJob> jobs;
  for (size_t i = 0; i < count; ++i) {
    sources.emplace_back(LoadInput().first(static_cast<size_t>(tensor_bytes)));
    jobs.push_back({.tensor = tensor,
                    .spec = *ParseSpec("int8:axis=0"),
                    .source = &sources.back(),
                    .sink = &sink,
                    .plan = *plan});
  }
  const absl::Time begin = absl::Now();
  for (const auto& info : client.QuantizeMany(std::move(jobs), options)) {
    if (!info.ok()) return 0;
  }
  return static_cast<double>(static_cast<int64_t>(count) * tensor_bytes) /
         absl::ToDoubleSeconds(absl::Now() - begin) / 1e9;
}

bool RunCalls(const std::string& transport, const std::string& quantd, const std::string& echo,
              int rounds, absl::Duration time) {
  bool ok = true;
  for (const int callers : {1, 8, 64}) {
    std::vector<Case> cases = {{quantd, false, callers, {}, {}, {}},
                               {echo, true, callers, {}, {}, {}}};
    std::vector<std::vector<std::shared_ptr<grpc::Channel>>> channels(cases.size());
    for (size_t i = 0; i < cases.size(); ++i) {
      for (int n = 0; n < callers; ++n) channels[i].push_back(ConnectionTo(cases[i].address));
    }
    for (int round = 0; round < rounds && ok; ++round) {
      for (size_t i = 0; i < cases.size(); ++i) ok = RunRound(cases[i], channels[i], time) && ok;
    }
    const auto ratio = [&cases](std::vector<double> Case::*figure) {
      return Quantile(cases[0].*figure, 0.5) / Quantile(cases[1].*figure, 0.5);
    };
    std::printf(
        "%-5s %2d callers: %6.0f calls/s, p50 %5.0f us, p99 %5.0f us; of the echo: calls/s %.2f, "
        "p50 %.2f, p99 %.2f\n",
        transport.c_str(), callers, Quantile(cases[0].calls_per_second, 0.5),
        Quantile(cases[0].p50_us, 0.5), Quantile(cases[0].p99_us, 0.5),
        ratio(&Case::calls_per_second), ratio(&Case::p50_us), ratio(&Case::p99_us));
  }
  return ok;
}

bool RunBatches(const std::string& address, int rounds) {
  const Client client(ConnectionTo(address));
  std::vector<double> bulk;
  std::map<int64_t, std::vector<double>> batches;  // by rows
  for (int round = 0; round < rounds; ++round) {
    bulk.push_back(StreamRate(client, kLoadBytes / 4 / kLoadColumns, kLoadColumns));
    for (const int64_t rows : {64, 512, 4096}) {
      batches[rows].push_back(StreamRate(client, rows, kFloats));
    }
  }
  std::printf("bulk stream: %.2f GB/s\n", Quantile(bulk, 0.5));
  for (const auto& [rows, rates] : batches) {
    std::printf("[%ld, %ld] tensors on one stream: %.2f GB/s, %.2f of the bulk stream\n",
                static_cast<long>(rows), static_cast<long>(kFloats), Quantile(rates, 0.5),
                Quantile(rates, 0.5) / Quantile(bulk, 0.5));
  }
  return Quantile(bulk, 0) > 0;
}

int Main(int argc, char** argv) {
  SkipDeadlockSearch();
  int rounds = 10;
  double seconds = 0.5;
  if ((argc > 1 && !absl::SimpleAtoi(argv[1], &rounds)) ||
      (argc > 2 && !absl::SimpleAtod(argv[2], &seconds))) {
    std::fprintf(stderr, "usage: small_calls_bench [ROUNDS] [SECONDS]\n");
    return 2;
  }
  const TempFolder temp;
  const std::filesystem::path& folder = temp.path();
  bool ok = true;
  {
    const std::string path = absl::StrCat("unix:", (folder / "quantd").string());
    const std::string echo_path = absl::StrCat("unix:", (folder / "echo").string());
    const ChildServer quantd(
        folder, {QUANTD_PROGRAM, "--listen", "127.0.0.1:0", "--listen", path, "--port-file"});
    const ChildServer echo(folder, {ECHO_PROGRAM, echo_path});
    const absl::Duration time = absl::Seconds(seconds);
    ok = RunCalls("TCP", quantd.address(), echo.address(), rounds, time) &&
         RunCalls("UNIX", path, echo_path, rounds, time) && RunBatches(path, rounds);
  }
  std::printf("%s\n", ok ? "ok" : "FAILED");
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace quantd::bench

int main(int argc, char** argv) { return quantd::bench::Main(argc, argv); }
