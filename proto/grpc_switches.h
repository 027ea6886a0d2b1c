#ifndef QUANTD_PROTO_GRPC_SWITCHES_H_
#define QUANTD_PROTO_GRPC_SWITCHES_H_

namespace quantd {

// Has gRPC read what a socket has in large pieces, which is worth 15 to 20 % of a single stream
// (core/adr/0012): by GRPC_EXPERIMENTS in this process's environment, unless that is
// set. gRPC looks at it once, when it is first used, so this comes before that; to be called while
// no other thread looks at the environment.
void SetGrpcSwitches();

}  // namespace quantd

#endif  // QUANTD_PROTO_GRPC_SWITCHES_H_
