#include <openssl/rand.h>
#include <openssl/sha.h>

#include <array>
#include <memory>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "client/cli/commands.h"
#include "client/cli/report_view.h"

namespace quantd::cli {
namespace {

std::string Hex(const std::array<unsigned char, 32>& bytes) {
  return absl::BytesToHexString({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

absl::StatusOr<ExitCode> Run(const Globals& globals, const std::string& name) {
  std::array<unsigned char, 32> secret, hash;
  if (RAND_bytes(secret.data(), static_cast<int>(secret.size())) != 1) {
    return absl::InternalError("the system gives no random bytes");
  }
  const std::string token = Hex(secret);
  SHA256(reinterpret_cast<const unsigned char*>(token.data()), token.size(), hash.data());
  const std::string line = absl::StrCat(name, " ", Hex(hash));
  if (globals.json) {
    PrintJson({{"command", "token"}, {"token", token}, {"line", line}}, stdout);
  } else {
    absl::PrintF("%s\n%s\n", token, line);
  }
  return kOk;
}

}  // namespace

Command AddToken(CLI::App& app, const Globals& globals) {
  CLI::App* const command = app.add_subcommand(
      "token", "Make a token: print it, and below it the line for the server's --tokens file");
  auto name = std::make_shared<std::string>();
  command->add_option("name", *name, "whose it is: letters, digits or _ - . @")
      ->required()
      ->check([](const std::string& text) {
        constexpr absl::string_view kAllowed =
            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.@";
        const bool good = !text.empty() && text.size() <= 64 &&
                          text.find_first_not_of(std::string(kAllowed)) == std::string::npos;
        return good ? std::string() : "is not of 1 to 64 letters, digits or _ - . @";
      });
  return {command, [name, &globals] { return Run(globals, *name); }};
}

}  // namespace quantd::cli
