// Every transport gives the same bytes, and the client says which one it takes.
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/ascii.h"
#include "client/client.h"
#include "core/scheme/registry.h"
#include "core/session/quantize_session.h"
#include "proto/convert.h"
#include "server/server.h"
#include "tests/support/temp_dir.h"
#include "tests/support/values.h"

namespace quantd {
namespace {

using testing::TempDir;

// A server at all kinds of addresses.
class TransportTest : public ::testing::Test {
 protected:
  TransportTest() { options_.listen = {"127.0.0.1:0", "unix:" + folder_ / "sock"}; }
  void Start() {
    auto server = QuantdServer::Start(options_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  Client ClientOf(Transport transport) const {
    if (transport == Transport::kInProcess) {
      return Client(server_->InProcessChannel(ClientChannelArguments()), transport);
    }
    const size_t address = transport == Transport::kTcp ? 0 : 1;
    return *Client::Connect(
        ConnectOptions{.target = server_->addresses()[address], .transport = transport});
  }
  absl::Status QuantizeBy(const Client& client, ByteSource& source, PlaneSink& sink) const {
    CallOptions options;
    options.first_backoff = absl::Milliseconds(1);
    return client.Quantize({tensor_, *ParseSpec("int8:axis=0"), &source, &sink, {}, {}}, options)
        .status();
  }

  const TempDir folder_;
  ServerOptions options_;
  std::unique_ptr<QuantdServer> server_;
  // Two input slots and a bit.
  const TensorDesc tensor_ = testing::MakeTensor("w", DType::kF32, {2200, 1024});
  const std::vector<std::byte> values_ =
      testing::MakeValues(tensor_, testing::ValueKind::kNormal, 3);
};

class EverySpec : public TransportTest, public ::testing::WithParamInterface<std::string> {};

TEST_P(EverySpec, HasTheSameBytesByEveryTransport) {
  Start();
  const QuantSpec spec = *ParseSpec(GetParam());
  // Weights of the columns, where they are taken.
  QuantizeOptions options;
  if ((*FindScheme(spec.scheme))->info.takes_importance) {
    for (int i = 0; i < 1024; ++i) options.importance.push_back(static_cast<float>(i % 7));
  }
  testing::Bench bench(1);
  const auto here = QuantizeAll(spec, tensor_, values_, options, bench.context());
  ASSERT_TRUE(here.ok()) << here.status();
  std::vector<std::vector<std::byte>> expected_planes = here->planes, expected_values;
  std::string expected_report;
  for (const Transport transport :
       {Transport::kInProcess, Transport::kSharedMemory, Transport::kUnix, Transport::kTcp}) {
    SCOPED_TRACE(std::string(NameOf(transport)));
    const Client client = ClientOf(transport);
    EXPECT_EQ(client.transport(), transport);
    MemorySource source(values_);
    MemorySink sink;
    QuantizeJob quantize{.tensor = tensor_, .spec = spec, .source = &source, .sink = &sink};
    quantize.importance = options.importance;
    const auto info = client.Quantize(std::move(quantize));
    ASSERT_TRUE(info.ok()) << info.status();
    const std::string report = ToProto(info->report, info->plan.planes).DebugString();
    DequantizeJob job{.tensor = tensor_, .spec = *ParseSpec(info->plan.resolved_spec)};
    std::vector<MemorySource> sources;
    for (const auto& plane : sink.planes()) sources.emplace_back(plane);
    for (size_t i = 0; i < sources.size(); ++i) {
      job.planes.push_back({info->plan.planes[i].name, &sources[i]});
    }
    MemorySink back;
    job.sink = &back;
    const auto decoded = client.Dequantize(std::move(job));
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    if (expected_values.empty()) {
      expected_values = back.planes();
      expected_report = report;
    }
    EXPECT_EQ(sink.planes() == expected_planes, true);
    EXPECT_EQ(back.planes() == expected_values, true);
    EXPECT_EQ(report, expected_report);
  }
}

// All schemes, and what is hard of some: a parameter for 256 groups, bands longer than a stripe,
// rules and defaults of a dialect.
std::vector<std::string> Specs() {
  std::vector<std::string> specs = {"nf4:scale_type=nested8", "fp8_e4m3:block=128x128,tail=short",
                                    "int4:dialect=compressed_tensors,group=32",
                                    "int4:outliers=5,group=32",
                                    "int8:axis=0,outliers=3,range=3sigma",
                                    "uint8:axis=-1,scale_type=dyadic16"};
  for (const Scheme* scheme : AllSchemes()) specs.emplace_back(scheme->info.name);
  return specs;
}

INSTANTIATE_TEST_SUITE_P(Schemes, EverySpec, ::testing::ValuesIn(Specs()), [](const auto& info) {
  std::string name = info.param;
  for (char& c : name) c = absl::ascii_isalnum(static_cast<unsigned char>(c)) ? c : '_';
  return name;
});

TEST_F(TransportTest, AutoTakesSharedMemoryWhereThereIsSome) {
  Start();
  const Client client = ClientOf(Transport::kAuto);
  EXPECT_EQ(client.transport(), Transport::kSharedMemory);
  EXPECT_EQ(server_->shared_regions(), 1);
  MemorySource source(values_);
  MemorySink sink;
  EXPECT_TRUE(QuantizeBy(client, source, sink).ok());
  EXPECT_EQ(server_->shared_regions(), 1);  // the same one again
  const Client tcp = *Client::Connect(server_->addresses()[0]);
  EXPECT_EQ(tcp.transport(), Transport::kTcp);
}

TEST_F(TransportTest, AutoGoesWithoutWhereThereIsNone) {
  for (const bool refused : {false, true}) {
    options_.access.shared_memory_bytes = refused ? 4096 : 0;
    server_.reset();
    Start();
    const Client client = ClientOf(Transport::kAuto);
    EXPECT_EQ(client.transport(), Transport::kUnix);
    MemorySource source(values_);
    MemorySink sink;
    EXPECT_TRUE(QuantizeBy(client, source, sink).ok());
    // Who wants nothing else is told.
    const absl::Status status = QuantizeBy(ClientOf(Transport::kSharedMemory), source, sink);
    EXPECT_EQ(status.code(),
              refused ? absl::StatusCode::kResourceExhausted : absl::StatusCode::kUnavailable)
        << status;
  }
}

TEST_F(TransportTest, TransportsThatDoNotLeadThereAreRefused) {
  const auto refused = [](const std::string& target, Transport transport) {
    return absl::IsInvalidArgument(
        Client::Connect(ConnectOptions{.target = target, .transport = transport}).status());
  };
  EXPECT_TRUE(refused("127.0.0.1:1", Transport::kUnix));
  EXPECT_TRUE(refused("127.0.0.1:1", Transport::kSharedMemory));
  EXPECT_TRUE(refused("127.0.0.1:1", Transport::kInProcess));
  EXPECT_TRUE(refused("unix:/x", Transport::kTcp));
  EXPECT_EQ(ParseTransport("pigeon").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(*ParseTransport("shared_memory"), Transport::kSharedMemory);
}

TEST_F(TransportTest, ManyAtOnceShareTheClient) {
  Start();
  const Client client = ClientOf(Transport::kSharedMemory);
  MemorySink expected;
  MemorySource source(values_);
  ASSERT_TRUE(QuantizeBy(client, source, expected).ok());
  std::vector<std::thread> threads;
  std::atomic<int> equal = 0;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 3; ++round) {
        MemorySource own(values_);
        MemorySink sink;
        if (QuantizeBy(client, own, sink).ok()) equal += sink.planes() == expected.planes();
      }
    });
  }
  // Several tensors on one stream, and several streams.
  std::vector<MemorySource> sources(8, MemorySource(values_));
  std::vector<MemorySink> sinks(8);
  std::vector<QuantizeJob> jobs;
  for (size_t i = 0; i < sources.size(); ++i) {
    jobs.push_back({tensor_, *ParseSpec("int8:axis=0"), &sources[i], &sinks[i], {}, {}});
  }
  CallOptions options;
  options.streams = 2;
  for (const auto& info : client.QuantizeMany(std::move(jobs), options)) {
    EXPECT_TRUE(info.ok()) << info.status();
  }
  for (const MemorySink& sink : sinks) EXPECT_EQ(sink.planes() == expected.planes(), true);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(equal, 12);
}

// Gives an error once it has given `good_bytes`.
class BrokenSource final : public ByteSource {
 public:
  BrokenSource(std::span<const std::byte> bytes, int64_t good_bytes)
      : source_(bytes), left_bytes_(good_bytes) {}
  int64_t size_bytes() const override { return source_.size_bytes(); }
  absl::StatusOr<SourcePiece> Next(int64_t max_bytes) override {
    if (left_bytes_ == 0) return absl::DataLossError("broken");
    absl::StatusOr<SourcePiece> piece = source_.Next(std::min(max_bytes, left_bytes_));
    left_bytes_ -= static_cast<int64_t>(piece->bytes.size());
    return piece;
  }
  bool can_rewind() const override { return false; }
  absl::Status Rewind() override { return absl::FailedPreconditionError("once only"); }

 private:
  MemorySource source_;
  int64_t left_bytes_;
};

class BrokenSink final : public PlaneSink {
 public:
  absl::Status Begin(std::span<const PlaneDesc>) override { return absl::OkStatus(); }
  absl::Status Write(int, int64_t, std::span<const std::byte>) override {
    return absl::ResourceExhaustedError("full");
  }
};

TEST_F(TransportTest, ErrorsOnOurSideLeaveTheRegionUsable) {
  Start();
  const Client client = ClientOf(Transport::kSharedMemory);
  MemorySource source(values_);
  MemorySink expected;
  ASSERT_TRUE(QuantizeBy(client, source, expected).ok());
  for (const int64_t good_bytes : {int64_t{0}, int64_t{4} << 20, int64_t{6} << 20}) {
    BrokenSource broken(values_, good_bytes);
    MemorySink sink;
    EXPECT_EQ(QuantizeBy(client, broken, sink).code(), absl::StatusCode::kDataLoss);
  }
  ASSERT_TRUE(source.Rewind().ok());
  BrokenSink full;
  EXPECT_EQ(QuantizeBy(client, source, full).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(server_->shared_regions(), 1);
  ASSERT_TRUE(source.Rewind().ok());
  MemorySink sink;
  EXPECT_TRUE(QuantizeBy(client, source, sink).ok());
  EXPECT_EQ(sink.planes() == expected.planes(), true);
}

TEST_F(TransportTest, FindsAServerThatIsBack) {
  Start();
  const Client client = ClientOf(Transport::kAuto);
  MemorySource source(values_);
  MemorySink first, second;
  ASSERT_TRUE(QuantizeBy(client, source, first).ok());
  server_.reset();
  Start();
  ASSERT_TRUE(source.Rewind().ok());
  CallOptions options;
  const auto info =
      client.Quantize({tensor_, *ParseSpec("int8:axis=0"), &source, &second, {}, {}}, options);
  EXPECT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(first.planes() == second.planes(), true);
  EXPECT_EQ(client.transport(), Transport::kSharedMemory);
}

}  // namespace
}  // namespace quantd
