#include "proto/grpc_switches.h"

#include <cstdlib>

namespace quantd {

void SetGrpcSwitches() {
  setenv("GRPC_EXPERIMENTS", "-tcp_read_chunks", /*overwrite=*/0);
}

}  // namespace quantd
