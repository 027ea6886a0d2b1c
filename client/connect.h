#ifndef QUANTD_CLIENT_CONNECT_H_
#define QUANTD_CLIENT_CONNECT_H_

#include <grpcpp/channel.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd {

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
  bool allow_insecure = false;  // lets the token go out of this machine without TLS
};

// Returns a channel as the options say, with ClientChannelArguments(). kInvalidArgument: no target,
// a token that cannot be sent, a certificate without key. kFailedPrecondition: the token would go
// over a network in plain text.
absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(const ConnectOptions& options);

// True where only this machine can be meant: UNIX sockets and loopback.
bool IsLocalTarget(absl::string_view target);

}  // namespace quantd

#endif  // QUANTD_CLIENT_CONNECT_H_
