// Rates against streams, worker threads and replicas, and CPU seconds per GB of f32 on both sides,
// of StreamingQuantize (int8:axis=0, checksums, digests and figures on) beside a bare echo of the
// same bytes, for TCP and UNIX sockets, and over shared memory, which needs no checksums.
//   scaling_bench [ROUNDS] [SECONDS]
// Prints medians over ROUNDS (10) interleaved rounds of SECONDS (0.5) each, and the spread.
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/client.h"
#include "core/base/mutex.h"
#include "tests/bench/byte_stream.h"
#include "tests/bench/child_server.h"
#include "tests/bench/echo_service.h"
#include "tests/bench/load.h"

namespace quantd::bench {
namespace {

constexpr size_t kFrameBytes = size_t{4} << 20;

double OwnCpuSeconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// Sends the tensor's bytes as frames to the echo; true if all came back.
bool EchoOnce(const std::shared_ptr<grpc::Channel>& channel) {
  ByteStream stream(channel, kEchoQuarter);
  std::thread writer([&stream] {
    const std::span<const std::byte> input = LoadInput();
    for (size_t at = 0; at < input.size(); at += kFrameBytes) {
      const grpc::Slice slice(input.data() + at, kFrameBytes, grpc::Slice::STATIC_SLICE);
      if (!stream.Write(grpc::ByteBuffer(&slice, 1))) break;
    }
    stream.WritesDone();
  });
  size_t frames = 0;
  while (stream.Read().has_value()) ++frames;
  writer.join();
  return frames == LoadInput().size() / kFrameBytes;
}

// One setting that is measured, and what came out, one entry a round.
struct Case {
  std::string name;
  std::vector<const ChildServer*> servers;
  std::vector<std::string> addresses;  // of the servers; streams go to them in turn
  bool echo = false;
  int streams = 1;
  bool shares_memory = false;
  std::vector<double> rate, server_cpu, client_cpu;  // GB/s, seconds per GB
};

// Runs one round; false if something failed.
bool RunRound(Case& c, absl::Duration time) {
  std::atomic<bool> failed = false;
  std::atomic<int64_t> tensors = 0;
  std::vector<std::shared_ptr<grpc::Channel>> channels;
  for (int i = 0; i < c.streams; ++i) {
    channels.push_back(ConnectionTo(c.addresses[static_cast<size_t>(i) % c.addresses.size()]));
  }
  const auto server_seconds = [&c] {
    double sum = 0;
    for (const ChildServer* server : c.servers) sum += server->CpuSeconds();
    return sum;
  };
  const double server_begin = server_seconds(), client_begin = OwnCpuSeconds();
  const absl::Time begin = absl::Now();
  std::vector<std::thread> threads;
  for (const auto& channel : channels) {
    threads.emplace_back([&, channel] {
      absl::StatusOr<Client> client = Client(channel);
      if (c.shares_memory) {
        client =
            Client::Connect({.target = c.addresses.front(), .transport = Transport::kSharedMemory});
      }
      if (!client.ok()) {
        failed = true;
        return;
      }
      do {
        const bool ok =
            c.echo ? EchoOnce(channel) : QuantizeOnce(*client, "int8:axis=0").status().ok();
        if (!ok) failed = true;
        ++tensors;
      } while (!failed && absl::Now() - begin < time);
    });
  }
  for (std::thread& thread : threads) thread.join();
  const double gigabytes = static_cast<double>(tensors * kLoadBytes) / 1e9;
  c.rate.push_back(gigabytes / absl::ToDoubleSeconds(absl::Now() - begin));
  c.server_cpu.push_back((server_seconds() - server_begin) / gigabytes);
  c.client_cpu.push_back((OwnCpuSeconds() - client_begin) / gigabytes);
  return !failed;
}

void Print(const std::vector<Case>& cases) {
  std::printf("%-34s %6s %5s %9s %9s  of the echo: %5s %10s\n", "", "GB/s", "+-", "server",
              "client", "rate", "server CPU");
  std::printf("%-34s %12s %19s\n", "", "", "CPU s/GB");
  for (const Case& c : cases) {
    const double rate = Quantile(c.rate, 0.5), cpu = Quantile(c.server_cpu, 0.5);
    std::printf("%-34s %6.2f %3.0f %% %9.2f %9.2f", c.name.c_str(), rate,
                (Quantile(c.rate, 0.75) - Quantile(c.rate, 0.25)) / 2 / rate * 100, cpu,
                Quantile(c.client_cpu, 0.5));
    const auto echo = std::find_if(cases.begin(), cases.end(), [&c](const Case& other) {
      return other.name == absl::StrCat("echo", c.name.substr(c.name.find(',')));
    });
    if (!c.echo && echo != cases.end()) {
      std::printf("               %5.2f %10.2f", rate / Quantile(echo->rate, 0.5),
                  cpu / Quantile(echo->server_cpu, 0.5));
    }
    std::printf("\n");
  }
}

int Main(int argc, char** argv) {
  SkipDeadlockSearch();
  int rounds = 10;
  double seconds = 0.5;
  if ((argc > 1 && !absl::SimpleAtoi(argv[1], &rounds)) ||
      (argc > 2 && !absl::SimpleAtod(argv[2], &seconds))) {
    std::fprintf(stderr, "usage: scaling_bench [ROUNDS] [SECONDS]\n");
    return 2;
  }
  const TempFolder temp;
  const std::filesystem::path& folder = temp.path();
  bool ok = true;
  {
    // Replica n; `threads` 0 is one for each CPU.
    const auto start = [&folder](const std::string& name, int threads) {
      std::filesystem::create_directory(folder / name);
      return std::make_unique<ChildServer>(
          folder / name,
          std::vector<std::string>{QUANTD_PROGRAM, "--listen", "127.0.0.1:0", "--listen",
                                   absl::StrCat("unix:", (folder / name / "s").string()),
                                   "--threads", absl::StrCat(threads), "--port-file"});
    };
    const auto one = start("one", 0), two = start("two", 0), single = start("single", 1);
    std::filesystem::create_directory(folder / "echo");
    const std::string echo_path = absl::StrCat("unix:", (folder / "echo" / "s").string());
    const ChildServer echo(folder / "echo", {ECHO_PROGRAM, echo_path});
    const auto path_of = [&folder](const std::string& name) {
      return absl::StrCat("unix:", (folder / name / "s").string());
    };
    std::vector<Case> cases;
    const auto add = [&cases](std::string name, std::vector<const ChildServer*> servers,
                              std::vector<std::string> addresses, bool is_echo, int streams) {
      cases.push_back({std::move(name),
                       std::move(servers),
                       std::move(addresses),
                       is_echo,
                       streams,
                       /*shares_memory=*/false,
                       {},
                       {},
                       {}});
    };
    for (const int streams : {1, 2, 4, 8}) {
      const std::string tcp = absl::StrCat(", TCP, ", streams, " streams");
      const std::string uds = absl::StrCat(", UNIX, ", streams, " streams");
      add("echo" + tcp, {&echo}, {echo.address()}, true, streams);
      add("quantd" + tcp, {one.get()}, {one->address()}, false, streams);
      add("echo" + uds, {&echo}, {echo_path}, true, streams);
      add("quantd" + uds, {one.get()}, {path_of("one")}, false, streams);
      add(absl::StrCat("quantd, shared memory, ", streams, " streams"), {one.get()},
          {path_of("one")}, false, streams);
      cases.back().shares_memory = true;
      if (streams < 2) continue;
      add("two replicas" + uds, {one.get(), two.get()}, {path_of("one"), path_of("two")}, false,
          streams);
    }
    add("one thread, UNIX, 4 streams", {single.get()}, {path_of("single")}, false, 4);
    for (int round = 0; round < rounds && ok; ++round) {
      for (Case& c : cases) ok = RunRound(c, absl::Seconds(seconds)) && ok;
    }
    Print(cases);
  }
  std::printf("%s\n", ok ? "ok" : "FAILED");
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace quantd::bench

int main(int argc, char** argv) { return quantd::bench::Main(argc, argv); }
