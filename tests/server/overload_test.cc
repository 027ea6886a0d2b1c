#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "client/client.h"
#include "google/rpc/error_details.pb.h"
#include "tests/server/stub_client.h"
#include "tests/support/temp_dir.h"

// More calls than the memory of the server holds.
namespace quantd::testing {
namespace {

std::unique_ptr<QuantdServer> SmallServer(ServerOptions options = {}) {
  options.listen = {"127.0.0.1:0"};
  options.threads = 2;
  options.memory_budget_bytes = int64_t{48} << 20;
  return StartServer(std::move(options));
}

// Quantizes one tensor by the client library, over a connection of its own.
absl::StatusOr<std::string> DigestOf(const std::string& address, const std::string& spec,
                                     const std::string& values, absl::Time deadline,
                                     absl::Duration patience = CallOptions().crowd_patience,
                                     const std::string& token = "") {
  ConnectOptions connect;
  connect.target = address;
  connect.token = token;
  const auto client = Client::Connect(connect);
  if (!client.ok()) return client.status();
  MemorySource source(AsBytes(values));
  MemorySink sink;
  QuantizeJob job;
  job.tensor = F32Tensor("weights", {static_cast<int64_t>(values.size()) / 1024 / 4, 1024});
  job.spec = *ParseSpec(spec);
  job.source = &source;
  job.sink = &sink;
  CallOptions options;
  options.deadline = deadline;
  options.crowd_patience = patience;
  const auto info = client->Quantize(std::move(job), options);
  if (!info.ok()) return info.status();
  return info->report.digests.front();
}

TEST(Overload, StreamsThatDoNotFitWaitAndAreServed) {
  const auto server = SmallServer();
  const std::string values = RandomF32(1 << 19, 7);
  const auto expected = QuantizeHere("int8", F32Tensor("weights", {512, 1024}), values);
  ASSERT_TRUE(expected.ok()) << expected.status();
  constexpr int kStreams = 24;
  std::vector<absl::StatusOr<std::string>> digests(kStreams, absl::UnknownError("not run"));
  std::vector<std::thread> threads;
  for (int i = 0; i < kStreams; ++i) {
    threads.emplace_back([&, i] {
      digests[static_cast<size_t>(i)] =
          DigestOf(server->addresses().front(), "int8", values, absl::InfiniteFuture());
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& digest : digests) {
    ASSERT_TRUE(digest.ok()) << digest.status();
    EXPECT_EQ(*digest, expected->report.digests.front());
  }
  server->Shutdown(absl::InfiniteDuration());
  EXPECT_EQ(server->budget().used_bytes(), 0);
}

// A stream that has said `start` and then nothing: it holds what its tensor needs.
class Holder {
 public:
  explicit Holder(v1::QuantizationService::Stub& stub)
      : stream_(stub.StreamingQuantize(&context_)) {
    v1::StreamingQuantizeRequest frame;
    frame.set_tensor_id(1);
    *frame.mutable_start() = QuantizeStartOf(F32Tensor("held", {1024, 2048}), "int8");
    stream_->Write(frame);
    v1::StreamingQuantizeResponse response;
    EXPECT_TRUE(stream_->Read(&response));
    EXPECT_TRUE(response.has_start()) << response.ShortDebugString();
  }
  ~Holder() { Release(); }
  void Release() {
    if (stream_ == nullptr) return;
    context_.TryCancel();
    stream_->Finish();
    stream_.reset();
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<
      grpc::ClientReaderWriter<v1::StreamingQuantizeRequest, v1::StreamingQuantizeResponse>>
      stream_;
};

TEST(Overload, AStreamWaitsForMemoryAndGetsIt) {
  const auto server = SmallServer();
  const auto stub = StubOf(*server);
  Holder holder(*stub);
  const std::string values = RandomF32(1 << 21, 3);
  const auto expected = QuantizeHere("int8", F32Tensor("weights", {2048, 1024}), values);
  ASSERT_TRUE(expected.ok()) << expected.status();
  absl::StatusOr<std::string> digest = absl::UnknownError("not run");
  std::thread waits([&] {
    digest = DigestOf(server->addresses().front(), "int8", values, absl::InfiniteFuture());
  });
  while (server->waiting_calls() == 0) absl::SleepFor(absl::Milliseconds(1));
  holder.Release();
  waits.join();
  ASSERT_TRUE(digest.ok()) << digest.status();
  EXPECT_EQ(*digest, expected->report.digests.front());
}

TEST(Overload, WhoWaitsTooLongIsRefusedWithTheNumber) {
  ServerOptions options;
  options.max_wait = absl::Milliseconds(50);
  const auto server = SmallServer(options);
  const auto stub = StubOf(*server);
  const Holder holder(*stub);
  const std::string values = RandomF32(1 << 21, 3);
  const auto digest = DigestOf(server->addresses().front(), "int8", values, absl::InfiniteFuture(),
                               /*patience=*/absl::ZeroDuration());
  EXPECT_TRUE(absl::IsResourceExhausted(digest.status())) << digest.status();
  EXPECT_THAT(std::string(digest.status().message()),
              ::testing::HasSubstr("bytes of memory did not come free within"));
}

// A stream that waits for memory until it is destroyed.
class WaitingStream {
 public:
  WaitingStream(v1::QuantizationService::Stub& stub, const QuantdServer& server)
      : stream_(stub.StreamingQuantize(&context_)) {
    v1::StreamingQuantizeRequest frame;
    frame.set_tensor_id(1);
    *frame.mutable_start() = QuantizeStartOf(F32Tensor("second", {1024, 2048}), "int8");
    stream_->Write(frame);
    while (server.waiting_calls() == 0) absl::SleepFor(absl::Milliseconds(1));
  }
  ~WaitingStream() {
    context_.TryCancel();
    stream_->Finish();
  }

 private:
  grpc::ClientContext context_;
  const std::unique_ptr<
      grpc::ClientReaderWriter<v1::StreamingQuantizeRequest, v1::StreamingQuantizeResponse>>
      stream_;
};

TEST(Overload, ACancelledWaitGivesItsPlaceUp) {
  const auto server = SmallServer();
  const auto stub = StubOf(*server);
  const Holder holder(*stub);
  { const WaitingStream waiting(*stub, *server); }
  while (server->waiting_calls() != 0) absl::SleepFor(absl::Milliseconds(1));
}

TEST(Overload, SmallCallsAreServedWhileStreamsWait) {
  const auto server = SmallServer();
  const auto stub = StubOf(*server);
  const Holder holder(*stub);
  const WaitingStream waiting(*stub, *server);
  grpc::ClientContext context;
  v1::QuantizeRequest request;
  *request.mutable_start() = QuantizeStartOf(F32Tensor("small", {1, 384}), "int8");
  request.set_data(RandomF32(384, 5));
  v1::QuantizeResponse response;
  const grpc::Status status = stub->Quantize(&context, request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
}

// The stream goes on, so the hint cannot be in its trailers.
TEST(Overload, ATensorThatIsRefusedIsToldWhenToComeAgain) {
  ServerOptions options;
  options.max_wait = absl::Milliseconds(50);
  const auto server = SmallServer(options);
  const auto stub = StubOf(*server);
  const Holder holder(*stub);
  QuantizeFrames frames;
  frames.Open(1, QuantizeStartOf(F32Tensor("second", {1024, 2048}), "int8")).End(1);
  const auto answer = Exchange(*stub, frames);
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  ASSERT_TRUE(answer.tensors.at(1).has_error);
  const v1::TensorError& error = answer.tensors.at(1).error.error();
  EXPECT_EQ(error.code(), static_cast<int>(absl::StatusCode::kResourceExhausted));
  google::rpc::RetryInfo retry;
  int hints = 0;
  for (const auto& detail : error.details()) hints += detail.UnpackTo(&retry) ? 1 : 0;
  EXPECT_EQ(hints, 1) << error.ShortDebugString();
  EXPECT_EQ(retry.retry_delay().seconds(), 1);
}

// A unary call that does not fit beside a Holder.
v1::QuantizeRequest LargeUnary(const std::string& values) {
  v1::QuantizeRequest request;
  *request.mutable_start() = QuantizeStartOf(F32Tensor("unary", {2048, 1024}), "int8");
  request.set_data(values);
  return request;
}

// Such a call, made from a thread of its own. Returns when it
// waits for memory.
class WaitingUnary {
 public:
  WaitingUnary(v1::QuantizationService::Stub& stub, const QuantdServer& server,
               const std::string& values)
      : request_(LargeUnary(values)) {
    thread_ =
        std::thread([this, &stub] { status_ = stub.Quantize(&context_, request_, &response_); });
    while (server.waiting_calls() == 0) absl::SleepFor(absl::Milliseconds(1));
  }
  ~WaitingUnary() {
    if (thread_.joinable()) thread_.join();
  }
  const grpc::Status& Join() {
    thread_.join();
    return status_;
  }
  grpc::ClientContext& context() { return context_; }
  const v1::QuantizeResponse& response() const { return response_; }

 private:
  grpc::ClientContext context_;
  const v1::QuantizeRequest request_;
  v1::QuantizeResponse response_;
  grpc::Status status_;
  std::thread thread_;
};

TEST(Overload, AUnaryCallWaitsForMemoryAndGetsIt) {
  const auto server = SmallServer();
  const auto stub = StubOf(*server);
  Holder holder(*stub);
  const std::string values = RandomF32(1 << 21, 3);
  const auto expected = QuantizeHere("int8", F32Tensor("unary", {2048, 1024}), values);
  ASSERT_TRUE(expected.ok()) << expected.status();
  WaitingUnary waiting(*stub, *server, values);
  // It keeps no worker from others meanwhile.
  grpc::ClientContext context;
  v1::GetServerInfoResponse info;
  EXPECT_TRUE(stub->GetServerInfo(&context, {}, &info).ok());
  holder.Release();
  const grpc::Status& status = waiting.Join();
  ASSERT_TRUE(status.ok()) << status.error_message();
  const std::string& codes = waiting.response().planes(0).data();
  EXPECT_TRUE(std::ranges::equal(AsBytes(codes), expected->planes.front()));
  server->Shutdown(absl::InfiniteDuration());
  EXPECT_EQ(server->budget().used_bytes(), 0);
}

TEST(Overload, AUnaryCallThatWaitsTooLongIsRefusedWithTheNumber) {
  ServerOptions options;
  options.max_wait = absl::Milliseconds(50);
  const auto server = SmallServer(options);
  const auto stub = StubOf(*server);
  const Holder holder(*stub);
  grpc::ClientContext context;
  v1::QuantizeResponse response;
  const grpc::Status status =
      stub->Quantize(&context, LargeUnary(RandomF32(1 << 21, 3)), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(),
              ::testing::HasSubstr("bytes of memory did not come free within"));
  EXPECT_EQ(context.GetServerTrailingMetadata().count("grpc-retry-pushback-ms"), 1);
  EXPECT_EQ(server->waiting_calls(), 0);
}

// Where the machine stands still meanwhile, the peer finds its deadline passed; so there are
// several attempts.
TEST(Overload, AUnaryCallIsRefusedBeforeItsDeadline) {
  ServerOptions options;
  options.max_wait = absl::InfiniteDuration();
  const auto server = SmallServer(options);
  const auto stub = StubOf(*server);
  const Holder holder(*stub);
  const v1::QuantizeRequest request = LargeUnary(RandomF32(1 << 21, 3));
  grpc::Status status(grpc::StatusCode::DEADLINE_EXCEEDED, "");
  for (int i = 0; i < 5 && status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED; ++i) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(2));
    v1::QuantizeResponse response;
    status = stub->Quantize(&context, request, &response);
  }
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED) << status.error_message();
}

TEST(Overload, ACancelledUnaryCallGivesItsPlaceUp) {
  const auto server = SmallServer();
  const auto stub = StubOf(*server);
  Holder holder(*stub);
  {
    WaitingUnary waiting(*stub, *server, RandomF32(1 << 21, 3));
    waiting.context().TryCancel();
    EXPECT_EQ(waiting.Join().error_code(), grpc::StatusCode::CANCELLED);
  }
  while (server->waiting_calls() != 0) absl::SleepFor(absl::Milliseconds(1));
  holder.Release();
  server->Shutdown(absl::InfiniteDuration());
  EXPECT_EQ(server->budget().used_bytes(), 0);
}

// More than the waiting room has places for: those beyond it come again when the server says.
TEST(Overload, AHundredClientsAllSucceed) {
  ServerOptions options;
  options.listen = {"127.0.0.1:0"};
  options.threads = 2;
  options.memory_budget_bytes = int64_t{64} << 20;
  options.max_waiting_calls = 48;
  const auto server = StartServer(options);
  constexpr int kClients = 100;
  const std::string values = RandomF32(1 << 18, 7);
  const auto expected = QuantizeHere("int8", F32Tensor("weights", {256, 1024}), values);
  ASSERT_TRUE(expected.ok()) << expected.status();
  std::vector<absl::StatusOr<std::string>> digests(kClients, absl::UnknownError("not run"));
  std::vector<std::thread> threads;
  for (int i = 0; i < kClients; ++i) {
    threads.emplace_back([&, i] {
      digests[static_cast<size_t>(i)] =
          DigestOf(server->addresses().front(), "int8", values, absl::InfiniteFuture());
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& digest : digests) {
    ASSERT_TRUE(digest.ok()) << digest.status();
    EXPECT_EQ(*digest, expected->report.digests.front());
  }
  server->Shutdown(absl::InfiniteDuration());
  EXPECT_EQ(server->budget().used_bytes(), 0);
}

// The token file has SHA-256 of "hog" and of "honest".
TEST(Overload, SilentStreamsOfOneTokenKeepNobodyElseOut) {
  const TempDir folder;
  ServerOptions options;
  options.access.tokens_path = folder.path() + "/tokens";
  std::ofstream(options.access.tokens_path)
      << "hog 96e436883f4940841fc9f1f7e935bada3859d2ffb0e5455952438d844f8e9c26\n"
      << "honest bf5b6382c2ea46ede3117c0250a9abf431ddf38fca4d50462e5834d09b1b33ef\n";
  const auto server = SmallServer(options);
  const auto channel = ChannelTo(server->addresses().front());
  const auto stub = v1::QuantizationService::NewStub(channel);
  std::deque<grpc::ClientContext> contexts;
  std::vector<std::unique_ptr<
      grpc::ClientReaderWriter<v1::StreamingQuantizeRequest, v1::StreamingQuantizeResponse>>>
      streams;
  for (int i = 0; i < 100; ++i) {  // of 76 places
    contexts.emplace_back().AddMetadata("authorization", "Bearer hog");
    streams.push_back(stub->StreamingQuantize(&contexts.back()));
  }
  v1::StreamingQuantizeResponse response;
  EXPECT_FALSE(streams.back()->Read(&response));
  EXPECT_EQ(streams.back()->Finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  const std::string values = RandomF32(1 << 18, 7);
  const auto digest = DigestOf(server->addresses().front(), "int8", values, absl::InfiniteFuture(),
                               CallOptions().crowd_patience, "honest");
  EXPECT_TRUE(digest.ok()) << digest.status();
  for (auto& context : contexts) context.TryCancel();
  for (size_t i = 0; i + 1 < streams.size(); ++i) streams[i]->Finish();
}

TEST(Overload, ACallerHasAsManyStreamsAsItMayHave) {
  ServerOptions options;
  options.max_caller_streams = 1;
  const auto server = SmallServer(options);
  const auto stub = StubOf(*server);
  Holder holder(*stub);
  grpc::ClientContext context;
  const auto second = stub->StreamingQuantize(&context);
  v1::StreamingQuantizeResponse response;
  EXPECT_FALSE(second->Read(&response));
  const grpc::Status status = second->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED) << status.error_message();
  const auto& trailers = context.GetServerTrailingMetadata();
  EXPECT_EQ(trailers.count("grpc-retry-pushback-ms"), 1);
}

}  // namespace
}  // namespace quantd::testing
