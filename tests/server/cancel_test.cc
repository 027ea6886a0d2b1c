// What the server still does for calls that nobody wants any more.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/server/stub_client.h"

namespace quantd::testing {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

std::unique_ptr<QuantdServer> ServerWithMetrics() {
  ServerOptions options;
  options.listen = {"127.0.0.1:0"};
  options.threads = 2;
  options.metrics = "0";
  return StartServer(options);
}

// Returns the value of a sample; 0 where there is none.
double Sample(const QuantdServer& server, const std::string& name_and_labels) {
  const std::string text = server.MetricsText();
  const size_t at = text.find(absl::StrCat("\n", name_and_labels, " "));
  return at == std::string::npos ? 0 : std::stod(text.substr(at + name_and_labels.size() + 2));
}

// A call is counted as over a moment before it is destroyed, and gives its memory back then.
void WaitForTheEnd(const QuantdServer& server) {
  const absl::Time deadline = absl::Now() + absl::Seconds(60);
  while (server.active_calls() > 0 || server.budget().used_bytes() > 0) {
    ASSERT_LT(absl::Now(), deadline) << server.budget().used_bytes() << " bytes are held";
    absl::SleepFor(absl::Milliseconds(1));
  }
}

using Stream = std::unique_ptr<
    grpc::ClientReaderWriter<v1::StreamingQuantizeRequest, v1::StreamingQuantizeResponse>>;

// Sends a tensor of eight windows, but for the last value: of a whole tensor's range, none of it
// can be encoded yet.
Stream SendNearlyAll(v1::QuantizationService::Stub& stub, grpc::ClientContext& context) {
  Stream stream = stub.StreamingQuantize(&context);
  QuantizeFrames frames;
  frames.Open(1, QuantizeStartOf(F32Tensor("t", {1 << 21}), "int8"));
  const std::string values((size_t{8} << 20) - 4, '\0');
  frames.Chunks(1, "values", values, size_t{1} << 20);
  for (const auto& frame : frames.all()) EXPECT_TRUE(stream->Write(frame));
  return stream;
}

grpc::StatusCode EndOf(Stream& stream) {
  v1::StreamingQuantizeResponse frame;
  while (stream->Read(&frame)) {
  }
  return stream->Finish().error_code();
}

TEST(Cancellation, EndsATensorThatIsBuffered) {
  const auto server = ServerWithMetrics();
  const auto stub = StubOf(*server);
  grpc::ClientContext context;
  Stream stream = SendNearlyAll(*stub, context);
  while (server->budget().used_bytes() < (8 << 20)) absl::SleepFor(absl::Milliseconds(1));
  context.TryCancel();
  EXPECT_EQ(EndOf(stream), grpc::StatusCode::CANCELLED);
  WaitForTheEnd(*server);
  EXPECT_EQ(Sample(*server, "quantd_stripes_encoded_total{scheme=\"int8\"}"), 0);
  EXPECT_EQ(Sample(*server, "quantd_requests_total{code=\"CANCELLED\",rpc=\"StreamingQuantize\"}"),
            1);
  EXPECT_EQ(Sample(*server,
                   "quantd_tensors_total{outcome=\"cancelled\",rpc=\"StreamingQuantize\","
                   "scheme=\"int8\"}"),
            1);
}

TEST(Cancellation, OfADeadlineIsCountedAsThat) {
  const auto server = ServerWithMetrics();
  const auto stub = StubOf(*server);
  {  // makes the connection
    grpc::ClientContext context;
    v1::GetServerInfoResponse info;
    ASSERT_TRUE(stub->GetServerInfo(&context, {}, &info).ok());
  }
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(3));
  Stream stream = SendNearlyAll(*stub, context);
  EXPECT_EQ(EndOf(stream), grpc::StatusCode::DEADLINE_EXCEEDED);
  WaitForTheEnd(*server);
  EXPECT_EQ(Sample(*server, "quantd_stripes_encoded_total{scheme=\"int8\"}"), 0);
  EXPECT_EQ(Sample(*server,
                   "quantd_requests_total{code=\"DEADLINE_EXCEEDED\",rpc=\"StreamingQuantize\"}"),
            1);
}

// A server encodes ahead of a peer that does not read, up to the 4 MiB that it queues for it and
// what is on its way. Of a tensor of 64 windows of 256 KiB that is less than half; the peer's
// cancellation is the end of it.
TEST(Cancellation, StopsTheWorkOfATensorThatIsUnderWay) {
  const auto server = ServerWithMetrics();
  const auto stub = StubOf(*server);
  grpc::ClientContext context;
  Stream stream = stub->StreamingQuantize(&context);
  std::thread writer([&] {
    QuantizeFrames frames;
    frames.Open(1, QuantizeStartOf(F32Tensor("t", {4096, 4096}), "int8:axis=0"));
    frames.Chunks(1, "values", std::string(size_t{64} << 20, '\0'), size_t{1} << 20).End(1);
    for (const auto& frame : frames.all()) {
      if (!stream->Write(frame)) break;
    }
  });
  v1::StreamingQuantizeResponse frame;
  bool any_chunk = false;
  while (!any_chunk && stream->Read(&frame)) any_chunk = frame.has_chunk();
  EXPECT_TRUE(any_chunk);
  context.TryCancel();
  writer.join();
  EXPECT_EQ(EndOf(stream), grpc::StatusCode::CANCELLED);
  WaitForTheEnd(*server);
  const double windows = Sample(*server, "quantd_stripes_encoded_total{scheme=\"int8\"}");
  EXPECT_GE(windows, 1);
  EXPECT_LE(windows, 32);
  const std::string text = server->MetricsText();
  EXPECT_THAT(text, HasSubstr("outcome=\"ok\""));
  EXPECT_THAT(text, Not(ContainsRegex("outcome=\"ok\"[^\n]* [1-9]")));
}

TEST(Cancellation, OfAUnaryCallThatWaitsIsMeasured) {
  ServerOptions options;
  options.listen = {"127.0.0.1:0"};
  options.threads = 2;
  options.memory_budget_bytes = int64_t{48} << 20;
  options.metrics = "0";
  const auto server = StartServer(options);
  const auto stub = StubOf(*server);
  grpc::ClientContext holder_context;
  Stream holder = SendNearlyAll(*stub, holder_context);
  while (server->budget().used_bytes() < (8 << 20)) absl::SleepFor(absl::Milliseconds(1));
  grpc::ClientContext context;
  std::thread canceller([&] {
    while (Sample(*server, "quantd_waiting_calls") != 1) absl::SleepFor(absl::Milliseconds(1));
    context.TryCancel();
  });
  v1::QuantizeRequest request;
  *request.mutable_start() = QuantizeStartOf(F32Tensor("t", {1 << 21}), "int8");
  request.set_data(std::string(size_t{8} << 20, '\0'));
  v1::QuantizeResponse response;
  EXPECT_EQ(stub->Quantize(&context, request, &response).error_code(), grpc::StatusCode::CANCELLED);
  canceller.join();
  holder_context.TryCancel();
  EndOf(holder);
  WaitForTheEnd(*server);
  EXPECT_EQ(Sample(*server, "quantd_memory_wait_seconds_count{rpc=\"Quantize\"}"), 1);
  EXPECT_EQ(Sample(*server, "quantd_requests_total{code=\"CANCELLED\",rpc=\"Quantize\"}"), 1);
  EXPECT_EQ(Sample(*server,
                   "quantd_tensors_total{outcome=\"failed\",rpc=\"Quantize\","
                   "scheme=\"int8\"}"),
            0);
}

}  // namespace
}  // namespace quantd::testing
