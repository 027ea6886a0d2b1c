#ifndef QUANTD_CLIENT_CLI_CREDENTIALS_H_
#define QUANTD_CLIENT_CLI_CREDENTIALS_H_

#include <CLI/CLI.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "client/connect.h"

namespace quantd::cli {

// Where what a server asks for lies. Paths.
struct Credentials {
  bool tls = false;  // also without files: the system's authorities
  std::string tls_ca;
  std::string tls_cert;
  std::string tls_key;
  std::string tls_server_name;
  std::string token_file;
  bool insecure = false;
};

// Lets `app` read `credentials`, which outlives it.
void AddCredentials(CLI::App& app, Credentials& credentials);

// Returns how to connect to `target`; the token is that of the file, or else of QUANTCTL_TOKEN.
// Errors are FileErrors.
absl::StatusOr<ConnectOptions> LoadCredentials(const std::string& target,
                                               const Credentials& credentials);

}  // namespace quantd::cli

#endif  // QUANTD_CLIENT_CLI_CREDENTIALS_H_
