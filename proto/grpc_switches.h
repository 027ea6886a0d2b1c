#ifndef QUANTD_PROTO_GRPC_SWITCHES_H_
#define QUANTD_PROTO_GRPC_SWITCHES_H_

namespace quantd {

// Has gRPC read what a socket has in large pieces, which is worth 15 to 20 % of a single stream
// (core/adr/0012): by GRPC_EXPERIMENTS in this process's environment, unless that is
// set. gRPC looks at it once, when it is first used, so this comes before that; to be called while
// no other thread looks at the environment.
void SetGrpcSwitches();

// Sets these, and has gRPC's library stay until the process ends. It would shut down when its last
// object goes, and that takes 10 s where a poller of its own sleeps in epoll: on machines of 8 cores
// and more after each write that has waited, on others now and then.
void KeepGrpcUp();

}  // namespace quantd

#endif  // QUANTD_PROTO_GRPC_SWITCHES_H_
