// What a server holds, in a process of its own: at most its budget, 32 MiB, and 1.5 MiB for each
// connection, however many streams there are and whatever they do; and little once they are gone.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/client.h"
#include "server/resolved_options.h"
#include "tests/bench/child_server.h"
#include "tests/bench/load.h"

namespace quantd::bench {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

constexpr int kStreams = 64;
constexpr absl::Duration kLoadTime = absl::Milliseconds(1500);
constexpr absl::Duration kIdleTime = absl::Seconds(3);
// Nearly what a tensor may hold by the least of the budgets: it is buffered.
constexpr int64_t kRows = 1920, kColumns = 4096;
// What is left of a burst, beside what a server without load takes.
constexpr int64_t kMaxLeftBytes = int64_t{32} << 20;

TensorDesc LoadTensor() { return {"t", DType::kF32, *Shape::Make({kRows, kColumns})}; }

std::span<const std::byte> Values() {
  static const std::vector<float> kValues = [] {
    std::vector<float> values(kRows * kColumns);
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 255) - 127.0f;
    return values;
  }();
  return std::as_bytes(std::span(kValues));
}

absl::StatusOr<QuantizedInfo> Quantize(const Client& client, const char* spec, PlaneSink& sink) {
  MemorySource source(Values());
  return client.Quantize({LoadTensor(), *ParseSpec(spec), &source, &sink, {}, {}});
}

bool QuantizeOnce(const Client& client, const char* spec) {
  DiscardSink sink;
  return Quantize(client, spec, sink).ok();
}

// The tensor as a server has quantized it.
struct Packed {
  explicit Packed(const Client& client) {
    const auto done = Quantize(client, "int8:axis=0", sink);
    EXPECT_TRUE(done.ok()) << done.status();
    if (!done.ok()) return;
    spec = *ParseSpec(done->plan.resolved_spec);
    for (const PlaneDesc& plane : done->plan.planes) names.push_back(plane.name);
  }
  bool DequantizeOnce(const Client& client) const {
    std::vector<MemorySource> sources;
    for (const auto& plane : sink.planes()) sources.emplace_back(std::span(plane));
    DequantizeJob job;
    job.tensor = LoadTensor();
    job.spec = spec;
    for (size_t i = 0; i < sources.size(); ++i) job.planes.push_back({names[i], &sources[i]});
    DiscardSink out;
    job.sink = &out;
    return client.Dequantize(std::move(job)).ok();
  }
  MemorySink sink;
  QuantSpec spec;
  std::vector<std::string> names;
};

struct Case {
  int64_t memory_mib;
  int connections;
};

class MemoryBoundTest : public ::testing::TestWithParam<Case> {};

std::string NameOf(const ::testing::TestParamInfo<Case>& info) {
  return absl::StrCat(info.param.memory_mib, "MiB", info.param.connections, "Connections");
}

TEST_P(MemoryBoundTest, IsKept) {
  if (kSanitized) GTEST_SKIP() << "sanitizers hold memory of their own";
  const int64_t memory_bytes = GetParam().memory_mib << 20;
  const TempFolder folder;
  const ChildServer server(
      folder.path(), {QUANTD_TEST_SERVER, "--listen", "127.0.0.1:0", "--log-level", "warn",
                      "--memory", absl::StrCat(memory_bytes), "--port-file"});
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < GetParam().connections; ++i) {
    clients.push_back(std::make_unique<Client>(ConnectionTo(server.address())));
  }
  const Packed packed(*clients[0]);
  const auto run = [&](auto&& one) {
    std::atomic<int64_t> done = 0;
    std::vector<std::thread> threads;
    const absl::Time end = absl::Now() + kLoadTime;
    for (size_t i = 0; i < kStreams; ++i) {
      threads.emplace_back([&, i] {
        const Client& client = *clients[i % clients.size()];
        while (absl::Now() < end) done += one(client) ? 1 : 0;
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_GT(done, 0);
    return server.PeakBytes() >> 20;
  };
  const int64_t per_tensor = run([](const Client& c) { return QuantizeOnce(c, "int8"); });
  const int64_t group = run([](const Client& c) { return QuantizeOnce(c, "int8:group=32"); });
  const int64_t dequantize = run([&](const Client& c) { return packed.DequantizeOnce(c); });
  absl::SleepFor(kIdleTime);
  const int64_t idle_bytes = server.ResidentBytes();
  std::printf("peak in MiB: per tensor %ld, then groups %ld, then dequantize %ld; idle: %ld\n",
              static_cast<long>(per_tensor), static_cast<long>(group),
              static_cast<long>(dequantize), static_cast<long>(idle_bytes >> 20));
  EXPECT_LE(server.PeakBytes(), MemoryBoundBytes(memory_bytes, GetParam().connections));
  EXPECT_LE(idle_bytes, MemoryBoundBytes(0, GetParam().connections) + kMaxLeftBytes);
}

INSTANTIATE_TEST_SUITE_P(Budgets, MemoryBoundTest,
                         ::testing::Values(Case{128, 64}, Case{256, 64}, Case{1024, 64},
                                           Case{128, 4}, Case{256, 4}),
                         NameOf);

}  // namespace
}  // namespace quantd::bench
