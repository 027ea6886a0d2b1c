// A bare gRPC callback server with the channel arguments of ours: what a service is measured
// beside.
//   echo_server [unix:PATH ...] PORT_FILE
// Listens on loopback too, and writes that address to PORT_FILE once it serves.
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "core/base/mutex.h"
#include "core/exec/allocator.h"
#include "proto/grpc_switches.h"
#include "quantd/v1/quantization.grpc.pb.h"
#include "tests/bench/echo_service.h"

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  // As quantd does.
  quantd::TuneAllocator();
  quantd::SkipDeadlockSearch();
  quantd::SetGrpcSwitches();
  quantd::bench::EchoService service;
  grpc::ServerBuilder builder;
  builder.RegisterCallbackGenericService(&service);
  quantd::v1::QuantizationService::CallbackService nothing;
  builder.RegisterService(&nothing);
  builder.SetMaxReceiveMessageSize(16 << 20);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 256 << 10);
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  for (int i = 1; i + 1 < argc; ++i) {
    builder.AddListeningPort(argv[i], grpc::InsecureServerCredentials());
  }
  const auto server = builder.BuildAndStart();
  if (server == nullptr) return 1;
  const std::string port_file = argv[argc - 1];
  std::ofstream(absl::StrCat(port_file, ".tmp")) << "127.0.0.1:" << port << "\n";
  std::filesystem::rename(absl::StrCat(port_file, ".tmp"), port_file);
  pause();
  return 0;
}
