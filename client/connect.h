#ifndef QUANTD_CLIENT_CONNECT_H_
#define QUANTD_CLIENT_CONNECT_H_

#include <grpcpp/channel.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd {

// What carries tensors between a client and a service. All give the same bytes.
enum class Transport {
  kAuto,          // the best that there is
  kInProcess,     // the service is in this process
  kSharedMemory,  // memory that both map, beside a UNIX socket
  kUnix,
  kTcp,
};

// Returns "auto", "in_process", "shared_memory", "unix", "tcp".
absl::string_view NameOf(Transport transport);
// kInvalidArgument: none of those.
absl::StatusOr<Transport> ParseTransport(absl::string_view name);

// Which server, and how it and the client trust each other. Certificates and keys are texts in PEM
// form, not paths.
struct ConnectOptions {
  std::string target;  // "host:port", "unix:PATH", or any gRPC target
  bool tls = false;
  std::string tls_ca;           // who may have signed the server's certificate; empty: the system's
  std::string tls_certificate;  // of the client, for servers that demand one; empty: none
  std::string tls_key;
  std::string tls_server_name;  // that the server's certificate has, if not the target's
  std::string token;            // sent with every call; empty: none
  // kAuto takes shared memory where the server is at a UNIX socket and offers it, and may have gone
  // without for single streams. Others are taken or the call fails.
  Transport transport = Transport::kAuto;
  bool allow_insecure = false;  // lets the token go out of this machine without TLS
};

// Returns a channel as the options say, with ClientChannelArguments(). kInvalidArgument: no target,
// a token that cannot be sent, a certificate without key, a transport that cannot lead to the
// target. kFailedPrecondition: the token would go
// over a network in plain text.
absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(const ConnectOptions& options);

// Returns the path of a target "unix:PATH"; empty: it is none.
std::string UnixPathOf(absl::string_view target);

// True where only this machine can be meant: UNIX sockets and loopback.
bool IsLocalTarget(absl::string_view target);

}  // namespace quantd

#endif  // QUANTD_CLIENT_CONNECT_H_
