#include "client/connect.h"

#include <grpc/grpc.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/client_interceptor.h>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "client/client.h"
#include "core/base/status_macros.h"
#include "proto/grpc_switches.h"

namespace quantd {
namespace {

namespace experimental = grpc::experimental;

// Adds the token to the metadata of each call. gRPC's own call credentials do not go over plain
// text, which UNIX sockets are.
class TokenInterceptor final : public experimental::Interceptor {
 public:
  explicit TokenInterceptor(const std::string& value) : value_(value) {}
  void Intercept(experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(
            experimental::InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      methods->GetSendInitialMetadata()->emplace("authorization", value_);
    }
    methods->Proceed();
  }

 private:
  const std::string& value_;
};

class TokenInterceptorFactory final : public experimental::ClientInterceptorFactoryInterface {
 public:
  explicit TokenInterceptorFactory(const std::string& token)
      : value_(absl::StrCat("Bearer ", token)) {}
  experimental::Interceptor* CreateClientInterceptor(experimental::ClientRpcInfo*) override {
    return new TokenInterceptor(value_);
  }

 private:
  const std::string value_;  // the channel, which owns this, outlives its calls
};

constexpr int kUsualPort = 7717;  // that quantd listens at, unless told otherwise

constexpr std::array<absl::string_view, 5> kTransportNames = {"auto", "in_process", "shared_memory",
                                                              "unix", "tcp"};

absl::Status CheckTransport(const ConnectOptions& options) {
  const bool is_unix = !UnixPathOf(options.target).empty();
  const bool needs_unix =
      options.transport == Transport::kSharedMemory || options.transport == Transport::kUnix;
  if (options.transport == Transport::kInProcess || (needs_unix && !is_unix) ||
      (options.transport == Transport::kTcp && is_unix)) {
    return absl::InvalidArgumentError(absl::StrCat("transport ", NameOf(options.transport),
                                                   " does not lead to ", options.target));
  }
  return absl::OkStatus();
}

// Refuses addresses that gRPC would take for something else: without a port it goes to 443, and
// http:// is a name to it. Names of its own resolvers (xds:, unix:) are its business.
absl::Status CheckTarget(absl::string_view target) {
  const auto refuse = [&](absl::string_view why, absl::string_view host) {
    return absl::InvalidArgumentError(
        absl::StrCat("server address \"", target, "\" ", why, "; use ", host, ":", kUsualPort));
  };
  absl::string_view rest = target;
  for (const absl::string_view prefix : {"http://", "https://", "grpc://", "grpcs://", "tcp://"}) {
    if (!absl::ConsumePrefix(&rest, prefix)) continue;
    const size_t end = rest.find_first_of(":/");
    return refuse("is a URL", rest.substr(0, end));
  }
  if (absl::ConsumePrefix(&rest, "dns:")) {
    if (absl::ConsumePrefix(&rest, "//")) rest = rest.substr(rest.find('/') + 1);
  } else if (!absl::ConsumePrefix(&rest, "ipv4:") && !absl::ConsumePrefix(&rest, "ipv6:")) {
    for (const absl::string_view prefix : {"unix:", "unix-abstract:", "xds:", "vsock:"}) {
      if (absl::StartsWith(rest, prefix)) return absl::OkStatus();
    }
  }
  for (const absl::string_view address : absl::StrSplit(rest, ',')) {
    const size_t colon = address.rfind(':');
    const bool is_bare_ipv6 = address.find(':') != colon && !absl::StartsWith(address, "[");
    if (is_bare_ipv6) {
      return refuse("is an IPv6 address without brackets", absl::StrCat("[", address, "]"));
    }
    if (colon == absl::string_view::npos || absl::EndsWith(address, "]")) {
      return refuse("has no port", address);
    }
    int port = 0;
    if (colon == 0) return refuse("has no host", "localhost");
    if (absl::SimpleAtoi(address.substr(colon + 1), &port) && port >= 1 && port <= 65535) continue;
    return refuse(absl::StrCat("has port \"", address.substr(colon + 1),
                               "\", which is no number of 1 to 65535"),
                  address.substr(0, colon));
  }
  return absl::OkStatus();
}

absl::Status CheckOptions(const ConnectOptions& options) {
  if (options.target.empty()) {
    return absl::InvalidArgumentError("empty server address; use HOST:PORT or unix:PATH");
  }
  QUANTD_RETURN_IF_ERROR(CheckTarget(options.target));
  if (options.tls_certificate.empty() != options.tls_key.empty()) {
    return absl::InvalidArgumentError(
        "a TLS certificate of the client and its key go together; one of them is missing");
  }
  // gRPC ends the process where metadata has other bytes.
  if (!std::all_of(options.token.begin(), options.token.end(),
                   [](char c) { return absl::ascii_isgraph(static_cast<unsigned char>(c)); })) {
    return absl::InvalidArgumentError("the token has bytes that are no printable ASCII characters");
  }
  if (!options.token.empty() && !options.tls && !options.allow_insecure &&
      !IsLocalTarget(options.target)) {
    return absl::FailedPreconditionError(
        absl::StrCat("a token would go to ", options.target,
                     " in plain text; use TLS, or allow it with --insecure"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::string_view NameOf(Transport transport) {
  return kTransportNames[static_cast<size_t>(transport)];
}

absl::StatusOr<Transport> ParseTransport(absl::string_view name) {
  const auto found = std::find(kTransportNames.begin(), kTransportNames.end(), name);
  if (found != kTransportNames.end()) {
    return static_cast<Transport>(found - kTransportNames.begin());
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "unknown transport \"", name, "\"; known: ", absl::StrJoin(kTransportNames, ", ")));
}

std::string UnixPathOf(absl::string_view target) {
  if (!absl::ConsumePrefix(&target, "unix:")) return "";
  absl::ConsumePrefix(&target, "//");
  return std::string(target);
}

bool IsLocalTarget(absl::string_view target) {
  if (absl::StartsWith(target, "unix:") || absl::StartsWith(target, "unix-abstract:")) return true;
  if (!absl::ConsumePrefix(&target, "dns:///")) {
    absl::ConsumePrefix(&target, "dns:");
    absl::ConsumePrefix(&target, "ipv4:");
    absl::ConsumePrefix(&target, "ipv6:");
  }
  if (absl::StrContains(target, ",")) return false;  // several addresses
  const absl::string_view host = target.substr(0, target.rfind(':'));
  // Nothing but an address: 127.example.org is not of this machine.
  const bool is_127 = absl::StartsWith(host, "127.") &&
                      host.find_first_not_of("0123456789.") == absl::string_view::npos;
  return is_127 || host == "localhost" || host == "[::1]";
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(const ConnectOptions& options) {
  QUANTD_RETURN_IF_ERROR(CheckOptions(options));
  QUANTD_RETURN_IF_ERROR(CheckTransport(options));
  KeepGrpcUp();
  grpc::ChannelArguments arguments = ClientChannelArguments();
  std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
  if (options.tls) {
    credentials = grpc::SslCredentials({.pem_root_certs = options.tls_ca,
                                        .pem_private_key = options.tls_key,
                                        .pem_cert_chain = options.tls_certificate});
    if (!options.tls_server_name.empty()) {
      arguments.SetSslTargetNameOverride(options.tls_server_name);
    }
  }
  if (options.token.empty()) {
    return grpc::CreateCustomChannel(options.target, credentials, arguments);
  }
  std::vector<std::unique_ptr<experimental::ClientInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(std::make_unique<TokenInterceptorFactory>(options.token));
  return experimental::CreateCustomChannelWithInterceptors(options.target, credentials, arguments,
                                                           std::move(interceptors));
}

}  // namespace quantd
