// Streams of f32 through StreamingQuantize (int8 and fp16; checksums and figures on, and without
// them; digests always) beside two others that take the same frames: a bare gRPC echo of a quarter
// or half of each, with our client and no kernel, and a plain socket without gRPC, whose two ends
// do the same work. Each server has a process of its own, except for in-process channels. GB/s are
// of f32 sent. Small calls: unary Quantize of 384 floats beside a unary echo, calls per second.
#include <benchmark/benchmark.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "client/client.h"
#include "core/base/mutex.h"
#include "core/exec/allocator.h"
#include "proto/grpc_switches.h"
#include "quantd/v1/quantization.grpc.pb.h"
#include "server/server.h"
#include "tests/bench/byte_stream.h"
#include "tests/bench/child_server.h"
#include "tests/bench/echo_service.h"
#include "tests/bench/load.h"
#include "tests/bench/plain_client.h"
#include "tests/bench/table.h"

namespace quantd::bench {
namespace {

constexpr int64_t kTensorBytes = int64_t{64} << 20;
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
    ByteStream stream(channel, method);
    std::thread writer([&] {
      const std::byte* data = reinterpret_cast<const std::byte*>(Input().data());
      for (int64_t at = 0; at < kTensorBytes; at += frame_bytes) {
        const grpc::Slice slice(data + at, static_cast<size_t>(frame_bytes),
                                grpc::Slice::STATIC_SLICE);
        if (!stream.Write(grpc::ByteBuffer(&slice, 1))) break;
      }
      stream.WritesDone();
    });
    int64_t frames = 0;
    while (stream.Read().has_value()) ++frames;
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

void BenchPlain(benchmark::State& state, PlainClient& client, const std::string& spec,
                int64_t frame_bytes, bool checks) {
  TensorHeader header;
  spec.copy(header.spec, sizeof(header.spec) - 1);
  header.rows = kTensorBytes / 4 / 4096;
  header.columns = 4096;
  header.frame_bytes = static_cast<uint32_t>(frame_bytes);
  header.checks = checks ? 1 : 0;
  for (auto _ : state) {
    const absl::Status status = client.Quantize(header, std::as_bytes(std::span(Input())));
    if (!status.ok()) return state.SkipWithError(std::string(status.message()).c_str());
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
  std::shared_ptr<PlainClient> plain;  // null: there is no socket
};

void RegisterAll(const std::vector<Transport>& transports, Baselines& baselines) {
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
          const std::string plain = absl::StrCat("plain socket, ", row);
          baselines[row] = {absl::StartsWith(spec, "fp16") ? "bare echo, half" : "bare echo",
                            plain};
          if (transport.plain != nullptr) {
            add(plain, column, [=](benchmark::State& state) {
              BenchPlain(state, *transport.plain, spec, frame_bytes, checks);
            });
          }
          add(row, column, [=](benchmark::State& state) {
            BenchQuantize(state, transport.quantd, spec, frame_bytes, checks);
          });
        }
      }
    }
    const std::string column = absl::StrCat(transport.name, ", 384 floats in a call");
    baselines["unary Quantize"] = {"unary echo"};
    add("unary echo", column,
        [=](benchmark::State& state) { BenchUnaryEcho(state, transport.echo); });
    add("unary Quantize", column,
        [=](benchmark::State& state) { BenchUnaryQuantize(state, transport.quantd); });
  }
}

int Main(int argc, char** argv) {
  TuneAllocator();
  SkipDeadlockSearch();
  SetGrpcSwitches();
  const TempFolder temp;
  const std::string echo_path = absl::StrCat("unix:", (temp.path() / "echo").string());
  const std::string quantd_path = absl::StrCat("unix:", (temp.path() / "quantd").string());
  const std::string plain_path = absl::StrCat("unix:", (temp.path() / "plain").string());
  const ChildServer echo(temp.path(), {ECHO_PROGRAM, echo_path});
  const ChildServer quantd(temp.path(), {QUANTD_PROGRAM, "--listen", "127.0.0.1:0", "--listen",
                                         quantd_path, "--port-file"});
  const ChildServer plain(temp.path(), {PLAIN_PROGRAM, plain_path});
  EchoService echo_service;
  grpc::ServerBuilder builder;
  builder.RegisterCallbackGenericService(&echo_service);
  const std::unique_ptr<grpc::Server> local_echo = builder.BuildAndStart();
  const std::unique_ptr<QuantdServer> local_quantd = *QuantdServer::Start(ServerOptions());
  const std::vector<Transport> transports = {
      {"TCP", ConnectionTo(echo.address()), ConnectionTo(quantd.address()),
       *PlainClient::Connect(plain.address())},
      {"UNIX", ConnectionTo(echo_path), ConnectionTo(quantd_path),
       *PlainClient::Connect(plain_path)},
      {"in-process", local_echo->InProcessChannel(ClientChannelArguments()),
       local_quantd->InProcessChannel(ClientChannelArguments()), nullptr}};
  Baselines baselines;
  RegisterAll(transports, baselines);
  const int exit_code = RunTable(argc, argv, baselines);
  benchmark::ClearRegisteredBenchmarks();
  local_echo->Shutdown(std::chrono::system_clock::now());
  return exit_code;
}

}  // namespace
}  // namespace quantd::bench

int main(int argc, char** argv) { return quantd::bench::Main(argc, argv); }
