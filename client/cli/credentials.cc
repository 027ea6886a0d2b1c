#include "client/cli/credentials.h"

#include <cstdlib>

#include "absl/strings/ascii.h"
#include "client/cli/exit_code.h"
#include "core/base/status_macros.h"
#include "core/io/small_file.h"

namespace quantd::cli {
namespace {

constexpr size_t kMaxBytes = size_t{1} << 20;

absl::Status ReadInto(const std::string& path, std::string& text) {
  if (path.empty()) return absl::OkStatus();
  absl::StatusOr<std::string> content = ReadSmallFile(path, kMaxBytes, kMaxBytes);
  if (!content.ok()) return FileError(content.status());
  text = *std::move(content);
  return absl::OkStatus();
}

}  // namespace

void AddCredentials(CLI::App& app, Credentials& credentials) {
  app.add_flag("--tls", credentials.tls,
               "encrypt, and trust servers that the system's authorities have signed");
  app.add_option("--tls-ca", credentials.tls_ca,
                 "PEM file of the authorities that may have signed the server's certificate")
      ->envname("QUANTCTL_TLS_CA");
  app.add_option("--tls-cert", credentials.tls_cert,
                 "PEM file of a certificate for servers that demand one")
      ->envname("QUANTCTL_TLS_CERT");
  app.add_option("--tls-key", credentials.tls_key, "PEM file of its private key")
      ->envname("QUANTCTL_TLS_KEY");
  app.add_option("--tls-server-name", credentials.tls_server_name,
                 "name in the server's certificate, if it is not the host of --server")
      ->envname("QUANTCTL_TLS_SERVER_NAME");
  app.add_option("--token-file", credentials.token_file,
                 "file of the token that the server asks for (or the token in $QUANTCTL_TOKEN)")
      ->envname("QUANTCTL_TOKEN_FILE");
  app.add_flag("--insecure", credentials.insecure,
               "let the token go to another machine in plain text");
}

absl::StatusOr<ConnectOptions> LoadCredentials(const std::string& target,
                                               const Credentials& credentials) {
  ConnectOptions options;
  options.target = target;
  options.tls = credentials.tls || !credentials.tls_ca.empty() || !credentials.tls_cert.empty();
  options.tls_server_name = credentials.tls_server_name;
  options.allow_insecure = credentials.insecure;
  QUANTD_RETURN_IF_ERROR(ReadInto(credentials.tls_ca, options.tls_ca));
  QUANTD_RETURN_IF_ERROR(ReadInto(credentials.tls_cert, options.tls_certificate));
  QUANTD_RETURN_IF_ERROR(ReadInto(credentials.tls_key, options.tls_key));
  const char* const variable = std::getenv("QUANTCTL_TOKEN");
  if (variable != nullptr) options.token = variable;
  QUANTD_RETURN_IF_ERROR(ReadInto(credentials.token_file, options.token));
  options.token = std::string(absl::StripAsciiWhitespace(options.token));
  return options;
}

}  // namespace quantd::cli
