// Many streams at once through a quantd with a small budget, in processes of their own.
//   overload_bench [STREAMS] [SECONDS]
// Prints the rate of 8 streams and of STREAMS (200), what became of the calls, the server's peak
// memory beside its budget, and the latency of small unary calls beside that of a bare echo server
// while 8 streams run. Exits 1 if a digest was wrong, a call failed otherwise than by a clean
// refusal, or the memory went beyond the budget and 64 MiB.
#include <grpcpp/generic/generic_stub.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>
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

constexpr int64_t kBudgetBytes = int64_t{512} << 20;
constexpr int64_t kAllowedBytes = kBudgetBytes + (int64_t{64} << 20);
constexpr int kFewStreams = 8;

struct BulkResult {
  int64_t served = 0, refused = 0, failed = 0;
  double gigabytes_per_second = 0;
};

// Runs tensors over `streams` connections until `stop`, and checks what comes back.
class Bulk {
 public:
  Bulk(const std::string& address, int streams) : begin_(absl::Now()) {
    for (int i = 0; i < streams; ++i) {
      threads_.emplace_back([this, address] { Run(Client(ConnectionTo(address))); });
    }
  }
  BulkResult Stop() {
    stop_ = true;  // what has begun is brought to its end, and counts
    for (std::thread& thread : threads_) thread.join();
    const double seconds = absl::ToDoubleSeconds(absl::Now() - begin_);
    return {served_, refused_, failed_, static_cast<double>(served_) * kLoadBytes / seconds / 1e9};
  }

 private:
  void Run(const Client& client) {
    while (!stop_) {
      const auto info = QuantizeOnce(client, "int8:axis=0");
      if (absl::IsResourceExhausted(info.status())) {
        ++refused_;
        absl::SleepFor(absl::Seconds(1));  // as the refusal says
        continue;
      }
      if (!info.ok() || !IsRight(info->report.digests.front())) {
        std::cerr << info.status() << "\n";
        ++failed_;
        return;
      }
      ++served_;
    }
  }
  // All results are of one input, so they are all right if the first one is; that one is verified
  // by the client against what came over the wire.
  bool IsRight(const std::string& digest) {
    absl::MutexLock lock(&mutex_);
    if (expected_.empty()) expected_ = digest;
    return digest == expected_;
  }

  const absl::Time begin_;
  std::atomic<bool> stop_ = false;
  std::atomic<int64_t> served_ = 0, refused_ = 0, failed_ = 0;
  absl::Mutex mutex_;
  std::string expected_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_;
};

BulkResult RunBulk(const std::string& address, int streams, absl::Duration time) {
  Bulk bulk(address, streams);
  absl::SleepFor(time);
  const BulkResult result = bulk.Stop();
  std::printf("%4d streams: %.2f GB/s, %ld tensors served, %ld refused, %ld failed\n", streams,
              result.gigabytes_per_second, static_cast<long>(result.served),
              static_cast<long>(result.refused), static_cast<long>(result.failed));
  return result;
}

v1::QuantizeRequest SmallRequest() {
  v1::QuantizeRequest request;
  request.mutable_start()->mutable_tensor()->set_name("e");
  request.mutable_start()->mutable_tensor()->set_data_type(v1::DATA_TYPE_F32);
  request.mutable_start()->mutable_tensor()->add_shape(384);
  request.mutable_start()->mutable_spec()->set_text("int8");
  request.set_data(LoadInput().data(), 384 * sizeof(float));
  return request;
}

// Makes small calls to both servers in turn while streams run to quantd.
bool RunSmallCalls(const std::string& quantd, const std::string& echo, absl::Duration time) {
  Bulk bulk(quantd, kFewStreams);
  const auto stub = v1::QuantizationService::NewStub(ConnectionTo(quantd));
  grpc::TemplatedGenericStub<v1::QuantizeRequest, v1::QuantizeRequest> echo_stub(
      ConnectionTo(echo));
  const v1::QuantizeRequest request = SmallRequest();
  std::vector<double> ours, bare;  // microseconds
  bool ok = true;
  for (const absl::Time end = absl::Now() + time; absl::Now() < end;) {
    grpc::ClientContext context, echo_context;
    v1::QuantizeResponse response;
    const absl::Time begin = absl::Now();
    ok = stub->Quantize(&context, request, &response).ok() && ok;
    const absl::Time middle = absl::Now();
    v1::QuantizeRequest echoed;
    absl::Notification done;
    echo_stub.UnaryCall(&echo_context, kEchoAll, grpc::StubOptions(), &request, &echoed,
                        [&](const grpc::Status& status) {
                          ok = status.ok() && ok;
                          done.Notify();
                        });
    done.WaitForNotification();
    ours.push_back(absl::ToDoubleMicroseconds(middle - begin));
    bare.push_back(absl::ToDoubleMicroseconds(absl::Now() - middle));
  }
  const BulkResult result = bulk.Stop();
  for (const double quantile : {0.5, 0.99}) {
    std::printf("small calls beside %d streams, p%.0f of %zu: %.0f us, echo %.0f us: %.2f times\n",
                kFewStreams, quantile * 100, ours.size(), Quantile(ours, quantile),
                Quantile(bare, quantile), Quantile(ours, quantile) / Quantile(bare, quantile));
  }
  return ok && result.failed == 0;
}

int Main(int argc, char** argv) {
  SkipDeadlockSearch();
  int streams = 200, seconds = 10;
  if ((argc > 1 && !absl::SimpleAtoi(argv[1], &streams)) ||
      (argc > 2 && !absl::SimpleAtoi(argv[2], &seconds))) {
    std::cerr << "usage: overload_bench [STREAMS] [SECONDS]\n";
    return 2;
  }
  const TempFolder temp;
  const std::filesystem::path& folder = temp.path();
  bool ok = true;
  {
    const ChildServer quantd(folder, {QUANTD_PROGRAM, "--listen", "127.0.0.1:0", "--memory",
                                      absl::StrCat(kBudgetBytes), "--port-file"});
    const ChildServer echo(folder, {ECHO_PROGRAM});
    const absl::Duration time = absl::Seconds(seconds);
    ok = RunSmallCalls(quantd.address(), echo.address(), time);
    double few_rate = 0, many_rate = 0;
    for (int round = 0; round < 2; ++round) {
      const BulkResult few = RunBulk(quantd.address(), kFewStreams, time);
      const BulkResult many = RunBulk(quantd.address(), streams, time);
      few_rate += few.gigabytes_per_second;
      many_rate += many.gigabytes_per_second;
      ok = ok && few.failed == 0 && many.failed == 0;
    }
    std::printf("%d streams reach %.2f of the rate of %d\n", streams, many_rate / few_rate,
                kFewStreams);
    const int64_t peak_bytes = quantd.PeakBytes();
    std::printf("peak memory %ld MiB; the budget is %ld MiB\n", static_cast<long>(peak_bytes >> 20),
                static_cast<long>(kBudgetBytes >> 20));
    ok = ok && peak_bytes <= kAllowedBytes;
  }
  std::printf("%s\n", ok ? "ok" : "FAILED");
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace quantd::bench

int main(int argc, char** argv) { return quantd::bench::Main(argc, argv); }
