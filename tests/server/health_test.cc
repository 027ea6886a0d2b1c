// grpc.health.v1 as the server answers it.
#include <google/protobuf/wrappers.pb.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "client/client.h"
#include "tests/server/stub_client.h"

namespace quantd::testing {
namespace {

constexpr char kWatch[] = "/grpc.health.v1.Health/Watch";
constexpr char kCheck[] = "/grpc.health.v1.Health/Check";
constexpr int kServing = 1, kNotServing = 2, kServiceUnknown = 3;

std::string Asking(const std::string& service) {
  google::protobuf::StringValue request;
  request.set_value(service);
  return request.SerializeAsString();
}

// Reads the next status; nothing at the end.
std::optional<int> StatusFrom(RawCall& call) {
  const std::optional<std::string> message = call.Read();
  google::protobuf::Int32Value response;
  if (!message.has_value() || !response.ParseFromString(*message)) return std::nullopt;
  return response.value();
}

TEST(Health, Check) {
  const auto server = StartTcpServer();
  const auto channel = ChannelTo(server->addresses().front());
  for (const char* service : {"", "quantd.v1.QuantizationService"}) {
    RawCall call(channel, kCheck);
    EXPECT_TRUE(call.Write(Asking(service)));
    EXPECT_EQ(StatusFrom(call), kServing) << service;
    EXPECT_TRUE(call.Finish().ok());
  }
  RawCall call(channel, kCheck);
  EXPECT_TRUE(call.Write(Asking("another.Service")));
  EXPECT_EQ(StatusFrom(call), std::nullopt);
  EXPECT_EQ(call.Finish().error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST(Health, WatchersAreToldOfTheStopAndHoldNoDrain) {
  const auto server = StartTcpServer();
  const auto channel = ChannelTo(server->addresses().front());
  RawCall known(channel, kWatch), unknown(channel, kWatch), silent(channel, kWatch);
  EXPECT_TRUE(known.Write(Asking("quantd.v1.QuantizationService")));
  known.WritesDone();
  EXPECT_EQ(StatusFrom(known), kServing);
  EXPECT_TRUE(unknown.Write(Asking("another.Service")));
  EXPECT_EQ(StatusFrom(unknown), kServiceUnknown);
  EXPECT_EQ(server->active_calls(), 0);
  server->Shutdown(absl::InfiniteDuration());
  EXPECT_EQ(StatusFrom(known), kNotServing);
  EXPECT_EQ(StatusFrom(known), std::nullopt);
  EXPECT_TRUE(known.Finish().ok());
  EXPECT_EQ(StatusFrom(unknown), kServiceUnknown);
  EXPECT_FALSE(silent.Finish().ok());
}

TEST(Health, WatchesAreBoundedAndKeepNobodyOut) {
  ServerOptions options;
  options.listen = {"127.0.0.1:0"};
  options.threads = 2;
  options.max_caller_streams = 3;
  const auto server = StartServer(options);
  const auto channel = ChannelTo(server->addresses().front());
  std::vector<std::unique_ptr<RawCall>> watches;
  for (int i = 0; i < 3; ++i) {
    watches.push_back(std::make_unique<RawCall>(channel, kWatch));
    EXPECT_TRUE(watches.back()->Write(Asking("")));
    EXPECT_EQ(StatusFrom(*watches.back()), kServing);
  }
  RawCall fourth(channel, kWatch);
  EXPECT_EQ(StatusFrom(fourth), std::nullopt);
  const grpc::Status status = fourth.Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED) << status.error_message();
  const auto stub = StubOf(*server);
  QuantizeFrames frames;
  const std::string values = RandomF32(64, 1);
  frames.Open(1, QuantizeStartOf(F32Tensor("t", {64}), "int8")).Chunk(1, "", 0, values).End(1);
  EXPECT_TRUE(Exchange(*stub, frames).tensors.at(1).has_end);
  watches.pop_back();
  for (int tries = 0; tries < 1000; ++tries) {  // until the server has heard of that
    RawCall again(channel, kWatch);
    again.Write(Asking(""));
    if (StatusFrom(again) == kServing) return;
    absl::SleepFor(absl::Milliseconds(5));
  }
  FAIL() << "a place that was given up is not to be had";
}

// A probe that fails under load would have the server killed.
TEST(Health, IsAnsweredWhereNobodyElseFindsRoom) {
  ServerOptions options;
  options.listen = {"127.0.0.1:0"};
  options.threads = 2;
  options.memory_budget_bytes = int64_t{16} << 20;
  options.max_waiting_calls = 1;
  const auto server = StartServer(options);
  const auto channel = ChannelTo(server->addresses().front());
  std::vector<std::unique_ptr<RawCall>> silent;
  for (int i = 0; i < 13; ++i) {  // of 12 places
    silent.push_back(std::make_unique<RawCall>(
        channel, "/quantd.v1.QuantizationService/StreamingQuantize"));
  }
  EXPECT_EQ(silent.back()->Finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(Client::Connect(server->addresses().front())->CheckHealth().ok());
}

}  // namespace
}  // namespace quantd::testing
