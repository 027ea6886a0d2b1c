// kill -9 of the server in mid-stream, seen by the library.
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "client/client.h"
#include "tests/support/temp_dir.h"
#include "tests/support/values.h"

namespace quantd {
namespace {

using testing::TempDir;

// A quantd in a process of its own.
class ServerProcess {
 public:
  // Listens on 127.0.0.1 and `port`; 0: any.
  ServerProcess(const std::string& folder, int port) {
    const std::string port_file = absl::StrCat(folder, "/port-", ++started);
    const std::string listen = absl::StrCat("--listen=127.0.0.1:", port);
    const std::string port_flag = absl::StrCat("--port-file=", port_file);
    const char* args[] = {QUANTD_TEST_SERVER, listen.c_str(), port_flag.c_str(), "--log-level=off",
                          nullptr};
    EXPECT_EQ(posix_spawn(&pid_, args[0], nullptr, nullptr, const_cast<char**>(args), environ), 0);
    while (!absl::StrContains(address_, '\n') && waitpid(pid_, nullptr, WNOHANG) == 0) {
      absl::SleepFor(absl::Milliseconds(2));
      std::ifstream in(port_file);
      address_.assign(std::istreambuf_iterator<char>(in), {});
    }
    address_ = std::string(absl::StripSuffix(address_, "\n"));
  }
  ~ServerProcess() { Kill(); }

  // kill -9; does nothing the second time.
  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

  const std::string& address() const { return address_; }
  int port() const {
    int port = 0;
    EXPECT_TRUE(absl::SimpleAtoi(address_.substr(address_.rfind(':') + 1), &port)) << address_;
    return port;
  }

 private:
  static inline std::atomic<int> started = 0;
  pid_t pid_ = -1;
  std::string address_;
};

// Gives bytes of memory, and calls `kill` once when `kill_at` of them have been taken.
class KillingSource : public ByteSource {
 public:
  KillingSource(std::span<const std::byte> bytes, int64_t kill_at, std::function<void()> kill)
      : memory_(bytes), kill_at_(kill_at), kill_(std::move(kill)) {}

  int64_t size_bytes() const override { return memory_.size_bytes(); }
  absl::StatusOr<SourcePiece> Next(int64_t max_bytes) override {
    if (kill_ && taken_bytes_ >= kill_at_) std::exchange(kill_, nullptr)();
    absl::StatusOr<SourcePiece> piece = memory_.Next(max_bytes);
    if (piece.ok()) taken_bytes_ += static_cast<int64_t>(piece->bytes.size());
    return piece;
  }
  bool can_rewind() const override { return true; }
  absl::Status Rewind() override { return memory_.Rewind(); }

 private:
  MemorySource memory_;
  const int64_t kill_at_;
  std::function<void()> kill_;
  int64_t taken_bytes_ = 0;
};

int Rounds() {
  const char* text = std::getenv("QUANTD_TEST_KILLS");
  int rounds = 50;
  return text != nullptr && absl::SimpleAtoi(text, &rounds) ? rounds : 50;
}

class KilledServerTest : public ::testing::Test {
 protected:
  // Quantizes over `target`; `kill` is called before the last bytes have been sent.
  void Quantize(const std::string& target, int64_t kill_at, std::function<void()> kill) {
    const Client client = Client::Connect(target).value();
    KillingSource source(values_, kill_at, std::move(kill));
    MemorySink sink;
    CallOptions options;
    options.chunk_bytes = 64 << 10;
    const absl::StatusOr<QuantizedInfo> info = client.Quantize({.tensor = tensor_,
                                                                .spec = spec_,
                                                                .source = &source,
                                                                .sink = &sink,
                                                                .ranges = {},
                                                                .plan = {}},
                                                               options);
    ASSERT_TRUE(info.ok()) << info.status();
    EXPECT_GT(info->attempts, 1);
    EXPECT_EQ(info->report.digests, expected_->report.digests);
    EXPECT_EQ(sink.planes() == expected_->planes, true) << "other bytes";
  }

  // Quantizes a small tensor; `begin` is called when some of it has been sent.
  absl::Status QuantizeOnce(const std::string& target, std::function<void()> begin) {
    const TensorDesc tensor = testing::MakeTensor("s", DType::kF32, {64, 1 << 10});
    const Client client = Client::Connect(target).value();
    const auto size_bytes = static_cast<size_t>(tensor.shape.num_elems()) * sizeof(float);
    const std::span<const std::byte> bytes(values_.data(), size_bytes);
    KillingSource source(bytes, 64 << 10, std::move(begin));
    MemorySink sink;
    CallOptions options;
    options.chunk_bytes = 64 << 10;
    return client
        .Quantize({.tensor = tensor,
                   .spec = spec_,
                   .source = &source,
                   .sink = &sink,
                   .ranges = {},
                   .plan = {}},
                  options)
        .status();
  }

  // Where to kill next: after at least a chunk, before the last one.
  int64_t KillAt() {
    return (64 << 10) + static_cast<int64_t>(rng_() % (values_.size() - (128 << 10)));
  }

  const TempDir folder_;
  const QuantSpec spec_ = *ParseSpec("int8:group=128");
  const TensorDesc tensor_ = testing::MakeTensor("t", DType::kF32, {4 << 10, 1 << 10});  // 16 MiB
  const std::vector<std::byte> values_ =
      testing::MakeValues(tensor_, testing::ValueKind::kNormal, 8);
  testing::Bench bench_;
  const absl::StatusOr<QuantizedTensor> expected_ =
      QuantizeAll(spec_, tensor_, values_, {}, bench_.context());
  std::mt19937 rng_{7};
};

TEST_F(KilledServerTest, EndsWithTheSameBytesOnceItIsBack) {
  auto server = std::make_unique<ServerProcess>(folder_.path(), 0);
  for (int round = 0; round < (Rounds() + 1) / 2; ++round) {
    const int64_t kill_at = KillAt();
    SCOPED_TRACE(absl::StrCat("round ", round, ", killed after ", kill_at, " bytes"));
    Quantize(server->address(), kill_at, [&] {
      const int port = server->port();
      server->Kill();
      server = std::make_unique<ServerProcess>(folder_.path(), port);
    });
  }
}

TEST_F(KilledServerTest, EndsWithTheSameBytesByAnotherReplica) {
  ServerProcess other(folder_.path(), 0);
  for (int round = 0; round < Rounds() / 2; ++round) {
    const int64_t kill_at = KillAt();
    SCOPED_TRACE(absl::StrCat("round ", round, ", killed after ", kill_at, " bytes"));
    ServerProcess server(folder_.path(), 0);
    Quantize(absl::StrCat("ipv4:", server.address(), ",", other.address()), kill_at,
             [&] { server.Kill(); });
  }
}

// A server that is restarted under clients in every phase: some in mid-stream, some that ask for a
// plan, some that connect for the first time. It is away for up to 3 s.
TEST_F(KilledServerTest, ARestartOfThreeSecondsIsSurvivedByAll) {
  constexpr int kClients = 8;  // of each kind
  auto server = std::make_unique<ServerProcess>(folder_.path(), 0);
  const std::string address = server->address();
  const int port = server->port();
  for (const absl::Duration away : {absl::Milliseconds(2000), absl::Milliseconds(2400),
                                    absl::Milliseconds(2700), absl::Milliseconds(3000)}) {
    SCOPED_TRACE(absl::StrCat("away for ", absl::FormatDuration(away)));
    absl::BlockingCounter streaming(kClients);  // so many bytes on the way as they will be
    absl::Notification killed;
    std::vector<std::thread> threads;
    std::vector<absl::Status> results(3 * kClients, absl::UnknownError("not run"));
    for (int i = 0; i < kClients; ++i) {
      const auto at = static_cast<size_t>(i);
      threads.emplace_back([&, at] {
        results[at] = QuantizeOnce(address, [&] {
          streaming.DecrementCount();
          killed.WaitForNotification();
        });
      });
      threads.emplace_back([&, at] {
        const Client client = Client::Connect(address).value();
        EXPECT_TRUE(client.GetServerInfo().ok());  // it is connected
        killed.WaitForNotification();
        results[at + kClients] = client.Plan(tensor_, spec_).status();
      });
      threads.emplace_back([&, at] {
        killed.WaitForNotification();
        results[at + 2 * kClients] = QuantizeOnce(address, [] {});
      });
    }
    streaming.Wait();
    server->Kill();
    killed.Notify();
    absl::SleepFor(away);
    server = std::make_unique<ServerProcess>(folder_.path(), port);
    for (std::thread& thread : threads) thread.join();
    for (size_t i = 0; i < results.size(); ++i) {
      EXPECT_TRUE(results[i].ok()) << "client " << i << ": " << results[i];
    }
  }
}

}  // namespace
}  // namespace quantd
