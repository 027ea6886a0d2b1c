// Servers whose gRPC is guarded, before peers that are hostile, and before honest ones that are
// many at once.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "server/net/guard_table.h"
#include "server/server.h"
#include "tests/server/net/raw_frames.h"
#include "tests/server/stub_client.h"
#include "tests/support/temp_dir.h"

namespace quantd::testing {
namespace {

constexpr char kInfo[] = "/quantd.v1.QuantizationService/GetServerInfo";

// A connection of bytes.
class RawPeer {
 public:
  explicit RawPeer(absl::string_view address) {
    sockaddr_storage to = {};
    socklen_t size = sizeof(sockaddr_in);
    if (absl::ConsumePrefix(&address, "unix:")) {
      auto& path = reinterpret_cast<sockaddr_un&>(to);
      path.sun_family = AF_UNIX;
      address.copy(path.sun_path, sizeof(path.sun_path) - 1);
      size = sizeof(sockaddr_un);
    } else {
      auto& loopback = reinterpret_cast<sockaddr_in&>(to);
      int port = 0;
      EXPECT_TRUE(absl::SimpleAtoi(address.substr(address.rfind(':') + 1), &port));
      loopback.sin_family = AF_INET;
      loopback.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      loopback.sin_port = htons(static_cast<uint16_t>(port));
    }
    fd_ = socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&to), size), 0) << strerror(errno);
  }
  RawPeer(RawPeer&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  ~RawPeer() {
    if (fd_ >= 0) close(fd_);
  }

  // False: the other end has closed.
  bool Send(absl::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t count = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (count < 0) return false;
      bytes.remove_prefix(static_cast<size_t>(count));
    }
    return true;
  }
  bool Hello() { return Send(absl::StrCat(kPreface, Frame(kSettingsFrame, 0, 0, ""))); }
  // Waits for what comes next; empty: the other end has closed.
  std::string Receive() {
    char bytes[4096];
    const ssize_t count = recv(fd_, bytes, sizeof(bytes), 0);
    return std::string(bytes, count > 0 ? static_cast<size_t>(count) : 0);
  }
  // Waits until the other end closes.
  void AwaitEnd() {
    while (!Receive().empty()) {
    }
  }
  // Makes a call that is let in, and waits for the first of the answer.
  void Prove() {
    EXPECT_TRUE(Hello());
    EXPECT_TRUE(Send(absl::StrCat(OpenCall(1, kInfo), EmptyMessage(1))));
    AwaitHeaders(1);
  }
  // Waits for so many frames of headers; false: the other end closes before.
  bool AwaitHeaders(int count) {
    class Counter final : public FrameWalker::Visitor {
     public:
      void OnHead(const FrameHead& head) override { headers += head.type == kHeadersFrame; }
      void OnHeaderBytes(absl::string_view) override {}
      int headers = 0;
    } counter;
    while (counter.headers < count) {
      const std::string bytes = Receive();
      if (bytes.empty()) return false;
      answer_.Walk(bytes, counter);
    }
    return true;
  }

 private:
  int fd_ = -1;
  FrameWalker answer_{/*begins_with_preface=*/false};
};

ServerOptions OptionsFor(const std::vector<std::string>& listen) {
  ServerOptions options;
  options.listen = listen;
  options.threads = 2;
  options.metrics = "0";
  return options;
}

// Makes so many calls at once on a connection of their own, and returns how many were answered.
int CallsAtOnce(const std::string& address, int count) {
  const auto stub = v1::QuantizationService::NewStub(ChannelTo(address));
  struct OneCall {
    grpc::ClientContext context;
    v1::GetServerInfoRequest request;
    v1::GetServerInfoResponse response;
  };
  std::vector<OneCall> calls(static_cast<size_t>(count));
  std::atomic<int> done = 0, good = 0;
  for (OneCall& call : calls) {
    stub->async()->GetServerInfo(&call.context, &call.request, &call.response,
                                 [&](const grpc::Status& status) {
                                   good += status.ok();
                                   ++done;
                                 });
  }
  while (done < count) std::this_thread::yield();
  return good;
}

TEST(Guards, LetManyCallsOfANewConnectionThrough) {
  const TempDir folder;
  const auto server = StartServer(OptionsFor({"127.0.0.1:0", "unix:" + folder / "sock"}));
  for (const std::string& address : server->addresses()) {
    for (const int count : {1, 8, 9, 100, 600}) EXPECT_EQ(CallsAtOnce(address, count), count);
  }
}

// Each is refused, and so the next may come.
TEST(Guards, AnswerManyCallsThatAreRefused) {
  const TempDir folder;
  std::ofstream(folder / "tokens")
      << "alice 8766b9cb08e6040b704f1e3ee1e186efccf2635b1d2634d6525333007e6aeae1\n";
  ServerOptions options = OptionsFor({"127.0.0.1:0", "unix:" + folder / "sock"});
  options.access.tokens_path = folder / "tokens";
  const auto server = StartServer(options);
  for (const std::string& address : server->addresses()) {
    RawPeer peer(address);
    ASSERT_TRUE(peer.Hello());
    std::string calls;
    for (uint32_t stream = 1; stream < 2000; stream += 2) calls += OpenCall(stream, kInfo);
    std::thread sender([&] { EXPECT_TRUE(peer.Send(calls)); });
    EXPECT_TRUE(peer.AwaitHeaders(1000));
    sender.join();
  }
}

TEST(Guards, EndWhoSendsTooManyHeaders) {
  const TempDir folder;
  const auto server = StartServer(OptionsFor({"127.0.0.1:0", "unix:" + folder / "sock"}));
  EXPECT_NE(
      server->MetricsText().find("quantd_guard_ended_connections_total{reason=\"headers\"} 0"),
      std::string::npos);
  for (const std::string& address : server->addresses()) {
    RawPeer peer(address);
    ASSERT_TRUE(peer.Hello());
    ASSERT_TRUE(peer.Send(Frame(kHeadersFrame, 0, 1, CallHeaders(kInfo))));
    const std::string more = Frame(kContinuationFrame, 0, 1, Field("a", std::string(200, 'b')));
    while (peer.Send(more)) {
    }
    peer.AwaitEnd();
  }
  EXPECT_NE(
      server->MetricsText().find("quantd_guard_ended_connections_total{reason=\"headers\"} 2"),
      std::string::npos);
  EXPECT_EQ(CallsAtOnce(server->addresses().front(), 1), 1);
}

TEST(Guards, EndRapidResets) {
  const auto server = StartServer(OptionsFor({"127.0.0.1:0"}));
  RawPeer peer(server->addresses().front());
  peer.Prove();
  bool sends = true;
  for (uint32_t stream = 3; sends && stream < 1'000'000; stream += 2) {
    sends = peer.Send(absl::StrCat(OpenCall(stream, kInfo), Reset(stream)));
  }
  EXPECT_FALSE(sends);
  EXPECT_NE(server->MetricsText().find("quantd_guard_ended_connections_total{reason=\"resets\"} 1"),
            std::string::npos);
}

TEST(Guards, TheOldestConnectionWithoutACallGoesForANewcomer) {
  ServerOptions options = OptionsFor({"127.0.0.1:0"});
  options.access.max_connections = 3;
  const auto server = StartServer(options);
  const std::string& address = server->addresses().front();
  RawPeer proven(address);
  proven.Prove();
  RawPeer older(address), newer(address);
  ASSERT_TRUE(older.Hello() && newer.Hello());
  EXPECT_FALSE(older.Receive().empty());
  EXPECT_FALSE(newer.Receive().empty());
  RawPeer newcomer(address);
  newcomer.Prove();
  older.AwaitEnd();
  RawPeer another(address);
  another.Prove();
  newer.AwaitEnd();
  EXPECT_EQ(server->displaced_connections(), 2);
  // All have made calls now: nobody goes.
  RawPeer last(address);
  last.AwaitEnd();
  EXPECT_EQ(server->refused_connections(), 1);
  EXPECT_TRUE(proven.Send(OpenCall(3, kInfo) + EmptyMessage(3)));
  EXPECT_TRUE(proven.AwaitHeaders(1));
}

// Those that are held back go too.
TEST(Guards, ConnectionsWithUndecidedCallsGoForNewcomers) {
  const TempDir folder;
  std::ofstream(folder / "tokens")
      << "alice 8766b9cb08e6040b704f1e3ee1e186efccf2635b1d2634d6525333007e6aeae1\n";
  ServerOptions options = OptionsFor({"127.0.0.1:0"});
  options.access.max_connections = 4;
  options.access.tokens_path = folder / "tokens";
  const auto server = StartServer(options);
  std::vector<std::unique_ptr<RawPeer>> peers;
  std::string calls;
  for (uint32_t stream = 1; stream < 40'000; stream += 2) calls += OpenCall(stream, kInfo);
  std::vector<std::thread> senders;
  for (int i = 0; i < 100; ++i) {  // each sends until it is closed, and takes no answer
    peers.push_back(std::make_unique<RawPeer>(server->addresses().front()));
    senders.emplace_back(
        [&calls, peer = peers.back().get()] { peer->Hello() && peer->Send(calls); });
  }
  RawPeer last(server->addresses().front());
  EXPECT_TRUE(last.Hello());
  EXPECT_FALSE(last.Receive().empty());
  EXPECT_GE(server->displaced_connections(), 97);
  server->Shutdown(absl::ZeroDuration());
  for (std::thread& sender : senders) sender.join();
}

TEST(Guards, WhatFillsOneListenerLeavesTheOthersOpen) {
  const TempDir folder;
  ServerOptions options = OptionsFor({"127.0.0.1:0", "unix:" + folder / "sock"});
  options.access.max_connections = 24;
  const auto server = StartServer(options);
  std::vector<RawPeer> peers;
  while (server->refused_connections() == 0) {
    ASSERT_LT(peers.size(), size_t{40});
    peers.emplace_back(server->addresses().front());
    peers.back().Hello();
    peers.back().Send(OpenCall(1, kInfo) + EmptyMessage(1));
    peers.back().AwaitHeaders(1);
  }
  EXPECT_GT(peers.size(), size_t{16});
  EXPECT_EQ(CallsAtOnce(server->addresses().back(), 1), 1);
}

TEST(Guards, AnAddressHasItsShareOfConnections) {
  ServerOptions options = OptionsFor({"127.0.0.1:0"});
  for (const int bound : {2, 0}) {
    options.access.max_per_address = bound;
    const auto server = StartServer(options);
    std::vector<RawPeer> peers;
    for (int i = 0; i < 5; ++i) {
      peers.emplace_back(server->addresses().front());
      peers.back().Hello();
      peers.back().Send(OpenCall(1, kInfo) + EmptyMessage(1));
      EXPECT_EQ(peers.back().AwaitHeaders(1), bound == 0 || i < bound) << bound << ", " << i;
    }
    EXPECT_EQ(server->refused_connections(), bound == 0 ? 0 : 3);
  }
}

TEST(Guards, TellUsersOfUnixSocketsApart) {
  EXPECT_EQ(UnixCallerOf(UnixPeerOf(1000, 7)), "unix:1000");
  EXPECT_EQ(UnixCallerOf("unix-abstract:other"), "unix");
  const TempDir folder;
  const auto server = StartServer(OptionsFor({"unix:" + folder / "sock"}));
  RawPeer peer(server->addresses().front());
  peer.Prove();
  // gRPC names it as the table does, so that calls which stand still are known to be let in.
  for (uint32_t stream = 3; stream < 203; stream += 2) {
    EXPECT_TRUE(peer.Send(OpenCall(stream, "/quantd.v1.QuantizationService/Calibrate")));
  }
  while (server->active_calls() < 100) std::this_thread::yield();
}

TEST(GuardTable, NamesPeersAsGrpcDoes) {
  sockaddr_storage address = {};
  auto& v4 = reinterpret_cast<sockaddr_in&>(address);
  v4.sin_family = AF_INET;
  v4.sin_port = htons(4567);
  inet_pton(AF_INET, "10.1.2.3", &v4.sin_addr);
  EXPECT_EQ(PeerOf(address), "ipv4:10.1.2.3:4567");
  auto& v6 = reinterpret_cast<sockaddr_in6&>(address);
  v6 = {};
  v6.sin6_family = AF_INET6;
  v6.sin6_port = htons(80);
  inet_pton(AF_INET6, "::ffff:10.1.2.3", &v6.sin6_addr);
  EXPECT_EQ(PeerOf(address), "ipv4:10.1.2.3:80");
  inet_pton(AF_INET6, "fe80::1", &v6.sin6_addr);
  v6.sin6_scope_id = 2;
  EXPECT_EQ(PeerOf(address), "ipv6:[fe80::1]:80");
  // A descriptor that nothing has.
  const auto connection = std::make_shared<GuardedConnection>(
      1 << 20, PeerOf(address), /*is_encrypted=*/false, GuardLimits(), [](GuardReason) {});
  GuardTable& table = GuardTable::OfProcess();
  table.Add(connection);
  EXPECT_EQ(table.FindPeer("ipv6:%5Bfe80::1%252%5D:80"), connection);
  EXPECT_EQ(table.Find(1 << 20), connection);
  table.RemovePeer(*connection);
  EXPECT_EQ(table.FindPeer("ipv6:%5Bfe80::1%252%5D:80"), nullptr);
  EXPECT_EQ(table.Find(1 << 20), connection) << "until it is closed";
  table.Clear(1 << 20);
  EXPECT_EQ(table.Find(1 << 20), nullptr);
}

}  // namespace
}  // namespace quantd::testing
