// Time from exec to the first answer, and resident memory at rest, of quantd beside a bare gRPC
// callback server that is built with it; then quantd's memory at rest after load.
//   startup_bench [PAIRS]
// Exits 1 if a median is more than 1.5 times the bare server's, or more than 32 MiB stay after
// load.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/client.h"
#include "tests/bench/child_server.h"
#include "tests/bench/load.h"

namespace quantd::bench {
namespace {

constexpr double kAllowedRatio = 1.5;
constexpr int64_t kAllowedKeptBytes = int64_t{32} << 20;
constexpr int kLoadStreams = 8;

struct Start {
  std::vector<double> milliseconds, resident_mib;
};

void MeasureStart(const std::filesystem::path& folder, std::vector<std::string> command,
                  Start& start) {
  std::filesystem::remove_all(folder);
  std::filesystem::create_directory(folder);
  const absl::Time begin = absl::Now();
  const ChildServer server(folder, std::move(command));
  const auto channel = ConnectionTo(server.address());
  if (!channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(10))) {
    std::fprintf(stderr, "%s does not answer\n", server.address().c_str());
    std::exit(1);
  }
  start.milliseconds.push_back(absl::ToDoubleMilliseconds(absl::Now() - begin));
  absl::SleepFor(absl::Milliseconds(200));  // to rest
  start.resident_mib.push_back(static_cast<double>(server.ResidentBytes()) / (1 << 20));
}

bool Print(const char* what, const char* unit, const std::vector<double>& ours,
           const std::vector<double>& bare) {
  const auto [min, max] = std::minmax_element(ours.begin(), ours.end());
  const double ratio = Quantile(ours, 0.5) / Quantile(bare, 0.5);
  std::printf("%-22s %7.1f %s (%.1f to %.1f), bare server %7.1f %s: %.2f times\n", what,
              Quantile(ours, 0.5), unit, *min, *max, Quantile(bare, 0.5), unit, ratio);
  return ratio <= kAllowedRatio;
}

// Returns the memory that is left at rest after load, beyond that before it.
int64_t KeptAfterLoad(const std::filesystem::path& folder) {
  std::filesystem::remove_all(folder);
  std::filesystem::create_directory(folder);
  const ChildServer server(folder, {QUANTD_PROGRAM, "--listen", "127.0.0.1:0", "--port-file"});
  absl::SleepFor(absl::Milliseconds(500));
  const int64_t before_bytes = server.ResidentBytes();
  {
    std::vector<std::thread> threads;
    for (int i = 0; i < kLoadStreams; ++i) {
      threads.emplace_back([&server] {
        const Client client(ConnectionTo(server.address()));
        for (int n = 0; n < 16; ++n) {
          if (!QuantizeOnce(client, "int8:axis=0").ok()) std::exit(1);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  const int64_t loaded_bytes = server.ResidentBytes();
  int64_t after_bytes = loaded_bytes;
  for (int tick = 0; tick < 20 && after_bytes - before_bytes > kAllowedKeptBytes; ++tick) {
    absl::SleepFor(absl::Seconds(1));
    after_bytes = server.ResidentBytes();
  }
  std::printf("memory: %ld MiB at rest, %ld MiB after %d streams, %ld MiB at rest again\n",
              static_cast<long>(before_bytes >> 20), static_cast<long>(loaded_bytes >> 20),
              kLoadStreams, static_cast<long>(after_bytes >> 20));
  return after_bytes - before_bytes;
}

int Main(int argc, char** argv) {
  int pairs = 11;
  if (argc > 1 && !absl::SimpleAtoi(argv[1], &pairs)) return 2;
  const TempFolder temp;
  const std::filesystem::path& folder = temp.path();
  Start quantd, bare;
  for (int i = 0; i < pairs; ++i) {
    MeasureStart(folder / "server", {QUANTD_PROGRAM, "--listen", "127.0.0.1:0", "--port-file"},
                 quantd);
    MeasureStart(folder / "server", {ECHO_PROGRAM}, bare);
  }
  bool ok = Print("start to connection", "ms", quantd.milliseconds, bare.milliseconds);
  ok = Print("resident at rest", "MiB", quantd.resident_mib, bare.resident_mib) && ok;
  ok = KeptAfterLoad(folder / "server") <= kAllowedKeptBytes && ok;
  std::printf("%s\n", ok ? "ok" : "FAILED");
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace quantd::bench

int main(int argc, char** argv) { return quantd::bench::Main(argc, argv); }
