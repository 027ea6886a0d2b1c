// Small calls, and streams with random cuts, cancels and bad input, for a long time.
//   soak [SECONDS] [CALLS]
// Runs for SECONDS (600) and until CALLS (1,000,000) small calls are done, against a quantd in a
// process of its own, and prints its memory, descriptors and threads as time goes. Exits 1 if a
// good call failed, if the memory of the last half changed by more than 2 % from its first quarter
// to its last one, or if descriptors or threads were left.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/time/clock.h"
#include "client/client.h"
#include "core/base/mutex.h"
#include "quantd/v1/quantization.grpc.pb.h"
#include "tests/bench/child_server.h"

namespace quantd::bench {
namespace {

constexpr int kCallers = 6, kStreamers = 3;

v1::QuantizeStart StartOf(int64_t rows, int64_t cols, const std::string& spec) {
  v1::QuantizeStart start;
  start.mutable_tensor()->set_name("t");
  start.mutable_tensor()->set_data_type(v1::DATA_TYPE_F32);
  start.mutable_tensor()->add_shape(rows);
  start.mutable_tensor()->add_shape(cols);
  start.mutable_spec()->set_text(spec);
  return start;
}

// What all threads count.
struct Tally {
  std::atomic<bool> stop = false;
  std::atomic<int64_t> calls = 0, streams = 0, cancelled = 0, bad = 0, failed = 0;
};

void MakeCalls(const std::string& address, Tally& tally) {
  const auto stub = v1::QuantizationService::NewStub(ConnectionTo(address));
  v1::QuantizeRequest request;
  *request.mutable_start() = StartOf(1, 384, "int8");
  request.set_data(std::string(384 * sizeof(float), '\0'));
  while (!tally.stop) {
    grpc::ClientContext context;
    v1::QuantizeResponse response;
    if (!stub->Quantize(&context, request, &response).ok()) ++tally.failed;
    ++tally.calls;
  }
}

// One stream of a random tensor, cut at random, which may be cancelled or end in nonsense.
void MakeStream(v1::QuantizationService::Stub& stub, std::mt19937& rng, Tally& tally) {
  const int64_t rows = 1 + static_cast<int64_t>(rng() % 256);
  const std::string values(static_cast<size_t>(rows) * 1024 * sizeof(float), '\0');
  const char* const specs[] = {"int8", "int8:axis=0", "nf4", "q8_0", "fp16"};
  const uint32_t kind = rng() % 4;  // 0: cancelled, 1: bad, else good
  grpc::ClientContext context;
  const auto stream = stub.StreamingQuantize(&context);
  v1::StreamingQuantizeRequest frame;
  frame.set_tensor_id(1);
  *frame.mutable_start() = StartOf(rows, 1024, specs[rng() % std::size(specs)]);
  bool open = stream->Write(frame);
  std::thread reader([&] {
    bool ended = false;
    for (v1::StreamingQuantizeResponse response; stream->Read(&response);) {
      ended = ended || response.has_end();
    }
    if (kind > 1 && !ended) ++tally.failed;
  });
  const size_t stop_at = kind == 0 ? rng() % values.size() : values.size();
  for (size_t at = 0; open && at < stop_at;) {
    const size_t size = std::min<size_t>(1 + rng() % 300'000, values.size() - at);
    v1::Chunk& chunk = *frame.mutable_chunk();
    chunk.set_offset(static_cast<int64_t>(kind == 1 && rng() % 3 == 0 ? at + 7 : at));
    chunk.set_data(values.substr(at, size));
    open = stream->Write(frame);
    at += size;
  }
  if (kind == 0) {
    context.TryCancel();
    ++tally.cancelled;
  } else {
    frame.mutable_end();
    stream->Write(frame);
    stream->WritesDone();
    if (kind == 1) ++tally.bad;
  }
  reader.join();
  stream->Finish();
  ++tally.streams;
}

void MakeStreams(const std::string& address, uint32_t seed, Tally& tally) {
  std::mt19937 rng(seed);
  auto stub = v1::QuantizationService::NewStub(ConnectionTo(address));
  while (!tally.stop) {
    if (rng() % 50 == 0) stub = v1::QuantizationService::NewStub(ConnectionTo(address));
    MakeStream(*stub, rng, tally);
  }
}

double MeanOf(const std::vector<double>& values, size_t begin, size_t end) {
  double sum = 0;
  for (size_t i = begin; i < end; ++i) sum += values[i];
  return sum / static_cast<double>(end - begin);
}

int Main(int argc, char** argv) {
  SkipDeadlockSearch();
  int seconds = 600;
  int64_t calls = 1'000'000;
  if ((argc > 1 && !absl::SimpleAtoi(argv[1], &seconds)) ||
      (argc > 2 && !absl::SimpleAtoi(argv[2], &calls)) || seconds < 8) {
    std::cerr << "usage: soak [SECONDS, at least 8] [CALLS]\n";
    return 2;
  }
  std::string pattern = std::filesystem::temp_directory_path() / "quantd_soak_XXXXXX";
  const std::filesystem::path folder = mkdtemp(pattern.data());
  const ChildServer server(folder, {QUANTD_PROGRAM, "--listen", "127.0.0.1:0", "--memory", "256MiB",
                                    "--log-level", "warn", "--port-file"});
  Tally tally;
  const int64_t descriptors = server.NumDescriptors();
  std::vector<std::thread> threads;
  for (int i = 0; i < kCallers; ++i) {
    threads.emplace_back([&] { MakeCalls(server.address(), tally); });
  }
  for (uint32_t i = 0; i < kStreamers; ++i) {
    threads.emplace_back([&, i] { MakeStreams(server.address(), i, tally); });
  }
  std::vector<double> resident;
  int64_t num_threads = 0;
  for (int second = 0; second < seconds || tally.calls < calls; ++second) {
    absl::SleepFor(absl::Seconds(1));
    resident.push_back(static_cast<double>(server.ResidentBytes()));
    if (second == seconds / 2) num_threads = server.NumThreads();
    if (second % std::max(1, seconds / 10) == 0) {
      std::printf("%4d s: %.1f MiB, %ld descriptors, %ld threads, %ld calls, %ld streams\n", second,
                  resident.back() / (1 << 20), static_cast<long>(server.NumDescriptors()),
                  static_cast<long>(server.NumThreads()), static_cast<long>(tally.calls),
                  static_cast<long>(tally.streams));
      std::fflush(stdout);
    }
  }
  const int64_t threads_left = server.NumThreads() - num_threads;
  tally.stop = true;
  for (std::thread& thread : threads) thread.join();
  const size_t half = resident.size() / 2, quarter = resident.size() / 4;
  const double growth = MeanOf(resident, resident.size() - quarter, resident.size()) /
                        MeanOf(resident, half, half + quarter);
  absl::SleepFor(absl::Seconds(3));  // connections that are closed are looked at every second
  const int64_t descriptors_left = server.NumDescriptors() - descriptors;
  std::printf("%ld small calls, %ld streams, of which %ld cancelled and %ld bad; %ld failed\n",
              static_cast<long>(tally.calls), static_cast<long>(tally.streams),
              static_cast<long>(tally.cancelled), static_cast<long>(tally.bad),
              static_cast<long>(tally.failed));
  std::printf(
      "memory, last quarter to the one before: %.4f; descriptors left: %ld; threads: %+ld\n",
      growth, static_cast<long>(descriptors_left), static_cast<long>(threads_left));
  const bool ok = tally.failed == 0 && growth <= 1.02 && descriptors_left <= 0 && threads_left <= 2;
  std::printf("%s\n", ok ? "ok" : "FAILED");
  std::filesystem::remove_all(folder);
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace quantd::bench

int main(int argc, char** argv) { return quantd::bench::Main(argc, argv); }
