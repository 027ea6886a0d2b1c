#ifndef QUANTD_SERVER_NET_CALLER_H_
#define QUANTD_SERVER_NET_CALLER_H_

#include <grpcpp/server_context.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace quantd {

class FailedLogins;
class TokenTable;

// Who makes a call. Names of different kinds never meet: "token:NAME", "tls:SUBJECT", "unix:UID", or
// the peer's address without the port, "ipv4:127.0.0.1". May hold any bytes that a certificate may.
struct Caller {
  std::string name;
  int64_t max_streams = 0;          // at once; 0: not limited by the token
  int64_t max_in_flight_bytes = 0;  // likewise
  // Becomes true when its token is taken back; null: it needs none.
  std::shared_ptr<const std::atomic<bool>> revoked = nullptr;
};

// Returns who makes `call`. Where there are `tokens`, one of them is needed: kUnauthenticated,
// which does not tell whether it was missing or wrong; `failed` is told.
absl::StatusOr<Caller> IdentifyCaller(const grpc::CallbackServerContext& call,
                                      const TokenTable* tokens, FailedLogins& failed);

// Returns the name of a caller who is known by the peer alone, as gRPC names it: AddressOfPeer, and
// of UNIX sockets "unix:UID", where the acceptor has named it, else "unix".
std::string CallerOfPeer(const std::string& peer);

}  // namespace quantd

#endif  // QUANTD_SERVER_NET_CALLER_H_
