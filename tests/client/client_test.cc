#include "client/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/server.h"
#include "tests/client/fake_server.h"

namespace quantd {
namespace {

using ::testing::HasSubstr;

TensorDesc MakeDesc(const std::string& name, std::vector<int64_t> dims, DType dtype = DType::kF32) {
  return {name, dtype, Shape::Make(std::move(dims)).value()};
}

QuantSpec Spec(absl::string_view text) { return ParseSpec(text).value(); }

// Values of a tensor, neither smooth nor random.
std::vector<float> Values(size_t count, uint32_t seed = 1) {
  std::vector<float> values(count);
  for (float& value : values) {
    seed = seed * 1664525u + 1013904223u;
    value = static_cast<float>(static_cast<int32_t>(seed)) * 0x1p-29f;
  }
  return values;
}

std::span<const std::byte> BytesOf(const std::vector<float>& values) {
  return std::as_bytes(std::span(values));
}

CallOptions FastRetries() {
  CallOptions options;
  options.first_backoff = absl::Milliseconds(1);
  return options;
}

// Memory that gives its bytes once, like a pipe.
class OnceSource final : public ByteSource {
 public:
  explicit OnceSource(std::span<const std::byte> bytes) : source_(bytes) {}
  int64_t size_bytes() const override { return source_.size_bytes(); }
  absl::StatusOr<SourcePiece> Next(int64_t max_bytes) override { return source_.Next(max_bytes); }
  bool can_rewind() const override { return false; }
  absl::Status Rewind() override { return absl::FailedPreconditionError("once only"); }

 private:
  MemorySource source_;
};

// Fails after some bytes.
class BrokenSink final : public PlaneSink {
 public:
  absl::Status Begin(std::span<const PlaneDesc>) override { return absl::OkStatus(); }
  absl::Status Write(int, int64_t, std::span<const std::byte>) override {
    return absl::ResourceExhaustedError("disk full");
  }
};

class FakeServerTest : public ::testing::Test {
 protected:
  absl::StatusOr<QuantizedInfo> Quantize(ByteSource& source, PlaneSink& sink) {
    const Client client = server_.client();
    return client.Quantize({.tensor = MakeDesc("x", {4, 8}),
                            .spec = Spec("int8"),
                            .source = &source,
                            .sink = &sink,
                            .ranges = {},
                            .plan = {}},
                           FastRetries());
  }
  absl::StatusOr<QuantizedInfo> Quantize() {
    MemorySource source(BytesOf(values_));
    sink_ = MemorySink();
    return Quantize(source, sink_);
  }

  FakeServer server_;
  const std::vector<float> values_ = Values(32);
  MemorySink sink_;
};

TEST_F(FakeServerTest, TakesAnHonestAnswer) {
  const absl::StatusOr<QuantizedInfo> info = Quantize();
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->attempts, 1);
  EXPECT_EQ(info->plan.resolved_spec, "fake");
  ASSERT_EQ(sink_.planes().size(), 1u);
  ASSERT_EQ(sink_.planes()[0].size(), 32u);
  for (size_t i = 0; i < 32; ++i) EXPECT_EQ(sink_.planes()[0][i], BytesOf(values_)[4 * i]);
}

TEST_F(FakeServerTest, FindsEveryLie) {
  const std::vector<std::pair<Lie, std::string>> lies = {
      {Lie::kOtherName, "about other"},
      {Lie::kOtherShape, "[4, 8, 1]"},
      {Lie::kOtherSpec, "spec other"},
      {Lie::kOtherPlane, "other planes"},
      {Lie::kUnaddedPlanes, "an output of 1"},
      {Lie::kHugePlane, "an output of"},
      {Lie::kNoStart, "did not announce"},
      {Lie::kWrongCrc, "checksum of plane codes"},
      {Lie::kWrongOffset, "bytes 1 to"},
      {Lie::kTooManyBytes, "of plane codes where 0 of 32"},
      {Lie::kTooFewBytes, "16 of 32 bytes of plane codes"},
      {Lie::kUnknownPlane, "did not announce"},
      {Lie::kWrongDigest, "digest of plane codes"},
      {Lie::kNoDigest, "digest of plane codes"},
      {Lie::kUnknownTensor, "which is not open"},
  };
  for (const auto& [lie, text] : lies) {
    server_.lie = lie;
    const absl::Status status = Quantize().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << text << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
  }
}

TEST_F(FakeServerTest, SendsATensorAgainWhenTheStreamBreaks) {
  server_.streams_to_break = 2;
  const absl::StatusOr<QuantizedInfo> info = Quantize();
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->attempts, 3);
  EXPECT_EQ(server_.streams, 3);
  EXPECT_EQ(sink_.planes()[0].size(), 32u);
}

TEST_F(FakeServerTest, SendsARefusedTensorAgain) {
  server_.tensors_to_refuse = 1;
  const absl::StatusOr<QuantizedInfo> info = Quantize();
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->attempts, 2);
}

TEST_F(FakeServerTest, GivesUpAfterTheLastAttempt) {
  server_.streams_to_break = 100;
  const absl::Status status = Quantize().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(status.message(), "going down");
  EXPECT_EQ(server_.streams, CallOptions().max_attempts);
}

TEST_F(FakeServerTest, TreatsAnEarlyEndAsUnavailable) {
  server_.lie = Lie::kEndsEarly;
  EXPECT_EQ(Quantize().status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(FakeServerTest, DoesNotSendAPipeAgain) {
  server_.streams_to_break = 1;
  OnceSource source(BytesOf(values_));
  EXPECT_EQ(Quantize(source, sink_).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(server_.streams, 1);
}

TEST_F(FakeServerTest, ReportsWhatTheSinkSays) {
  BrokenSink sink;
  MemorySource source(BytesOf(values_));
  const absl::Status status = Quantize(source, sink).status();
  EXPECT_EQ(status, absl::ResourceExhaustedError("disk full"));
}

TEST_F(FakeServerTest, CalibratesFirstWhereThePlanSaysTwoPasses) {
  server_.two_pass = true;
  const absl::StatusOr<QuantizedInfo> info = Quantize();
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_TRUE(info->two_pass);
  EXPECT_EQ(server_.calibrations, 1);
}

TEST_F(FakeServerTest, TellsAPipeTheWaysOutOfTwoPasses) {
  server_.two_pass = true;
  OnceSource source(BytesOf(values_));
  const absl::Status status = Quantize(source, sink_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  for (const char* way : {"file", "range=", "budget", "axis=0", "group=N"}) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(way));
  }
  EXPECT_EQ(server_.starts, 0);
}

TEST_F(FakeServerTest, RefusesASourceOfAnotherSize) {
  MemorySource source(BytesOf(values_).first(100));
  const absl::Status status = Quantize(source, sink_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("128"));
}

TEST(ClientTest, WaitsUntilTheServerIsThere) {
  const std::string address =
      absl::StrCat("unix:", testing::TempDir(), "/quantd-ready-", getpid(), ".sock");
  const Client client = Client::Connect(address).value();
  EXPECT_EQ(client.WaitForReady(absl::Now() + absl::Milliseconds(20)).code(),
            absl::StatusCode::kDeadlineExceeded);
  ServerOptions options;
  options.listen = {address};
  const auto server = QuantdServer::Start(options);
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_TRUE(client.WaitForReady(absl::Now() + absl::Seconds(60)).ok());
}

TEST(ClientTest, SaysThatNobodyListens) {
  const Client client = Client::Connect("unix:/nonexistent/quantd.sock").value();
  EXPECT_EQ(client.GetServerInfo().status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(client.CheckHealth().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Client::Connect("").status().code(), absl::StatusCode::kInvalidArgument);
}

// As with a server that is not up yet: what fails is made again, and nothing else.
TEST(ClientTest, MakesQueriesAgain) {
  FakeServer server;
  std::vector<TensorDesc> tensors(200, MakeDesc("x", {4}));
  server.queries_to_refuse = 150;
  const auto plans = server.client().PlanMany(tensors, Spec("int8"), FastRetries());
  ASSERT_EQ(plans.size(), tensors.size());
  for (const auto& plan : plans) EXPECT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(server.queries, 200 + 150);

  server.queries = 0;
  server.queries_to_refuse = 2;
  EXPECT_TRUE(server.client().GetServerInfo(FastRetries()).ok());
  EXPECT_EQ(server.queries, 3);
}

TEST(ClientTest, GivesUpQueriesAfterTheLastAttempt) {
  FakeServer server;
  server.queries_to_refuse = 1000;
  EXPECT_EQ(server.client().Plan(MakeDesc("x", {4}), Spec("int8"), FastRetries()).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(server.queries, CallOptions().max_attempts);
}

TEST(ClientTest, KeepsTheDeadline) {
  FakeServer server;
  CallOptions options;
  options.deadline = absl::Now() - absl::Seconds(1);
  EXPECT_EQ(server.client().Plan(MakeDesc("x", {4}), Spec("int8"), options).status().code(),
            absl::StatusCode::kDeadlineExceeded);
}

class RealServerTest : public ::testing::Test {
 protected:
  static std::unique_ptr<QuantdServer> Start(int64_t session_budget_bytes) {
    ServerOptions options;
    options.threads = 2;
    options.memory_budget_bytes = int64_t{256} << 20;
    options.session_budget_bytes = session_budget_bytes;
    return QuantdServer::Start(options).value();
  }
  static Client ClientOf(QuantdServer& server) {
    return Client(server.InProcessChannel(ClientChannelArguments()));
  }
};

TEST_F(RealServerTest, QuantizesManyAndGetsThemBack) {
  const auto server = Start(int64_t{64} << 20);
  const Client client = ClientOf(*server);
  constexpr size_t kTensors = 40;
  std::vector<std::vector<float>> values;
  std::vector<std::unique_ptr<MemorySource>> sources;
  std::vector<MemorySink> sinks(kTensors);
  std::vector<QuantizeJob> jobs;
  for (size_t i = 0; i < kTensors; ++i) {
    values.push_back(Values(i * 1000, static_cast<uint32_t>(i + 1)));
    sources.push_back(std::make_unique<MemorySource>(BytesOf(values[i])));
    jobs.push_back({.tensor = MakeDesc("t" + std::to_string(i), {static_cast<int64_t>(i), 1000}),
                    .spec = Spec("int8:axis=0"),
                    .source = sources[i].get(),
                    .sink = &sinks[i],
                    .ranges = {},
                    .plan = {}});
  }
  CallOptions options;
  options.streams = 2;
  options.chunk_bytes = 4096;
  const auto results = client.QuantizeMany(jobs, options);
  for (size_t i = 0; i < kTensors; ++i) {
    ASSERT_TRUE(results[i].ok()) << i << ": " << results[i].status();
    DequantizeJob back{.tensor = jobs[i].tensor,
                       .spec = Spec(results[i]->plan.resolved_spec),
                       .output_dtype = DType::kF32,
                       .planes = {},
                       .sink = nullptr};
    std::vector<std::unique_ptr<MemorySource>> planes;
    for (size_t k = 0; k < results[i]->plan.planes.size(); ++k) {
      planes.push_back(std::make_unique<MemorySource>(sinks[i].planes()[k]));
      back.planes.push_back({results[i]->plan.planes[k].name, planes.back().get()});
    }
    MemorySink decoded;
    back.sink = &decoded;
    const auto info = client.Dequantize(back);
    ASSERT_TRUE(info.ok()) << i << ": " << info.status();
    EXPECT_EQ(info->plane_digests, results[i]->report.digests);
    for (size_t k = 0; k < values[i].size(); ++k) {
      float y;
      std::memcpy(&y, decoded.planes()[0].data() + 4 * k, 4);
      ASSERT_NEAR(y, values[i][k], 4.0 / 127) << "tensor " << i << " element " << k;
    }
  }
}

TEST_F(RealServerTest, TwoPassesGiveTheBytesOfOne) {
  const std::vector<float> values = Values(3 << 20);
  const TensorDesc tensor = MakeDesc("big", {3, 1 << 20});
  std::vector<MemorySink> sinks(2);
  std::vector<QuantizedInfo> infos;
  for (const int64_t budget : {int64_t{64} << 20, int64_t{4} << 20}) {
    const auto server = Start(budget);
    MemorySource source(BytesOf(values));
    const auto info = ClientOf(*server).Quantize({.tensor = tensor,
                                                  .spec = Spec("int8"),
                                                  .source = &source,
                                                  .sink = &sinks[infos.size()],
                                                  .ranges = {},
                                                  .plan = {}});
    ASSERT_TRUE(info.ok()) << info.status();
    infos.push_back(*info);
  }
  EXPECT_FALSE(infos[0].two_pass);
  EXPECT_TRUE(infos[1].two_pass);
  EXPECT_EQ(infos[0].plan.resolved_spec, infos[1].plan.resolved_spec);
  EXPECT_EQ(infos[0].report.digests, infos[1].report.digests);
  EXPECT_EQ(sinks[0].planes(), sinks[1].planes());
  EXPECT_EQ(infos[0].report.figures.error_energy, infos[1].report.figures.error_energy);
}

TEST_F(RealServerTest, ABadTensorLeavesTheOthersAlone) {
  const auto server = Start(int64_t{64} << 20);
  std::vector<float> good = Values(64), bad = Values(64);
  bad[17] = std::numeric_limits<float>::quiet_NaN();
  MemorySource bad_source(BytesOf(bad)), good_source(BytesOf(good));
  MemorySink bad_sink, good_sink;
  const auto results = ClientOf(*server).QuantizeMany({{.tensor = MakeDesc("bad", {8, 8}),
                                                        .spec = Spec("int8:nonfinite=reject"),
                                                        .source = &bad_source,
                                                        .sink = &bad_sink,
                                                        .ranges = {},
                                                        .plan = {}},
                                                       {.tensor = MakeDesc("good", {8, 8}),
                                                        .spec = Spec("int8"),
                                                        .source = &good_source,
                                                        .sink = &good_sink,
                                                        .ranges = {},
                                                        .plan = {}}});
  EXPECT_EQ(results[0].status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(results[1].ok()) << results[1].status();
}

TEST_F(RealServerTest, DescribesItself) {
  const auto server = Start(int64_t{64} << 20);
  const Client client = ClientOf(*server);
  EXPECT_TRUE(client.CheckHealth().ok());
  EXPECT_EQ(client.GetServerInfo().value().worker_threads(), 2);
  EXPECT_EQ(client.ListSchemes().value()[0].name(), "int8");
  EXPECT_EQ(client.Plan(MakeDesc("x", {4, 4}), Spec("nonesuch")).status().code(),
            absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace quantd
