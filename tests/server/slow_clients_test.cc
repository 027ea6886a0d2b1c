// Clients that trickle, beside one that does not.
#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "tests/server/stub_client.h"
#include "tests/support/temp_dir.h"

namespace quantd::testing {
namespace {

constexpr int kSlowWriters = 5, kSlowReaders = 3;
// A stream holds 12 MiB of the 96 beside its tensor, so that a caller's 72 are not enough for six.
constexpr int64_t kBudgetBytes = int64_t{96} << 20;
constexpr int kMostSlowOnesServed = 5;

using Stream = std::unique_ptr<
    grpc::ClientReaderWriter<v1::StreamingQuantizeRequest, v1::StreamingQuantizeResponse>>;

// One stream of the caller with this token.
struct Call {
  Call(v1::QuantizationService::Stub& stub, const std::string& token) {
    context.AddMetadata("authorization", "Bearer " + token);
    stream = stub.StreamingQuantize(&context);
  }
  grpc::ClientContext context;
  Stream stream;
};

// Sends a value at a time, and reads nothing.
class SlowWriter {
 public:
  explicit SlowWriter(v1::QuantizationService::Stub& stub) : call_(stub, "secret-a") {
    QuantizeFrames frames;
    frames.Open(1, QuantizeStartOf(F32Tensor("slow", {1024, 1024}), "int8:axis=0"));
    EXPECT_TRUE(call_.stream->Write(frames.all().front()));
  }
  ~SlowWriter() {
    call_.context.TryCancel();
    call_.stream->Finish();
  }
  void SendOneValue() {
    QuantizeFrames frames;
    frames.Chunk(1, "values", sent_bytes_, std::string(4, '\0'));
    EXPECT_TRUE(call_.stream->Write(frames.all().front()));
    sent_bytes_ += 4;
  }

 private:
  Call call_;
  int64_t sent_bytes_ = 0;
};

// Sends everything, and reads nothing, so that responses pile up until the server stops.
class SlowReader {
 public:
  explicit SlowReader(v1::QuantizationService::Stub& stub)
      : call_(stub, "secret-a"), writer_([this] {
          QuantizeFrames frames;
          frames.Open(1, QuantizeStartOf(F32Tensor("slow", {8192, 1024}), "int8:axis=0"));
          frames.Chunks(1, "values", std::string(size_t{32} << 20, '\0'), size_t{1} << 20).End(1);
          for (const auto& frame : frames.all()) {
            if (!call_.stream->Write(frame)) break;
          }
        }) {}
  ~SlowReader() {
    call_.context.TryCancel();
    writer_.join();
    call_.stream->Finish();
  }

 private:
  Call call_;
  std::thread writer_;
};

TEST(SlowClients, DoNotStarveAFastOne) {
  const TempDir folder;
  // SHA-256 of "secret-a" and "secret-b".
  std::ofstream(folder / "tokens")
      << "slow 8766b9cb08e6040b704f1e3ee1e186efccf2635b1d2634d6525333007e6aeae1\n"
      << "fast ff492ef788c89b555e6f738b33d2422f57dbb6656af2402155672c5f123a90af\n";
  ServerOptions options;
  options.listen = {"127.0.0.1:0"};
  options.threads = 2;
  options.memory_budget_bytes = kBudgetBytes;
  options.max_wait = absl::InfiniteDuration();
  options.access.tokens_path = folder / "tokens";
  const auto server = StartServer(options);
  const auto slow_stub = StubOf(*server), fast_stub = StubOf(*server);
  std::vector<std::unique_ptr<SlowWriter>> writers;
  std::vector<std::unique_ptr<SlowReader>> readers;
  for (int i = 0; i < kSlowReaders; ++i)
    readers.push_back(std::make_unique<SlowReader>(*slow_stub));
  for (int i = 0; i < kSlowWriters; ++i)
    writers.push_back(std::make_unique<SlowWriter>(*slow_stub));
  // They have all that they can have, and want more.
  while (server->waiting_calls() < kSlowReaders + kSlowWriters - kMostSlowOnesServed) {
    absl::SleepFor(absl::Milliseconds(1));
  }

  const TensorDesc tensor = F32Tensor("fast", {256, 1024});
  const std::string values = RandomF32(1 << 18, 7);
  QuantizeFrames frames;
  frames.Open(1, QuantizeStartOf(tensor, "int8:axis=0"));
  frames.Chunks(1, "values", values, size_t{64} << 10).End(1);
  Call fast(*fast_stub, "secret-b");
  for (const auto& frame : frames.all()) {  // a step of each of the slow ones for one of its own
    ASSERT_TRUE(fast.stream->Write(frame));
    for (const auto& writer : writers) writer->SendOneValue();
  }
  fast.stream->WritesDone();
  Answer<v1::StreamingQuantizeResponse> answer;
  v1::StreamingQuantizeResponse frame;
  while (fast.stream->Read(&frame)) answer.Add(frame);
  EXPECT_TRUE(fast.stream->Finish().ok());
  ExpectQuantized(answer, *QuantizeHere("int8:axis=0", tensor, values));
  EXPECT_GE(server->active_calls(), kSlowReaders + kSlowWriters);  // none of them has ended
}

}  // namespace
}  // namespace quantd::testing
