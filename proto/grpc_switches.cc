#include "proto/grpc_switches.h"

#include <grpc/grpc.h>

#include <cstdlib>

namespace quantd {

void SetGrpcSwitches() {
  setenv("GRPC_EXPERIMENTS", "-tcp_read_chunks", /*overwrite=*/0);
}

void KeepGrpcUp() {
  [[maybe_unused]] static const bool kKept = [] {
    SetGrpcSwitches();
    grpc_init();
    return true;
  }();
}

}  // namespace quantd
