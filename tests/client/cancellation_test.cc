#include "client/cancellation.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "client/client.h"
#include "tests/client/fake_server.h"

namespace quantd {
namespace {

TEST(CancellationTest, RunsActionsOnce) {
  Cancellation cancellation;
  int runs = 0;
  {
    const Cancellation::Scope gone(&cancellation, [&runs] { runs += 100; });
  }
  const Cancellation::Scope scope(&cancellation, [&runs] { ++runs; });
  EXPECT_FALSE(cancellation.cancelled());
  EXPECT_FALSE(cancellation.Await(absl::ZeroDuration()));
  cancellation.Cancel();
  cancellation.Cancel();
  EXPECT_EQ(runs, 1);
  EXPECT_TRUE(cancellation.cancelled());
  EXPECT_TRUE(cancellation.Await(absl::InfiniteDuration()));
  const Cancellation::Scope late(&cancellation, [&runs] { ++runs; });
  EXPECT_EQ(runs, 2);
  const Cancellation::Scope none(nullptr, [&runs] { ++runs; });
  EXPECT_EQ(runs, 2);
}

// A tensor of 64 MiB of zeros, which counts what it has given.
class LongSource final : public ByteSource {
 public:
  explicit LongSource(std::atomic<int64_t>* given_bytes) : given_bytes_(given_bytes) {}
  int64_t size_bytes() const override { return int64_t{1} << 26; }
  absl::StatusOr<SourcePiece> Next(int64_t max_bytes) override {
    const size_t bytes = std::min<size_t>(zeros_.size(), static_cast<size_t>(max_bytes));
    *given_bytes_ += static_cast<int64_t>(bytes);
    return SourcePiece{std::span(zeros_).first(bytes), nullptr};
  }
  bool can_rewind() const override { return true; }
  absl::Status Rewind() override { return absl::OkStatus(); }

 private:
  std::vector<std::byte> zeros_ = std::vector<std::byte>(4096);
  std::atomic<int64_t>* const given_bytes_;
};

TEST(CancellationTest, EndsATensorInTheMiddle) {
  FakeServer server;
  const Client client = server.client();
  std::atomic<int64_t> given_bytes = 0, sent_bytes = 0;
  LongSource source(&given_bytes);
  MemorySink sink;
  Cancellation cancellation;
  CallOptions options;
  options.cancellation = &cancellation;
  options.on_sent = [&](int64_t bytes) {
    if ((sent_bytes += bytes) > 100000) cancellation.Cancel();
  };
  const TensorDesc tensor = {"x", DType::kF32, Shape::Make({int64_t{1} << 24}).value()};
  const QuantizeJob job{.tensor = tensor,
                        .spec = ParseSpec("int8").value(),
                        .source = &source,
                        .sink = &sink};
  EXPECT_EQ(client.Quantize(job, options).status().code(), absl::StatusCode::kCancelled);
  EXPECT_GT(sent_bytes, 100000);
  EXPECT_LE(sent_bytes, given_bytes);
}

TEST(CancellationTest, EndsWhatHasNotBegun) {
  FakeServer server;
  Cancellation cancellation;
  cancellation.Cancel();
  CallOptions options;
  options.cancellation = &cancellation;
  const TensorDesc tensor = {"x", DType::kF32, Shape::Make({4}).value()};
  const QuantSpec spec = ParseSpec("int8").value();
  EXPECT_EQ(server.client().Plan(tensor, spec, options).status().code(),
            absl::StatusCode::kCancelled);
  EXPECT_EQ(server.client().GetServerInfo(options).status().code(), absl::StatusCode::kCancelled);
}

// The pause before another attempt ends as well.
TEST(CancellationTest, EndsAPause) {
  FakeServer server;
  server.queries_to_refuse = 1000;
  server.tensors_to_refuse = 1000;
  Cancellation cancellation;
  CallOptions options;
  options.cancellation = &cancellation;
  options.first_backoff = absl::Hours(1);
  const Client client = server.client();
  const TensorDesc tensor = {"x", DType::kF32, Shape::Make({4}).value()};
  const QuantSpec spec = ParseSpec("int8").value();
  std::thread canceller([&] {
    while (server.queries == 0) std::this_thread::yield();
    cancellation.Cancel();
  });
  EXPECT_EQ(client.Plan(tensor, spec, options).status().code(), absl::StatusCode::kCancelled);
  canceller.join();
}

TEST(ProgressTest, CountsWhatGoesAgain) {
  FakeServer server;
  server.streams_to_break = 1;
  std::vector<float> values(1 << 16, 1.0f);
  MemorySource source(std::as_bytes(std::span(values)));
  MemorySink sink;
  std::atomic<int64_t> sent_bytes = 0, went_again = 0;
  CallOptions options;
  options.first_backoff = absl::Milliseconds(1);
  options.on_sent = [&](int64_t bytes) {
    sent_bytes += bytes;
    if (bytes < 0) went_again -= bytes;
  };
  const TensorDesc tensor = {"x", DType::kF32, Shape::Make({1 << 16}).value()};
  const auto info = server.client().Quantize({.tensor = tensor,
                                              .spec = ParseSpec("int8").value(),
                                              .source = &source,
                                              .sink = &sink},
                                             options);
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(sent_bytes, int64_t{1} << 18);
  EXPECT_GT(went_again, 0);
}

// What a first pass has sent goes again too.
TEST(ProgressTest, CountsTwoPassesAsOne) {
  FakeServer server;
  server.two_pass = true;
  std::vector<float> values(1 << 16, 1.0f);
  MemorySource source(std::as_bytes(std::span(values)));
  MemorySink sink;
  std::atomic<int64_t> sent_bytes = 0, went_again = 0;
  CallOptions options;
  options.on_sent = [&](int64_t bytes) {
    sent_bytes += bytes;
    if (bytes < 0) went_again -= bytes;
  };
  QuantizeJob job;
  job.tensor = {"x", DType::kF32, Shape::Make({1 << 16}).value()};
  job.spec = ParseSpec("int8").value();
  job.source = &source;
  job.sink = &sink;
  const auto info = server.client().Quantize(job, options);
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_TRUE(info->two_pass);
  EXPECT_EQ(sent_bytes, int64_t{1} << 18);
  EXPECT_EQ(went_again, int64_t{1} << 18);
}

}  // namespace
}  // namespace quantd
