// Who may connect to a server, and who makes a call.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <string>

#include "absl/time/clock.h"
#include "client/client.h"
#include "server/net/caller.h"
#include "server/server.h"
#include "tests/server/stub_client.h"
#include "tests/support/temp_dir.h"

namespace quantd::testing {
namespace {

// Waits for what another thread does; the test's own time limit bounds it.
template <typename Condition>
void WaitUntil(const Condition& condition) {
  while (!condition()) std::this_thread::yield();
}

absl::StatusCode InfoCode(const ConnectOptions& options) {
  const auto client = Client::Connect(options);
  if (!client.ok()) return client.status().code();
  return client->GetServerInfo().status().code();
}

TEST(Callers, AreNamedWithoutThePort) {
  EXPECT_EQ(CallerOfPeer("ipv4:10.1.2.3:4567"), "ipv4:10.1.2.3");
  EXPECT_EQ(CallerOfPeer("ipv6:%5B2001:db8::1%5D:4567"), "ipv6:[2001:db8::]/64");
  EXPECT_EQ(CallerOfPeer("ipv6:[2001:db8:0:1:2:3:4:5]:4567"), "ipv6:[2001:db8:0:1::]/64");
  EXPECT_EQ(CallerOfPeer("ipv6:%5B::1%5D:4567"), "ipv6:[::1]");
  EXPECT_EQ(CallerOfPeer("ipv6:%5Bfe80::1%252%5D:80"), "ipv6:[fe80::1]");
  EXPECT_EQ(CallerOfPeer("ipv6:%5Bnonsense%5D:80"), "ipv6:[nonsense]");
  EXPECT_EQ(CallerOfPeer("unix:"), "unix");
  EXPECT_EQ(CallerOfPeer("unix:/x:1"), "unix");
  EXPECT_EQ(CallerOfPeer("unix-abstract:x"), "unix");
  EXPECT_EQ(CallerOfPeer("inproc"), "inproc");
}

// What a server with tokens says to every call of the service.
TEST(Access, EveryCallNeedsATokenButHealth) {
  const TempDir folder;
  std::ofstream(folder / "tokens")
      << "alice 8766b9cb08e6040b704f1e3ee1e186efccf2635b1d2634d6525333007e6aeae1\n";
  ServerOptions options;
  options.listen = {"127.0.0.1:0", "unix:" + folder / "sock"};
  options.access.tokens_path = folder / "tokens";
  const auto server = StartServer(options);
  for (const std::string& address : server->addresses()) {
    const auto channel = ChannelTo(address);
    for (const char* method : {"Quantize", "Dequantize", "Plan", "ListSchemes", "GetServerInfo",
                               "StreamingQuantize", "StreamingDequantize", "Calibrate"}) {
      RawCall call(channel, std::string("/quantd.v1.QuantizationService/") + method);
      call.Write("");
      call.WritesDone();
      EXPECT_FALSE(call.Read().has_value()) << method;
      EXPECT_EQ(call.Finish().error_code(), grpc::StatusCode::UNAUTHENTICATED) << method;
    }
    RawCall reflection(channel, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo");
    EXPECT_EQ(reflection.Finish().error_code(), grpc::StatusCode::UNIMPLEMENTED);

    ConnectOptions connect{.target = address};
    EXPECT_TRUE(Client::Connect(connect)->CheckHealth().ok());
    EXPECT_EQ(InfoCode(connect), absl::StatusCode::kUnauthenticated);
    connect.token = "secret-b";
    EXPECT_EQ(InfoCode(connect), absl::StatusCode::kUnauthenticated);
    connect.token = "secret-a";
    EXPECT_EQ(InfoCode(connect), absl::StatusCode::kOk);
    // Streams bring it too.
    const Client client = *Client::Connect(connect);
    const TensorDesc tensor = F32Tensor("t", {64});
    const std::string values = RandomF32(64, 1);
    MemorySource source(AsBytes(values));
    MemorySink sink;
    EXPECT_TRUE(client.Quantize({tensor, *ParseSpec("int8"), &source, &sink, {}, {}}).ok());
  }
  // The peer may hear of the end before the server has done with the call.
  while (server->active_calls() > 0) absl::SleepFor(absl::Milliseconds(1));
}

TEST(Access, ReflectionStaysForServersWithoutTokens) {
  const auto server = StartTcpServer();
  RawCall reflection(ChannelTo(server->addresses().at(0)),
                     "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo");
  ASSERT_TRUE(reflection.Write("\x3a\x01*"));
  EXPECT_TRUE(reflection.Read().has_value());
  reflection.WritesDone();
  EXPECT_TRUE(reflection.Finish().ok());
}

TEST(Access, ConnectionsBeyondTheLimitAreClosedAndEndedOnesMakeRoom) {
  ServerOptions options;
  options.listen = {"127.0.0.1:0"};
  options.access.max_connections = 1;
  const auto server = StartServer(options);
  const std::string& address = server->addresses().at(0);
  for (int round = 1; round <= 3; ++round) {
    WaitUntil([&] { return server->open_connections() == 0; });
    // A client of its own arguments has a connection of its own.
    const auto connect = [&address](int id) {
      grpc::ChannelArguments arguments = ClientChannelArguments();
      arguments.SetInt("quantd.test.id", id);
      return Client(
          grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
    };
    const Client first = connect(1), second = connect(2);
    // Only a call that is let in keeps the connection's place.
    EXPECT_TRUE(first.GetServerInfo().ok());
    EXPECT_EQ(server->open_connections(), 1);
    EXPECT_EQ(second.CheckHealth().code(), absl::StatusCode::kUnavailable);
    EXPECT_GE(server->refused_connections(), round);
    EXPECT_TRUE(first.CheckHealth().ok());
  }
}

TEST(Access, UnixSocketsHaveTheirMode) {
  const TempDir folder;
  ServerOptions options;
  options.listen = {"unix:" + folder / "sock"};
  for (const uint32_t mode : {0660u, 0600u, 0666u}) {
    options.access.socket_mode = mode;
    const auto server = StartServer(options);
    struct stat info;
    ASSERT_EQ(lstat((folder / "sock").c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777, mode);
  }
  EXPECT_EQ(folder.Names(), std::vector<std::string>{"sock.lock"});
}

TEST(Access, AFileThatIsNoSocketIsNotReplaced) {
  const TempDir folder;
  std::ofstream(folder / "sock") << "data";
  ServerOptions options;
  options.listen = {"unix:" + folder / "sock"};
  EXPECT_EQ(QuantdServer::Start(options).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(folder.Names(), (std::vector<std::string>{"sock", "sock.lock"}));
}

// Sends a start without the tensor, then nothing.
TEST(Access, SilentStreamsAreEnded) {
  ServerOptions options;
  options.listen = {"127.0.0.1:0"};
  options.access.idle_timeout = absl::Seconds(1);
  const auto server = StartServer(options);
  RawCall call(ChannelTo(server->addresses().at(0)),
               "/quantd.v1.QuantizationService/StreamingQuantize");
  EXPECT_FALSE(call.Read().has_value());
  EXPECT_EQ(call.Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  // The peer may hear of it first.
  while (server->idle_streams_ended() == 0) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(server->idle_streams_ended(), 1);
}

TEST(Access, RefusesOptions) {
  const auto refused = [](auto change) {
    ServerOptions options;
    change(options.access);
    return QuantdServer::Start(options).status().code() == absl::StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused([](AccessOptions& access) { access.tls.key = "k.pem"; }));
  EXPECT_TRUE(refused([](AccessOptions& access) { access.tls.certificate = "c.pem"; }));
  EXPECT_TRUE(refused([](AccessOptions& access) { access.tls.client_ca = "c.pem"; }));
  EXPECT_TRUE(refused([](AccessOptions& access) { access.max_connections = 0; }));
  EXPECT_TRUE(refused([](AccessOptions& access) { access.max_metadata_bytes = 0; }));
  EXPECT_TRUE(refused([](AccessOptions& access) { access.socket_mode = 01000; }));
  EXPECT_TRUE(refused([](AccessOptions& access) { access.idle_timeout = absl::ZeroDuration(); }));
}

}  // namespace
}  // namespace quantd::testing
