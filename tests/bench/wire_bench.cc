// Streams of f32 through StreamingQuantize (int8, checksums, digests and figures on, and without
// them) beside a bare gRPC echo of the same bytes: the same frames in, a quarter of each back, no
// kernel. Both servers live in one process of their own, except for in-process channels; the client
// is ours for both. GB/s are of f32 sent. Small calls: unary Quantize of 384 floats beside a unary
// echo, calls per second.
#include <benchmark/benchmark.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <malloc.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <limits>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "client/byte_stream.h"
#include "client/client.h"
#include "quantd/v1/quantization.grpc.pb.h"
#include "server/server.h"
#include "tests/bench/echo_service.h"
#include "tests/bench/load.h"
#include "tests/bench/table.h"

namespace quantd::bench {
namespace {

constexpr int64_t kTensorBytes = int64_t{64} << 20;
// As the programs do.
void KeepPages() {
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
  mallopt(M_TOP_PAD, 64 << 20);
}

// An echo server and a quantd server at the same kinds of address.
struct Servers {
  explicit Servers(const std::string& folder) {
    const std::string unix_path = absl::StrCat("unix:", folder, "/echo");
    grpc::ServerBuilder builder;
    builder.RegisterCallbackGenericService(&echo_service);
    builder.SetMaxReceiveMessageSize(16 << 20);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 256 << 10);
    int port = 0;
    if (!folder.empty()) {
      builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
      builder.AddListeningPort(unix_path, grpc::InsecureServerCredentials());
    }
    echo = builder.BuildAndStart();
    ServerOptions options;
    if (!folder.empty()) options.listen = {"127.0.0.1:0", absl::StrCat("unix:", folder, "/quantd")};
    quantd = *QuantdServer::Start(options);
    addresses = {absl::StrCat("127.0.0.1:", port), unix_path};
    for (const std::string& address : quantd->addresses()) addresses.push_back(address);
  }
  EchoService echo_service;
  std::unique_ptr<grpc::Server> echo;
  std::unique_ptr<QuantdServer> quantd;
  std::vector<std::string> addresses;  // echo TCP, echo UNIX, quantd TCP, quantd UNIX
};

// Serves until standard input ends.
int ServeAsChild(const std::string& folder) {
  KeepPages();
  Servers servers(folder);
  for (const std::string& address : servers.addresses) std::cout << address << std::endl;
  std::cin.get();
  servers.echo->Shutdown(std::chrono::system_clock::now());
  return 0;
}

const std::vector<float>& Input() {
  static const std::vector<float> kInput = [] {
    std::vector<float> values(kTensorBytes / sizeof(float));
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 255) - 127.0f;
    return values;
  }();
  return kInput;
}

void BenchEcho(benchmark::State& state, std::shared_ptr<grpc::Channel> channel,
               const std::string& method, int64_t frame_bytes) {
  for (auto _ : state) {
    ByteStream stream(channel, method, absl::InfiniteFuture());
    std::thread writer([&] {
      const std::byte* data = reinterpret_cast<const std::byte*>(Input().data());
      for (int64_t at = 0; at < kTensorBytes; at += frame_bytes) {
        const grpc::Slice slice(data + at, static_cast<size_t>(frame_bytes),
                                grpc::Slice::STATIC_SLICE);
        if (!stream.Write(grpc::ByteBuffer(&slice, 1)).ok()) break;
      }
      stream.WritesDone();
    });
    int64_t frames = 0;
    for (auto message = stream.Read(); message.ok() && message->has_value();
         message = stream.Read()) {
      ++frames;
    }
    writer.join();
    if (frames != kTensorBytes / frame_bytes) state.SkipWithError("echo lost frames");
  }
  state.SetBytesProcessed(state.iterations() * kTensorBytes);
}

void BenchQuantize(benchmark::State& state, std::shared_ptr<grpc::Channel> channel,
                   const std::string& spec, int64_t frame_bytes, bool checks) {
  const Client client(channel);
  const TensorDesc tensor = {"t", DType::kF32, *Shape::Make({kTensorBytes / 4 / 4096, 4096})};
  CallOptions options;
  options.chunk_bytes = frame_bytes;
  options.figures = options.checksums = checks;
  for (auto _ : state) {
    MemorySource source(std::as_bytes(std::span(Input())));
    DiscardSink sink;
    const auto info = client.Quantize({tensor, *ParseSpec(spec), &source, &sink, {}, {}}, options);
    if (!info.ok()) state.SkipWithError(std::string(info.status().message()).c_str());
  }
  state.SetBytesProcessed(state.iterations() * kTensorBytes);
}

// One call after the other, as a caller of embeddings makes them.
void BenchUnaryQuantize(benchmark::State& state, std::shared_ptr<grpc::Channel> channel) {
  const auto stub = v1::QuantizationService::NewStub(channel);
  v1::QuantizeRequest request;
  request.mutable_start()->mutable_tensor()->set_name("e");
  request.mutable_start()->mutable_tensor()->set_data_type(v1::DATA_TYPE_F32);
  request.mutable_start()->mutable_tensor()->add_shape(384);
  request.mutable_start()->mutable_spec()->set_text("int8");
  request.set_data(Input().data(), 384 * sizeof(float));
  for (auto _ : state) {
    grpc::ClientContext context;
    v1::QuantizeResponse response;
    if (!stub->Quantize(&context, request, &response).ok()) state.SkipWithError("call failed");
  }
  state.SetItemsProcessed(state.iterations());
}

void BenchUnaryEcho(benchmark::State& state, std::shared_ptr<grpc::Channel> channel) {
  grpc::TemplatedGenericStub<v1::QuantizeRequest, v1::QuantizeRequest> stub(channel);
  v1::QuantizeRequest request;
  request.set_data(Input().data(), 384 * sizeof(float));
  for (auto _ : state) {
    grpc::ClientContext context;
    v1::QuantizeRequest response;
    absl::Notification done;
    stub.UnaryCall(&context, kEchoAll, grpc::StubOptions(), &request, &response,
                   [&](const grpc::Status& status) {
                     if (!status.ok()) state.SkipWithError("call failed");
                     done.Notify();
                   });
    done.WaitForNotification();
  }
  state.SetItemsProcessed(state.iterations());
}

struct Transport {
  std::string name;
  std::shared_ptr<grpc::Channel> echo, quantd;
};

void RegisterAll(const std::vector<Transport>& transports,
                 std::map<std::string, std::string>& baselines) {
  for (const Transport& transport : transports) {
    const auto add = [&](const std::string& row, const std::string& column, auto fn) {
      benchmark::RegisterBenchmark(absl::StrCat(row, "/", column).c_str(), fn)->UseRealTime();
    };
    for (const int64_t frame_bytes : {int64_t{1} << 20, int64_t{4} << 20}) {
      const std::string column =
          absl::StrCat(transport.name, ", ", frame_bytes >> 20, " MiB frames");
      add("bare echo", column, [=](benchmark::State& state) {
        BenchEcho(state, transport.echo, kEchoQuarter, frame_bytes);
      });
      add("bare echo, half", column, [=](benchmark::State& state) {
        BenchEcho(state, transport.echo, kEchoHalf, frame_bytes);
      });
      for (const char* spec : {"int8:scale=1", "int8:axis=0", "fp16"}) {
        for (const bool checks : {true, false}) {
          const std::string row = absl::StrCat(spec, checks ? "" : ", no figures, no CRC");
          baselines[row] = absl::StartsWith(spec, "fp16") ? "bare echo, half" : "bare echo";
          add(row, column, [=](benchmark::State& state) {
            BenchQuantize(state, transport.quantd, spec, frame_bytes, checks);
          });
        }
      }
    }
    const std::string column = absl::StrCat(transport.name, ", 384 floats in a call");
    baselines["unary Quantize"] = "unary echo";
    add("unary echo", column,
        [=](benchmark::State& state) { BenchUnaryEcho(state, transport.echo); });
    add("unary Quantize", column,
        [=](benchmark::State& state) { BenchUnaryQuantize(state, transport.quantd); });
  }
}

// Starts the servers' process; standard input of it ends with ours. Returns its addresses.
class Child {
 public:
  Child(const char* program, const std::string& folder) {
    int in[2], out[2];
    if (pipe(in) != 0 || pipe(out) != 0) std::abort();
    pid_ = fork();
    if (pid_ == 0) {
      dup2(in[0], 0);
      dup2(out[1], 1);
      for (const int fd : {in[0], in[1], out[0], out[1]}) close(fd);
      execl(program, program, "--serve", folder.c_str(), nullptr);
      _exit(127);
    }
    close(in[0]);
    close(out[1]);
    stdin_ = in[1];
    FILE* lines = fdopen(out[0], "r");
    char line[256];
    while (addresses.size() < 4 && fgets(line, sizeof(line), lines)) {
      addresses.emplace_back(line, strcspn(line, "\n"));
    }
    fclose(lines);
  }
  ~Child() {
    close(stdin_);
    waitpid(pid_, nullptr, 0);
  }
  std::vector<std::string> addresses;

 private:
  pid_t pid_;
  int stdin_;
};

int Main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "--serve") return ServeAsChild(argv[2]);
  std::string folder = (std::filesystem::temp_directory_path() / "quantd_bench_XXXXXX").string();
  if (mkdtemp(folder.data()) == nullptr) return 1;
  int exit_code = 1;
  {
    const Child child("/proc/self/exe", folder);
    if (child.addresses.size() == 4) {
      KeepPages();
      Servers local("");
      const auto connect = [](const std::string& address) {
        return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(),
                                         ClientChannelArguments());
      };
      const std::vector<Transport> transports = {
          {"TCP", connect(child.addresses[0]), connect(child.addresses[2])},
          {"UNIX", connect(child.addresses[1]), connect(child.addresses[3])},
          {"in-process", local.echo->InProcessChannel(ClientChannelArguments()),
           local.quantd->InProcessChannel(ClientChannelArguments())}};
      std::map<std::string, std::string> baselines;
      RegisterAll(transports, baselines);
      exit_code = RunTable(argc, argv, baselines);
      benchmark::ClearRegisteredBenchmarks();
      local.echo->Shutdown(std::chrono::system_clock::now());
    }
  }
  std::filesystem::remove_all(folder);
  return exit_code;
}

}  // namespace
}  // namespace quantd::bench

int main(int argc, char** argv) { return quantd::bench::Main(argc, argv); }
