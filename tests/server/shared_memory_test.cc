// Memory that clients share with a server: who may, what is refused, and what a client may do to
// it.
#include "core/io/shared_memory.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "client/client.h"
#include "core/scheme/registry.h"
#include "server/net/shared_regions.h"
#include "server/server.h"
#include "tests/server/stub_client.h"
#include "tests/support/temp_dir.h"

namespace quantd::testing {
namespace {

using ::testing::HasSubstr;

constexpr int kAllSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
constexpr int64_t kRegionBytes = 1 << 20;

// Waits for what another thread does; the test's own time limit bounds it.
template <typename Condition>
void WaitUntil(const Condition& condition) {
  while (!condition()) std::this_thread::yield();
}

ptrdiff_t OpenDescriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd"), end;
  return std::distance(begin(all), end);
}

OwnedFd Memfd(off_t size_bytes, int seals, unsigned flags = MFD_ALLOW_SEALING) {
  OwnedFd fd(memfd_create("test", MFD_CLOEXEC | flags));
  EXPECT_EQ(ftruncate(fd.get(), size_bytes), 0);
  if (seals != 0) {
    EXPECT_EQ(fcntl(fd.get(), F_ADD_SEALS, seals), 0);
  }
  return fd;
}

OwnedFd ConnectTo(const std::string& path) {
  OwnedFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un name = {};
  name.sun_family = AF_UNIX;
  memcpy(name.sun_path, path.data(), path.size());
  EXPECT_EQ(connect(fd.get(), reinterpret_cast<sockaddr*>(&name), sizeof(name)), 0)
      << strerror(errno);
  return fd;
}

// Sends `text` with `fds`, and returns the answer: a code and a text; nothing if it hangs up.
std::string Offer(const OwnedFd& connection, std::string text, const std::vector<int>& fds) {
  iovec part = {text.data(), text.size()};
  std::vector<char> control(CMSG_SPACE(fds.size() * sizeof(int)));
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* const rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    memcpy(CMSG_DATA(rights), fds.data(), fds.size() * sizeof(int));
  }
  EXPECT_GE(sendmsg(connection.get(), &message, MSG_NOSIGNAL), 0);
  char answer[1024];
  const ssize_t got = recv(connection.get(), answer, sizeof(answer), 0);
  return std::string(answer, got > 0 ? static_cast<size_t>(got) : 0);
}

// A server at a UNIX socket, and a region that is shared with it.
class SharedMemoryTest : public ::testing::Test {
 protected:
  SharedMemoryTest() { options_.listen = {"unix:" + path_}; }

  void Start() {
    server_ = StartServer(options_);
    stub_ = StubOf(*server_);
  }
  void Share(int64_t size_bytes = kRegionBytes) {
    memory_ = *SharedMemory::Create(size_bytes);
    absl::StatusOr<AcceptedMemory> accepted = OfferMemory(side_path_, *memory_);
    ASSERT_TRUE(accepted.ok()) << accepted.status();
    accepted_ = *std::move(accepted);
  }
  std::string AnswerTo(std::string text, const std::vector<int>& fds) {
    return Offer(ConnectTo(side_path_), std::move(text), fds);
  }
  // Expects that a descriptor is refused with `code` and a text that has `why`.
  void ExpectRefused(const OwnedFd& fd, absl::StatusCode code, const std::string& why) {
    const std::string answer = AnswerTo(std::string(kMemoryOffer), {fd.get()});
    ASSERT_FALSE(answer.empty());
    EXPECT_EQ(answer[0], static_cast<char>(code)) << answer;
    EXPECT_THAT(answer, HasSubstr(why));
  }
  // Sends frames and returns all responses, by tensor; those that release come under id 0.
  template <typename Request, typename Response>
  grpc::Status Run(std::unique_ptr<grpc::ClientReaderWriter<Request, Response>> stream,
                   const std::vector<Request>& frames, std::vector<Response>& responses) {
    std::thread writer([&] {
      for (const Request& frame : frames) {
        if (!stream->Write(frame)) break;
      }
      stream->WritesDone();
    });
    for (Response response; stream->Read(&response);) responses.push_back(response);
    writer.join();
    return stream->Finish();
  }
  grpc::Status RunQuantize(QuantizeFrames& frames,
                           std::vector<v1::StreamingQuantizeResponse>& responses) {
    grpc::ClientContext context;
    context.AddMetadata(kMemoryTokenKey, accepted_.token);
    return Run(stub_->StreamingQuantize(&context), frames.all(), responses);
  }
  static void SharedChunk(QuantizeFrames& frames, uint64_t id, int64_t at, int64_t offset,
                          int64_t size_bytes) {
    v1::Chunk& chunk = *frames.Add(id).mutable_chunk();
    chunk.set_offset(at);
    chunk.mutable_shared()->set_offset(offset);
    chunk.mutable_shared()->set_size_bytes(size_bytes);
  }

  const TempDir folder_;
  const std::string path_ = folder_ / "sock", side_path_ = path_ + ".shm";
  ServerOptions options_;
  std::unique_ptr<QuantdServer> server_;
  std::unique_ptr<v1::QuantizationService::Stub> stub_;
  std::unique_ptr<SharedMemory> memory_;
  AcceptedMemory accepted_;
};

TEST_F(SharedMemoryTest, RefusesWhatIsNoSealedMemfd) {
  options_.access.shared_memory_bytes = kRegionBytes;
  Start();
  using enum absl::StatusCode;
  const ptrdiff_t before = OpenDescriptors();
  {
    ExpectRefused(OwnedFd(open("/dev/null", O_RDWR)), kInvalidArgument, "no memfd");
    ExpectRefused(OwnedFd(open("/proc/self/exe", O_RDONLY)), kInvalidArgument, "no memfd");
    ExpectRefused(OwnedFd(open(folder_.path().c_str(), O_TMPFILE | O_RDWR, 0600)), kInvalidArgument,
                  "cannot be shared");
    ExpectRefused(ConnectTo(side_path_), kInvalidArgument, "no memfd");
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    const OwnedFd in(ends[0]), out(ends[1]);
    ExpectRefused(out, kInvalidArgument, "no memfd");
    ExpectRefused(Memfd(kRegionBytes, 0), kInvalidArgument, "not sealed");
    ExpectRefused(Memfd(kRegionBytes, 0, 0), kInvalidArgument, "not sealed");
    for (const int left_out : {F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_SEAL}) {
      ExpectRefused(Memfd(kRegionBytes, kAllSeals & ~left_out), kInvalidArgument, "not sealed");
    }
    ExpectRefused(Memfd(0, kAllSeals), kInvalidArgument, "empty");
    ExpectRefused(Memfd(kRegionBytes, kAllSeals | F_SEAL_WRITE), kInvalidArgument, "written");
    const OwnedFd memory = Memfd(kRegionBytes, kAllSeals);
    const std::string again = "/proc/self/fd/" + std::to_string(memory.get());
    ExpectRefused(OwnedFd(open(again.c_str(), O_RDONLY)), kInvalidArgument, "written");
    ExpectRefused(Memfd(kRegionBytes + 1, kAllSeals), kResourceExhausted, "at most");
    // What is right is taken still.
    const std::string answer = AnswerTo(std::string(kMemoryOffer), {memory.get()});
    ASSERT_EQ(answer.size(), 1 + kMemoryTokenBytes) << answer;
    EXPECT_EQ(answer[0], 0);
  }
  WaitUntil([&] { return OpenDescriptors() == before && server_->budget().used_bytes() == 0; });
  EXPECT_EQ(server_->shared_regions(), 0);
}

TEST_F(SharedMemoryTest, RefusesOffersThatAreNone) {
  Start();
  const ptrdiff_t before = OpenDescriptors();
  {
    const OwnedFd memory = Memfd(kRegionBytes, kAllSeals);
    const int fd = memory.get();
    EXPECT_THAT(AnswerTo(std::string(kMemoryOffer), {}), HasSubstr("exactly one"));
    EXPECT_THAT(AnswerTo(std::string(kMemoryOffer), {fd, fd}), HasSubstr("exactly one"));
    EXPECT_THAT(AnswerTo(std::string(kMemoryOffer), std::vector<int>(100, fd)),
                HasSubstr("exactly one"));
    EXPECT_THAT(AnswerTo("quantd/2", {fd}), HasSubstr("quantd/1"));
    EXPECT_THAT(AnswerTo(std::string(kMemoryOffer) + "x", {fd}), HasSubstr("quantd/1"));
    EXPECT_THAT(AnswerTo(std::string(100'000, 'x'), {fd}), HasSubstr("quantd/1"));
    // A second offer over the same connection ends it, and its token.
    const OwnedFd twice = ConnectTo(side_path_);
    EXPECT_EQ(Offer(twice, std::string(kMemoryOffer), {fd}).size(), 1 + kMemoryTokenBytes);
    EXPECT_EQ(server_->shared_regions(), 1);
    EXPECT_EQ(Offer(twice, std::string(kMemoryOffer), {fd}), "");
  }
  WaitUntil([&] { return OpenDescriptors() == before; });
  EXPECT_EQ(server_->shared_regions(), 0);
  EXPECT_EQ(server_->budget().used_bytes(), 0);
}

TEST_F(SharedMemoryTest, SilentConnectionsAreCutAndTheirNumberIsBounded) {
  MemoryBudget budget(kRegionBytes * 3 / 2);
  SharedRegions regions({.max_connections = 2, .offer_timeout = absl::Milliseconds(50)}, budget);
  ASSERT_TRUE(regions.Start().ok());
  const auto connect = [&regions] {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    regions.Adopt(OwnedFd(ends[0]));
    return OwnedFd(ends[1]);
  };
  char byte;
  const OwnedFd silent = connect();
  EXPECT_EQ(recv(silent.get(), &byte, 1, 0), 0);  // blocks until the other side hangs up
  const OwnedFd memory = Memfd(kRegionBytes, kAllSeals);
  {
    const OwnedFd one = connect(), two = connect(), three = connect();
    EXPECT_EQ(Offer(one, std::string(kMemoryOffer), {memory.get()})[0], 0);
    EXPECT_EQ(budget.used_bytes(), kRegionBytes);
    EXPECT_THAT(Offer(two, std::string(kMemoryOffer), {memory.get()}), HasSubstr("budget"));
    char text[256];
    EXPECT_EQ(recv(three.get(), text, sizeof(text), 0) > 0, true);
    EXPECT_EQ(text[0], static_cast<char>(absl::StatusCode::kResourceExhausted));
    EXPECT_EQ(regions.regions(), 1);
  }
  WaitUntil([&] { return regions.connections() == 0; });
  EXPECT_EQ(budget.used_bytes(), 0);
}

TEST_F(SharedMemoryTest, RangesBeyondTheRegionFailTheirTensorOnly) {
  Start();
  Share();
  const TensorDesc tensor = F32Tensor("t", {1024});
  const std::string values = RandomF32(1024, 1);
  std::memcpy(memory_->bytes().data() + kRegionBytes - 4096, values.data(), values.size());
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  QuantizeFrames frames;
  uint64_t id = 0;
  const std::vector<std::pair<int64_t, int64_t>> beyond = {
      {kRegionBytes, 4096}, {kRegionBytes - 4095, 4096},
      {-1, 4096},           {0, -1},
      {kMax, 4096},         {4096, kMax},
      {kMax, kMax},         {-kMax, kMax}};
  for (const auto& [offset, size_bytes] : beyond) {
    frames.Open(++id, QuantizeStartOf(tensor, "int8"));
    SharedChunk(frames, id, 0, offset, size_bytes);
    frames.End(id);
  }
  // Both kinds of payload at once; a chunk of nothing; and one that is right.
  frames.Open(++id, QuantizeStartOf(tensor, "int8"));
  SharedChunk(frames, id, 0, 0, 4096);
  frames.all().back().mutable_chunk()->set_data("x");
  frames.End(id);
  frames.Open(++id, QuantizeStartOf(tensor, "int8"));
  SharedChunk(frames, id, 0, kRegionBytes, 0);
  SharedChunk(frames, id, 0, kRegionBytes - 4096, 4096);
  frames.End(id);
  std::vector<v1::StreamingQuantizeResponse> responses;
  EXPECT_TRUE(RunQuantize(frames, responses).ok());
  size_t errors = 0, released = 0;
  Answer<v1::StreamingQuantizeResponse> last;
  for (const auto& response : responses) {
    if (response.has_released()) {
      released += static_cast<size_t>(response.released().offsets_size());
    } else if (response.has_error()) {
      ++errors;
      EXPECT_EQ(response.error().code(), static_cast<int>(absl::StatusCode::kInvalidArgument))
          << response.error().message();
    } else if (response.tensor_id() == id) {
      last.Add(response);
    }
  }
  EXPECT_EQ(errors, beyond.size() + 1);
  EXPECT_EQ(released, beyond.size() + 3);  // each chunk is told of
  ExpectQuantized(last, *QuantizeHere("int8", tensor, values));
}

TEST_F(SharedMemoryTest, RangesThatOverlapAreRead) {
  Start();
  Share();
  const std::string half = RandomF32(1024, 2);
  std::memcpy(memory_->bytes().data(), half.data(), half.size());
  const TensorDesc tensor = F32Tensor("t", {2048});
  QuantizeFrames frames;
  frames.Open(1, QuantizeStartOf(tensor, "int8"));
  SharedChunk(frames, 1, 0, 0, 4096);
  SharedChunk(frames, 1, 4096, 0, 4096);
  frames.End(1);
  std::vector<v1::StreamingQuantizeResponse> responses;
  EXPECT_TRUE(RunQuantize(frames, responses).ok());
  Answer<v1::StreamingQuantizeResponse> answer;
  for (const auto& response : responses) {
    if (!response.has_released()) answer.Add(response);
  }
  ExpectQuantized(answer, *QuantizeHere("int8", tensor, half + half));
}

TEST_F(SharedMemoryTest, SlotsThatCannotBeAreRefused) {
  Start();
  Share();
  QuantizeFrames frames;
  uint64_t id = 0;
  const auto add = [&](int64_t offset, int64_t slot_bytes, int count, int64_t flags_offset) {
    v1::QuantizeStart start = QuantizeStartOf(F32Tensor("t", {4}), "int8");
    v1::SharedSlots& slots = *start.mutable_output_slots();
    slots.set_offset(offset);
    slots.set_slot_bytes(slot_bytes);
    slots.set_count(count);
    slots.set_flags_offset(flags_offset);
    frames.Open(++id, start);
  };
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max() / 64 * 64;
  add(0, 4096, 0, 0);
  add(0, 4096, -1, 0);
  add(0, 4096, 257, 0);
  add(1, 4096, 1, 0);
  add(-64, 4096, 1, 0);
  add(0, 0, 1, 0);
  add(0, 100, 1, 0);
  add(0, kRegionBytes, 2, 0);
  add(0, kMax, 4, 0);
  add(kMax, 4096, 1, 0);
  add(0, 4096, 1, kRegionBytes);
  add(0, 4096, 1, 4);
  add(0, 4096, 1, -64);
  add(0, 4096, 17, kRegionBytes - 64);
  std::vector<v1::StreamingQuantizeResponse> responses;
  EXPECT_TRUE(RunQuantize(frames, responses).ok());
  ASSERT_EQ(responses.size(), id);
  for (const auto& response : responses) {
    EXPECT_EQ(response.error().code(), static_cast<int>(absl::StatusCode::kInvalidArgument))
        << response.DebugString();
  }
}

TEST_F(SharedMemoryTest, TokensAreGoodWhileTheirConnectionIsOpen) {
  Start();
  Share();
  const auto code_of = [&](const std::string& token) {
    grpc::ClientContext context;
    context.AddMetadata(kMemoryTokenKey, token);
    QuantizeFrames none;
    std::vector<v1::StreamingQuantizeResponse> responses;
    return Run(stub_->StreamingQuantize(&context), none.all(), responses).error_code();
  };
  EXPECT_EQ(code_of(accepted_.token), grpc::StatusCode::OK);
  EXPECT_EQ(code_of(""), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(code_of(accepted_.token.substr(1)), grpc::StatusCode::UNAVAILABLE);
  std::string other = accepted_.token;
  other[31] ^= 1;
  EXPECT_EQ(code_of(other), grpc::StatusCode::UNAVAILABLE);

  // A stream that runs keeps the region; new ones do not get it.
  grpc::ClientContext context;
  context.AddMetadata(kMemoryTokenKey, accepted_.token);
  const auto stream = stub_->StreamingQuantize(&context);
  const TensorDesc tensor = F32Tensor("t", {1024});
  const std::string values = RandomF32(1024, 3);
  std::memcpy(memory_->bytes().data(), values.data(), values.size());
  QuantizeFrames frames;
  frames.Open(1, QuantizeStartOf(tensor, "int8"));
  SharedChunk(frames, 1, 0, 0, 4096);
  frames.End(1);
  ASSERT_TRUE(stream->Write(frames.all()[0]));
  Answer<v1::StreamingQuantizeResponse> answer;
  v1::StreamingQuantizeResponse response;
  ASSERT_TRUE(stream->Read(&response));
  answer.Add(response);
  const std::string token = accepted_.token;
  accepted_ = AcceptedMemory();
  WaitUntil([&] { return server_->shared_regions() == 0; });
  EXPECT_EQ(code_of(token), grpc::StatusCode::UNAVAILABLE);
  EXPECT_GE(server_->budget().used_bytes(), kRegionBytes);
  ASSERT_TRUE(stream->Write(frames.all()[1]));
  ASSERT_TRUE(stream->Write(frames.all()[2]));
  stream->WritesDone();
  while (stream->Read(&response)) {
    if (!response.has_released()) answer.Add(response);
  }
  EXPECT_TRUE(stream->Finish().ok());
  ExpectQuantized(answer, *QuantizeHere("int8", tensor, values));
  WaitUntil([&] { return server_->budget().used_bytes() == 0; });
}

TEST_F(SharedMemoryTest, AClientThatDiesLeavesNothing) {
  Start();
  { Client(ChannelTo(server_->addresses().at(0))).CheckHealth().IgnoreError(); }
  WaitUntil([&] { return server_->open_connections() == 0; });
  const ptrdiff_t before = OpenDescriptors();
  for (int round = 0; round < 3; ++round) {
    stub_ = StubOf(*server_);
    Share();
    grpc::ClientContext context;
    context.AddMetadata(kMemoryTokenKey, accepted_.token);
    const auto stream = stub_->StreamingQuantize(&context);
    v1::QuantizeStart start = QuantizeStartOf(F32Tensor("t", {1 << 20}), "int8:scale=0.1");
    start.mutable_output_slots()->set_offset(kRegionBytes / 2);
    start.mutable_output_slots()->set_slot_bytes(4096);
    start.mutable_output_slots()->set_count(4);
    QuantizeFrames frames;
    frames.Open(1, start);
    SharedChunk(frames, 1, 0, 0, kRegionBytes / 2);
    for (const auto& frame : frames.all()) ASSERT_TRUE(stream->Write(frame));
    v1::StreamingQuantizeResponse response;
    ASSERT_TRUE(stream->Read(&response));
    context.TryCancel();  // as its connection's end would
    EXPECT_FALSE(stream->Finish().ok());
    accepted_ = AcceptedMemory();
    memory_.reset();
    stub_.reset();
  }
  WaitUntil([&] {
    return server_->budget().used_bytes() == 0 && server_->active_calls() == 0 &&
           server_->shared_regions() == 0 && server_->open_connections() == 0;
  });
  WaitUntil([&] { return OpenDescriptors() <= before; });
}

TEST_F(SharedMemoryTest, ASecondServerDoesNotTakeTheSideSocket) {
  Start();
  EXPECT_EQ(QuantdServer::Start(options_).status().code(), absl::StatusCode::kFailedPrecondition);
  ServerOptions on_side;
  on_side.listen = {"unix:" + side_path_};
  EXPECT_EQ(QuantdServer::Start(on_side).status().code(), absl::StatusCode::kInvalidArgument);
  Share();
  EXPECT_EQ(server_->shared_regions(), 1);
}

TEST_F(SharedMemoryTest, TheSideSocketIsLikeTheOther) {
  options_.access.socket_mode = 0600;
  Start();
  struct stat info;
  ASSERT_EQ(lstat(side_path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600u);
  server_.reset();
  EXPECT_EQ(folder_.Names(), std::vector<std::string>{"sock.lock"});
  // Others than the allowed users are not listened to.
  options_.access.allowed_uids = {geteuid() + 1};
  Start();
  memory_ = *SharedMemory::Create(kRegionBytes);
  EXPECT_EQ(OfferMemory(side_path_, *memory_).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_GE(server_->refused_connections(), 1);
  // It can be left out.
  server_.reset();
  options_.access.shared_memory_bytes = 0;
  Start();
  EXPECT_NE(lstat(side_path_.c_str(), &info), 0);
}

// Writes over all of a region, flags and slots and values, until it goes away.
class Scribbler {
 public:
  explicit Scribbler(std::span<std::byte> bytes) : thread_([this, bytes] { Run(bytes); }) {}
  ~Scribbler() {
    stop_ = true;
    thread_.join();
  }

 private:
  void Run(std::span<std::byte> bytes) {
    std::mt19937_64 rng(7);
    auto* const words = reinterpret_cast<uint64_t*>(bytes.data());
    const size_t count = bytes.size() / sizeof(uint64_t);
    while (!stop_) {
      for (size_t i = 0; i < 4096; ++i) {
        // Whatever it is; often 0, which is a flag that says free.
        std::atomic_ref<uint64_t>(words[rng() % count])
            .store(rng() % 4 == 0 ? 0 : rng(), std::memory_order_relaxed);
      }
    }
  }
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

class ScribbledTest : public SharedMemoryTest, public ::testing::WithParamInterface<const Scheme*> {
 protected:
  static constexpr int64_t kValueBytes = 256 << 10;

  void SetSlots(v1::SharedSlots& slots) {
    slots.set_offset(kRegionBytes / 2);
    slots.set_slot_bytes(64 << 10);
    slots.set_count(7);
    slots.set_flags_offset(kRegionBytes - 4096);
  }
  // Adds chunks of a plane that lie in the scribbled half, in odd cuts.
  template <typename Request>
  void AddChunks(Frames<Request>& frames, uint64_t id, const std::string& plane,
                 int64_t size_bytes) {
    int64_t at = 0;
    for (int64_t step = 1; at < size_bytes; ++step) {
      const int64_t count = std::min<int64_t>(size_bytes - at, kValueBytes / 3 + step * 13);
      v1::Chunk& chunk = *frames.Add(id).mutable_chunk();
      chunk.set_plane(plane);
      chunk.set_offset(at);
      chunk.mutable_shared()->set_offset(step % 3 * 4096 + step % 2);
      chunk.mutable_shared()->set_size_bytes(count);
      at += count;
    }
  }
};

TEST_P(ScribbledTest, HarmsNobodyElse) {
  Start();
  Share();
  const std::string scheme(GetParam()->info.name);
  const TensorDesc tensor = F32Tensor("t", {4, kValueBytes / 16});
  std::vector<std::string> specs = {scheme};
  for (const NonFinite policy : GetParam()->info.nonfinites) {
    if (policy == NonFinite::kSaturate) specs.push_back(scheme + ":nonfinite=saturate");
  }
  const Scribbler scribbler(memory_->bytes());
  for (const std::string& spec : specs) {
    QuantizeFrames frames;
    for (uint64_t id = 1; id <= 4; ++id) {
      v1::QuantizeStart start = QuantizeStartOf(tensor, spec);
      SetSlots(*start.mutable_output_slots());
      frames.Open(id, start);
      AddChunks(frames, id, "", kValueBytes);
      frames.End(id);
    }
    std::vector<v1::StreamingQuantizeResponse> responses;
    const grpc::Status status = RunQuantize(frames, responses);
    EXPECT_TRUE(status.ok()) << status.error_message();
  }
  // What the packed form has decoded, likewise.
  const QuantizedTensor packed = *QuantizeHere(scheme, tensor, std::string(kValueBytes, '\0'));
  DequantizeFrames frames;
  for (uint64_t id = 1; id <= 4; ++id) {
    v1::DequantizeStart start;
    *start.mutable_tensor() = ToProto(tensor);
    start.mutable_spec()->set_text(FormatSpec(packed.plan.resolved.spec));
    SetSlots(*start.mutable_output_slots());
    frames.Open(id, start);
    const std::vector<PlaneDesc>& planes = packed.plan.resolved.layout.planes;
    for (size_t i = 1; i <= planes.size(); ++i) {
      const PlaneDesc& plane = planes[i % planes.size()];
      AddChunks(frames, id, plane.name, plane.size_bytes);
    }
    frames.End(id);
  }
  grpc::ClientContext context;
  context.AddMetadata(kMemoryTokenKey, accepted_.token);
  std::vector<v1::StreamingDequantizeResponse> responses;
  const grpc::Status status = Run(stub_->StreamingDequantize(&context), frames.all(), responses);
  EXPECT_TRUE(status.ok()) << status.error_message();
  int64_t ended = 0;
  for (const auto& response : responses) ended += response.has_end();
  EXPECT_EQ(ended, 4);
  // The server goes on to serve others.
  const std::string values = RandomF32(4096, 5);
  QuantizeFrames fine;
  fine.Open(1, QuantizeStartOf(F32Tensor("u", {4096}), "int8")).Chunks(1, "", values, 4096).End(1);
  auto answer = Exchange(*stub_, fine);
  ExpectQuantized(answer.tensors[1], *QuantizeHere("int8", F32Tensor("u", {4096}), values));
}

INSTANTIATE_TEST_SUITE_P(Schemes, ScribbledTest, ::testing::ValuesIn(AllSchemes()),
                         [](const auto& info) { return std::string(info.param->info.name); });

}  // namespace
}  // namespace quantd::testing
