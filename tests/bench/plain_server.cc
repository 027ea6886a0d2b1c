// The core behind a bare socket, one thread a connection: reads a piece of a frame, checks it,
// encodes it, and sends the codes from a buffer that is used again. What a service over gRPC is
// measured beside.
//   plain_server [unix:PATH] PORT_FILE
// Listens on loopback too, and writes that address to PORT_FILE once it serves.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/crc32c.h"
#include "core/base/mutex.h"
#include "core/exec/allocator.h"
#include "core/io/shared_memory.h"
#include "core/session/quantize_session.h"
#include "tests/bench/plain_socket.h"

namespace quantd::bench {
namespace {

// Of values, read at once: some stripes. Larger ones leave the L2 cache.
constexpr size_t kPieceBytes = size_t{1} << 20;

// Sends what a session writes: the codes of a frame of values as a frame. Not thread-safe.
class SocketSink final : public PayloadSink {
 public:
  SocketSink(int fd, bool checks, std::span<const PlaneDesc> planes, BufferPool& pool)
      : fd_(fd), checks_(checks) {
    // Only what is unsent at once is ever touched.
    for (const PlaneDesc& plane : planes) {
      planes_.push_back({*pool.Acquire(static_cast<size_t>(plane.size_bytes))});
    }
  }

  SinkMemory Acquire(int64_t, int64_t size_bytes) override {
    Plane& codes = planes_[0];
    codes.acquired_bytes += static_cast<size_t>(size_bytes);
    return codes.memory.span()
        .first(codes.acquired_bytes)
        .last(static_cast<size_t>(size_bytes));
  }
  void Commit(int64_t, int64_t size_bytes, uint32_t crc32c) override {
    Plane& codes = planes_[0];
    codes.crc32c = CombineCrc32c(codes.crc32c, crc32c, size_bytes);
    codes.used_bytes += static_cast<size_t>(size_bytes);
  }
  void Put(int index, int64_t, std::span<const std::byte> bytes) override {
    Plane& plane = planes_[static_cast<size_t>(index)];
    std::copy(bytes.begin(), bytes.end(), plane.memory.data() + plane.used_bytes);
    if (checks_) plane.crc32c = Crc32c(bytes, plane.crc32c);
    plane.used_bytes += bytes.size();
  }
  bool wants_crc() const override { return checks_; }

  // When nothing is in flight.
  absl::Status FlushCodes() { return Flush(0); }
  absl::Status FlushAll() {
    for (size_t i = 0; i < planes_.size(); ++i) QUANTD_RETURN_IF_ERROR(Flush(i));
    return absl::OkStatus();
  }

 private:
  struct Plane {
    BufferPool::Buffer memory;
    size_t acquired_bytes = 0;  // of it
    size_t used_bytes = 0;      // that are written
    uint32_t crc32c = 0;        // of those
  };

  absl::Status Flush(size_t index) {
    Plane& plane = planes_[index];
    const size_t size = std::exchange(plane.used_bytes, 0);
    plane.acquired_bytes = 0;
    if (size == 0) return absl::OkStatus();
    const FrameHeader header = {static_cast<uint32_t>(index), static_cast<uint32_t>(size),
                                std::exchange(plane.crc32c, 0)};
    return SendAll(fd_, header, plane.memory.span().first(size));
  }

  const int fd_;
  const bool checks_;
  std::vector<Plane> planes_;
};

// Reads one frame by pieces, and has the session encode each while it is in the cache.
absl::Status EncodeFrame(int fd, bool checks, BufferPool& pool, QuantizeSession& session) {
  QUANTD_ASSIGN_OR_RETURN(const FrameHeader header, ReadHeader<FrameHeader>(fd));
  uint32_t crc32c = 0;
  for (size_t left = header.size_bytes; left > 0;) {
    const auto memory = std::make_shared<BufferPool::Buffer>(*pool.Acquire(kPieceBytes));
    const std::span<std::byte> part = memory->span().first(std::min(left, kPieceBytes));
    QUANTD_RETURN_IF_ERROR(ReadAll(fd, part));
    left -= part.size();
    if (checks) crc32c = Crc32c(part, crc32c);
    session.Push({part, memory});
    while (!session.WantsInput() && session.Help()) {
    }
  }
  session.Await();
  if (checks && crc32c != header.crc32c) return absl::DataLossError("the CRC of a frame is wrong");
  return session.status();
}

absl::Status ServeTensor(int fd, const TensorHeader& header, const SessionContext& context) {
  QUANTD_ASSIGN_OR_RETURN(const QuantSpec spec, ParseSpec(header.spec));
  QUANTD_ASSIGN_OR_RETURN(Shape shape, Shape::Make({header.rows, header.columns}));
  const TensorDesc tensor = {"t", DType::kF32, std::move(shape)};
  QUANTD_ASSIGN_OR_RETURN(Plan plan, MakePlan(spec, tensor, context.budget->limit_bytes(),
                                               {.threads = context.executor->workers() + 1}));
  const bool checks = header.checks != 0;
  SocketSink sink(fd, checks, plan.resolved.layout.planes, *context.pool);
  QuantizeOptions options;
  options.figures = checks;
  QUANTD_ASSIGN_OR_RETURN(const auto session,
                          QuantizeSession::Create(std::move(plan), options, sink, context));
  while (!session->ended()) {
    QUANTD_RETURN_IF_ERROR(EncodeFrame(fd, checks, *context.pool, *session));
    QUANTD_RETURN_IF_ERROR(sink.FlushCodes());
  }
  QUANTD_RETURN_IF_ERROR(sink.FlushAll());
  QUANTD_ASSIGN_OR_RETURN(const EncodingReport report, session->Finish());
  const std::string digests = absl::StrJoin(report.digests, " ");
  return SendAll(fd, FrameHeader{kEndPlane, static_cast<uint32_t>(digests.size())},
                 std::as_bytes(std::span(digests)));
}

// Serves tensors until the client closes the connection.
absl::Status Serve(int fd, const SessionContext& context) {
  while (true) {
    const absl::StatusOr<TensorHeader> header = ReadHeader<TensorHeader>(fd);
    if (absl::IsOutOfRange(header.status())) return absl::OkStatus();
    QUANTD_RETURN_IF_ERROR(header.status());
    QUANTD_RETURN_IF_ERROR(ServeTensor(fd, *header, context));
  }
}

// Returns a socket that listens at `address`; ends the program where that cannot be.
OwnedFd Listen(const SocketAddress& address) {
  OwnedFd fd = address.NewSocket();
  if (bind(fd.get(), address.get(), address.size_bytes()) != 0 ||
      listen(fd.get(), SOMAXCONN) != 0) {
    std::perror("cannot listen");
    std::exit(1);
  }
  return fd;
}

// Gives each connection a thread, as long as the program runs.
void AcceptAll(OwnedFd listening, SessionContext context) {
  while (true) {
    OwnedFd connection(accept4(listening.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (connection.get() < 0) continue;
    Tune(connection.get());
    std::thread([connection = std::move(connection), context] {
      const absl::Status status = Serve(connection.get(), context);
      if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
    }).detach();
  }
}

int Main(int argc, char** argv) {
  if (argc < 2) return 2;
  // As quantd does.
  TuneAllocator();
  SkipDeadlockSearch();
  Executor executor(static_cast<int>(std::thread::hardware_concurrency()));
  BufferPool pool(size_t{256} << 20);
  MemoryBudget budget(int64_t{1} << 30);
  const SessionContext context = {&executor, &pool, &budget};
  for (int i = 1; i + 1 < argc; ++i) {
    std::thread(AcceptAll, Listen(SocketAddress(argv[i])), context).detach();
  }
  OwnedFd tcp = Listen(SocketAddress("127.0.0.1:0"));
  sockaddr_in name = {};
  socklen_t size = sizeof(name);
  getsockname(tcp.get(), reinterpret_cast<sockaddr*>(&name), &size);
  const std::string port_file = argv[argc - 1];
  std::ofstream(absl::StrCat(port_file, ".tmp")) << "127.0.0.1:" << ntohs(name.sin_port) << "\n";
  std::filesystem::rename(absl::StrCat(port_file, ".tmp"), port_file);
  AcceptAll(std::move(tcp), context);
  return 0;
}

}  // namespace
}  // namespace quantd::bench

int main(int argc, char** argv) { return quantd::bench::Main(argc, argv); }
