// Streams that stay on the machine beside a plain loop that does the same work: int8 and fp16 of
// f32 in frames of 4 MiB, figures and digests on. The loop encodes with as many threads as the
// server and digests what comes out twice, as server and client do. "Made in place": frames lie in
// four buffers of a memfd, from and into whose pages the loop works too, and the source makes its
// values there; else they lie in a tensor of 64 MiB, which the client copies into shared memory.
// The server of shared memory and UNIX sockets is a process of its own. GB/s are of f32.
#include <benchmark/benchmark.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/client.h"
#include "client/stream_region.h"
#include "core/base/digest.h"
#include "core/base/mutex.h"
#include "core/exec/allocator.h"
#include "core/session/quantize_session.h"
#include "core/session/stripes.h"
#include "server/server.h"
#include "tests/bench/child_server.h"
#include "tests/bench/load.h"
#include "tests/bench/table.h"

namespace quantd::bench {
namespace {

constexpr int64_t kTensorBytes = int64_t{64} << 20, kFrameBytes = int64_t{4} << 20;
constexpr int kBuffers = StreamRegion::kInputSlots;

std::span<const std::byte> Input() {
  static const std::vector<float> kInput = [] {
    std::vector<float> values(kTensorBytes / sizeof(float));
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 255) - 127.0f;
    return values;
  }();
  return std::as_bytes(std::span(kInput));
}

// Has values in each place that it is given, from the second time on without work.
class InPlaceSource final : public ByteSource {
 public:
  explicit InPlaceSource(std::set<std::byte*>* filled) : filled_(filled) {}
  int64_t size_bytes() const override { return kTensorBytes; }
  absl::StatusOr<SourcePiece> Next(int64_t max_bytes) override {
    const int64_t size_bytes = std::min(max_bytes, kTensorBytes - position_);
    const int64_t from = position_ % (kBuffers * kFrameBytes);
    position_ += size_bytes;
    return SourcePiece{Input().subspan(static_cast<size_t>(from), static_cast<size_t>(size_bytes)),
                       nullptr};
  }
  absl::StatusOr<size_t> Read(std::span<std::byte> out) override {
    if (filled_->insert(out.data()).second)
      std::ranges::copy(Input().first(out.size()), out.data());
    position_ += static_cast<int64_t>(out.size());
    return out.size();
  }
  bool can_rewind() const override { return true; }
  absl::Status Rewind() override {
    position_ = 0;
    return absl::OkStatus();
  }

 private:
  std::set<std::byte*>* const filled_;
  int64_t position_ = 0;
};

const TensorDesc& Tensor() {
  static const TensorDesc kTensor = {"t", DType::kF32,
                                     *Shape::Make({kTensorBytes / 4 / 4096, 4096})};
  return kTensor;
}

// The loop's output: digested once more, and forgotten. Stripes take turns in the memory.
class LoopSink final : public PayloadSink {
 public:
  LoopSink(std::span<std::byte> out, const PackedLayout& layout)
      : out_(out),
        slot_bytes_(MaxCodeBytes(layout, kStripeElems)),
        slots_(std::ssize(out) / slot_bytes_),
        digests_(layout.planes.size()) {}

  SinkMemory Acquire(int64_t, int64_t size_bytes) override {
    if (acquired_ - committed_ == slots_) return std::nullopt;
    return Slot(acquired_++, size_bytes);
  }
  void Commit(int64_t, int64_t size_bytes, uint32_t) override {
    digests_[0].Update(Slot(committed_, size_bytes));
    ++committed_;
    session->Ready();
  }
  void Put(int plane, int64_t, std::span<const std::byte> bytes) override {
    digests_[static_cast<size_t>(plane)].Update(bytes);
  }

  QuantizeSession* session = nullptr;

 private:
  std::span<std::byte> Slot(int64_t stripe, int64_t size_bytes) const {
    return out_.subspan(static_cast<size_t>(stripe % slots_ * slot_bytes_),
                        static_cast<size_t>(size_bytes));
  }

  const std::span<std::byte> out_;
  const int64_t slot_bytes_, slots_;
  int64_t acquired_ = 0;                // stripes
  std::atomic<int64_t> committed_ = 0;  // likewise
  std::vector<PlaneDigest> digests_;
};

void BenchLoop(benchmark::State& state, const std::string& spec, bool in_place) {
  Executor executor(static_cast<int>(std::thread::hardware_concurrency()) - 1);
  BufferPool pool(size_t{64} << 20);
  MemoryBudget budget(int64_t{1} << 30);
  const SessionContext context = {&executor, &pool, &budget};
  const Plan plan = *MakePlan(*ParseSpec(spec), Tensor(), budget.limit_bytes(),
                              {.threads = executor.workers() + 1});
  const auto shared = *SharedMemory::Create((kBuffers + 1) * kFrameBytes);
  std::span<const std::byte> input = Input();
  std::vector<std::byte> own(kFrameBytes);
  std::span<std::byte> out = own;
  if (in_place) {
    out = shared->bytes().last(kFrameBytes);
    input = shared->bytes().first(kBuffers * kFrameBytes);
    std::ranges::copy(Input().first(input.size()), shared->bytes().data());
  }
  for (auto _ : state) {
    LoopSink sink(out, plan.resolved.layout);
    const auto session = *QuantizeSession::Create(plan, {}, sink, context);
    sink.session = session.get();
    for (int64_t at = 0; at < kTensorBytes; at += kFrameBytes) {
      const int64_t from = in_place ? at % (kBuffers * kFrameBytes) : at;
      session->Push({input.subspan(static_cast<size_t>(from), static_cast<size_t>(kFrameBytes)),
                     nullptr});
    }
    session->EndInput();
    session->Await();
    if (!session->Finish().ok()) return state.SkipWithError("the loop does not finish");
  }
  state.SetBytesProcessed(state.iterations() * kTensorBytes);
}

void BenchClient(benchmark::State& state, const Client& client, const std::string& spec,
                 bool in_place) {
  std::set<std::byte*> filled;
  CallOptions options;
  options.chunk_bytes = kFrameBytes;
  const TensorPlan plan = *client.Plan(Tensor(), *ParseSpec(spec));
  for (auto _ : state) {
    MemorySource memory(Input());
    InPlaceSource made(&filled);
    ByteSource* const source = in_place ? static_cast<ByteSource*>(&made) : &memory;
    DiscardSink sink;
    const auto info =
        client.Quantize({Tensor(), *ParseSpec(spec), source, &sink, {}, {}, plan}, options);
    if (!info.ok()) return state.SkipWithError(std::string(info.status().message()).c_str());
  }
  state.SetBytesProcessed(state.iterations() * kTensorBytes);
}

int Main(int argc, char** argv) {
  TuneAllocator();
  SkipDeadlockSearch();
  std::string folder = (std::filesystem::temp_directory_path() / "quantd_bench_XXXXXX").string();
  if (mkdtemp(folder.data()) == nullptr) return 1;
  int exit_code = 1;
  {
    const ChildServer child(
        folder, {QUANTD_PROGRAM, "--listen", absl::StrCat("unix:", folder, "/s"), "--log-level",
                 "off", "--port-file"});
    const auto local = *QuantdServer::Start({});
    std::map<std::string, Client> clients;
    clients.emplace("in-process", Client(local->InProcessChannel(ClientChannelArguments()),
                                         Transport::kInProcess));
    for (const Transport transport : {Transport::kSharedMemory, Transport::kUnix}) {
      clients.emplace(NameOf(transport), *Client::Connect(ConnectOptions{.target = child.address(),
                                                                         .transport = transport}));
    }
    Baselines baselines;
    for (const char* spec : {"int8:scale=1", "int8:axis=0", "fp16"}) {
      for (const bool in_place : {true, false}) {
        const std::string column =
            absl::StrCat(spec, in_place ? ", made in place" : ", from a tensor");
        const auto add = [&](const std::string& row, auto fn) {
          benchmark::RegisterBenchmark(absl::StrCat(row, "/", column).c_str(), fn)->UseRealTime();
        };
        add("plain loop", [=](benchmark::State& state) { BenchLoop(state, spec, in_place); });
        for (const auto& [name, client] : clients) {
          baselines[name] = {"plain loop"};
          add(name, [=, &client = client](benchmark::State& state) {
            BenchClient(state, client, spec, in_place);
          });
        }
      }
    }
    exit_code = RunTable(argc, argv, baselines);
    benchmark::ClearRegisteredBenchmarks();
    clients.clear();
  }
  std::filesystem::remove_all(folder);
  return exit_code;
}

}  // namespace
}  // namespace quantd::bench

int main(int argc, char** argv) { return quantd::bench::Main(argc, argv); }
