#include "server/server.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>

#include "core/scheme/registry.h"
#include "server/net/listen.h"
#include "tests/server/stub_client.h"
#include "tests/support/temp_dir.h"

namespace quantd::testing {
namespace {

grpc::Status Info(v1::QuantizationService::Stub& stub, v1::GetServerInfoResponse* response) {
  grpc::ClientContext context;
  return stub.GetServerInfo(&context, {}, response);
}

// Returns the status that grpc.health.v1 gives: 1 is SERVING.
std::string Health(const std::shared_ptr<grpc::Channel>& channel, const std::string& service) {
  RawCall call(channel, "/grpc.health.v1.Health/Check");
  std::string request;
  if (!service.empty()) {
    request = std::string("\x0a") + static_cast<char>(service.size()) + service;
  }
  EXPECT_TRUE(call.Write(request));
  call.WritesDone();
  const auto response = call.Read();
  EXPECT_TRUE(call.Finish().ok());
  return response.value_or("none");
}

TEST(Server, DescribesItself) {
  const auto server = StartTcpServer();
  const auto stub = StubOf(*server);
  v1::GetServerInfoResponse info;
  ASSERT_TRUE(Info(*stub, &info).ok());
  EXPECT_EQ(info.version(), Version());
  EXPECT_FALSE(info.build().empty());
  EXPECT_FALSE(info.simd_target().empty());
  EXPECT_FALSE(info.blas_core().empty());
  EXPECT_EQ(info.worker_threads(), 2);
  EXPECT_EQ(info.memory_budget_bytes(), int64_t{1} << 30);
  EXPECT_EQ(info.memory_used_bytes(), 0);
  EXPECT_EQ(info.max_message_bytes(), int64_t{16} << 20);
  EXPECT_EQ(info.input_data_types_size(), 11);
}

TEST(Server, ListsSchemesInPages) {
  const auto server = StartTcpServer();
  const auto stub = StubOf(*server);
  v1::ListSchemesRequest request;
  request.set_page_size(2);
  std::vector<std::string> names;
  do {
    v1::ListSchemesResponse response;
    grpc::ClientContext context;
    ASSERT_TRUE(stub->ListSchemes(&context, request, &response).ok());
    EXPECT_LE(response.schemes_size(), 2);
    for (const auto& scheme : response.schemes()) names.push_back(scheme.name());
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  std::vector<std::string> expected;
  for (const Scheme* scheme : AllSchemes()) expected.emplace_back(scheme->info.name);
  EXPECT_EQ(names, expected);

  v1::ListSchemesResponse response;
  for (const char* token : {"-1", "1000000", "x"}) {
    request.set_page_token(token);
    grpc::ClientContext context;
    EXPECT_EQ(stub->ListSchemes(&context, request, &response).error_code(),
              grpc::StatusCode::INVALID_ARGUMENT);
  }
  request.set_page_token("");
  request.set_page_size(-1);
  grpc::ClientContext context;
  EXPECT_EQ(stub->ListSchemes(&context, request, &response).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST(Server, PlansAsCoreDoes) {
  const auto server = StartTcpServer();
  const auto stub = StubOf(*server);
  const TensorDesc tensor = F32Tensor("t", {100, 64});
  for (const bool with_ranges : {false, true}) {
    const auto expected = MakePlan(*ParseSpec("int8:axis=1"), tensor, int64_t{256} << 20,
                                   {.has_ranges = with_ranges});
    ASSERT_TRUE(expected.ok());
    v1::PlanRequest request;
    *request.mutable_tensor() = ToProto(tensor);
    request.mutable_spec()->set_text("int8:axis=1");
    request.set_with_ranges(with_ranges);
    v1::PlanResponse response;
    grpc::ClientContext context;
    const grpc::Status status = stub->Plan(&context, request, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(response.plan().DebugString(), ToProto(*expected).DebugString());
  }
}

TEST(Server, AnswersHealthAndReflection) {
  const auto server = StartTcpServer();
  const auto channel = ChannelTo(server->addresses().at(0));
  EXPECT_EQ(Health(channel, ""), "\x08\x01");
  EXPECT_EQ(Health(channel, "quantd.v1.QuantizationService"), "\x08\x01");

  RawCall reflection(channel, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo");
  ASSERT_TRUE(reflection.Write("\x3a\x01*"));  // list_services
  const auto services = reflection.Read();
  ASSERT_TRUE(services.has_value());
  EXPECT_NE(services->find("quantd.v1.QuantizationService"), std::string::npos);
  EXPECT_NE(services->find("grpc.health.v1.Health"), std::string::npos);
  reflection.WritesDone();
  EXPECT_FALSE(reflection.Read().has_value());
  EXPECT_TRUE(reflection.Finish().ok());
}

TEST(Server, ListensOnSeveralAddresses) {
  const TempDir folder;
  const std::string path = folder / "quantd.sock";
  ServerOptions options;
  options.listen = {"127.0.0.1:0", "unix:" + path, "[::1]:0"};
  auto server = QuantdServer::Start(options);
  if (!server.ok()) {  // a machine without IPv6
    options.listen.pop_back();
    server = QuantdServer::Start(options);
  }
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_EQ((*server)->addresses().at(1), "unix:" + path);
  for (const std::string& address : (*server)->addresses()) {
    EXPECT_EQ(address.find(":0", address.size() - 2), std::string::npos) << address;
    v1::GetServerInfoResponse info;
    EXPECT_TRUE(Info(*v1::QuantizationService::NewStub(ChannelTo(address)), &info).ok());
  }
}

TEST(Server, SaysThatAnAddressIsTaken) {
  const TempDir folder;
  const std::string path = folder / "quantd.sock";
  ServerOptions options;
  options.listen = {"127.0.0.1:0", "unix:" + path};
  const auto server = StartServer(options);
  for (const std::string& address : server->addresses()) {
    ServerOptions second;
    second.listen = {address};
    const auto other = QuantdServer::Start(second);
    ASSERT_FALSE(other.ok());
    EXPECT_EQ(other.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_NE(other.status().message().find(address), absl::string_view::npos) << other.status();
    v1::GetServerInfoResponse info;  // the first one is still there
    EXPECT_TRUE(Info(*v1::QuantizationService::NewStub(ChannelTo(address)), &info).ok());
  }
}

TEST(Server, TakesOverThePathOfAServerThatIsGone) {
  const TempDir folder;
  ServerOptions options;
  options.listen = {"unix:" + folder / "quantd.sock"};
  StartServer(options).reset();
  const auto server = StartServer(options);
  v1::GetServerInfoResponse info;
  EXPECT_TRUE(Info(*StubOf(*server), &info).ok());
}

TEST(Server, RefusesOptions) {
  const auto error_of = [](auto change) {
    ServerOptions options;
    options.listen = {"127.0.0.1:0"};
    change(options);
    return QuantdServer::Start(options).status();
  };
  const absl::Status insecure =
      error_of([](ServerOptions& options) { options.listen = {"0.0.0.0:0"}; });
  EXPECT_EQ(insecure.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(insecure.message().find("--insecure"), absl::string_view::npos);
  const auto refused = [&](auto change) {
    return error_of(change).code() == absl::StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused([](ServerOptions& options) { options.listen = {"nowhere"}; }));
  EXPECT_TRUE(refused([](ServerOptions& options) { options.listen = {"127.0.0.1:65536"}; }));
  EXPECT_TRUE(refused([](ServerOptions& options) { options.listen = {"unix:"}; }));
  EXPECT_TRUE(
      refused([](ServerOptions& options) { options.listen = {"unix:/" + std::string(200, 'p')}; }));
  EXPECT_TRUE(refused([](ServerOptions& options) { options.threads = -1; }));
  EXPECT_TRUE(refused([](ServerOptions& options) { options.memory_budget_bytes = 1; }));
  EXPECT_TRUE(refused([](ServerOptions& options) { options.max_message_bytes = 1; }));
}

TEST(ListenAddresses, TellWhoCanConnect) {
  for (const char* text : {"127.0.0.1:1", "127.5.5.5:1", "localhost:1", "[::1]:1", "unix:/x"}) {
    EXPECT_TRUE(ParseListenAddress(text)->is_local()) << text;
  }
  for (const char* text : {"0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.org:1"}) {
    EXPECT_FALSE(ParseListenAddress(text)->is_local()) << text;
  }
}

// A stream with a tensor of which half has come, so that the server holds memory for it.
class HalfSent {
 public:
  explicit HalfSent(v1::QuantizationService::Stub& stub,
                    std::chrono::system_clock::time_point deadline =
                        std::chrono::system_clock::time_point::max()) {
    context_.set_deadline(deadline);
    stream_ = stub.StreamingQuantize(&context_);
    QuantizeFrames frames;
    frames.Open(1, QuantizeStartOf(tensor_, "int8"));
    frames.Chunk(1, "values", 0, values_.substr(0, values_.size() / 2));
    for (const auto& frame : frames.all()) EXPECT_TRUE(stream_->Write(frame));
    v1::StreamingQuantizeResponse frame;
    EXPECT_TRUE(stream_->Read(&frame));
    EXPECT_TRUE(frame.has_start()) << frame.error().message();
    answer_.Add(frame);
  }
  void Complete() {
    QuantizeFrames frames;
    const size_t half = values_.size() / 2;
    frames.Chunk(1, "values", static_cast<int64_t>(half), values_.substr(half)).End(1);
    for (const auto& frame : frames.all()) EXPECT_TRUE(stream_->Write(frame));
    stream_->WritesDone();
    v1::StreamingQuantizeResponse frame;
    while (stream_->Read(&frame)) answer_.Add(frame);
    EXPECT_TRUE(stream_->Finish().ok());
    ExpectQuantized(answer_, *QuantizeHere("int8", tensor_, values_));
  }
  grpc::Status Fail() {
    v1::StreamingQuantizeResponse frame;
    while (stream_->Read(&frame)) {
    }
    return stream_->Finish();
  }
  grpc::ClientContext& context() { return context_; }

 private:
  const TensorDesc tensor_ = F32Tensor("t", {1 << 16});
  const std::string values_ = RandomF32(1 << 16, 21);
  grpc::ClientContext context_;
  std::unique_ptr<
      grpc::ClientReaderWriter<v1::StreamingQuantizeRequest, v1::StreamingQuantizeResponse>>
      stream_;
  Answer<v1::StreamingQuantizeResponse> answer_;
};

TEST(Lifecycle, ACancelledStreamGivesItsMemoryBack) {
  const auto server = StartTcpServer();
  const auto stub = StubOf(*server);
  HalfSent sent(*stub);
  EXPECT_GT(server->budget().used_bytes(), 1 << 18);
  sent.context().TryCancel();
  EXPECT_EQ(sent.Fail().error_code(), grpc::StatusCode::CANCELLED);
  server->Shutdown(absl::InfiniteDuration());  // returns because the stream ends by itself
  EXPECT_EQ(server->active_calls(), 0);
  EXPECT_EQ(server->budget().used_bytes(), 0);
}

TEST(Lifecycle, SoDoesOneThatIsPastItsDeadline) {
  const auto server = StartTcpServer();
  const auto stub = StubOf(*server);
  HalfSent sent(*stub, std::chrono::system_clock::now() + std::chrono::seconds(3));
  EXPECT_EQ(sent.Fail().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  server->Shutdown(absl::InfiniteDuration());
  EXPECT_EQ(server->budget().used_bytes(), 0);
}

TEST(Lifecycle, ShutdownLetsRunningCallsFinishAndRefusesNewOnes) {
  const auto server = StartTcpServer();
  const auto stub = StubOf(*server);
  HalfSent sent(*stub);
  std::thread shutdown([&] { server->Shutdown(absl::Seconds(60)); });
  v1::GetServerInfoResponse info;
  const auto newcomer = StubOf(*server);
  while (Info(*newcomer, &info).ok()) {
  }
  EXPECT_EQ(Info(*newcomer, &info).error_code(), grpc::StatusCode::UNAVAILABLE);
  sent.Complete();
  shutdown.join();
  EXPECT_EQ(server->budget().used_bytes(), 0);
}

TEST(Lifecycle, ShutdownCancelsWhatDoesNotFinish) {
  const auto server = StartTcpServer();
  const auto stub = StubOf(*server);
  HalfSent sent(*stub);
  server->Shutdown(absl::ZeroDuration());
  EXPECT_FALSE(sent.Fail().ok());
  EXPECT_EQ(server->active_calls(), 0);
  EXPECT_EQ(server->budget().used_bytes(), 0);
}

}  // namespace
}  // namespace quantd::testing
