#include "server/net/caller.h"

#include <grpc/grpc_security_constants.h>
#include <grpcpp/security/auth_context.h>

#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "server/net/guard_table.h"
#include "server/net/tokens.h"
#include "server/observe/failed_logins.h"

namespace quantd {
namespace {

absl::string_view View(grpc::string_ref text) { return {text.data(), text.size()}; }

// Returns the token of `authorization: Bearer TOKEN`; nothing where it comes twice.
std::optional<absl::string_view> BearerToken(const grpc::CallbackServerContext& call) {
  const auto [begin, end] = call.client_metadata().equal_range("authorization");
  constexpr absl::string_view kScheme = "bearer ";  // of any case: RFC 9110, section 11.1
  if (begin == end || std::next(begin) != end) return std::nullopt;
  const absl::string_view value = View(begin->second);
  if (!absl::StartsWithIgnoreCase(value, kScheme)) return std::nullopt;
  return value.substr(kScheme.size());
}

}  // namespace

std::string CallerOfPeer(const std::string& peer) {
  return absl::StartsWith(peer, "unix") ? UnixCallerOf(peer) : AddressOfPeer(peer);
}

absl::StatusOr<Caller> IdentifyCaller(const grpc::CallbackServerContext& call,
                                      const TokenTable* tokens, FailedLogins& failed) {
  if (tokens != nullptr) {
    const std::optional<absl::string_view> token = BearerToken(call);
    std::optional<Caller> caller;
    if (token.has_value()) caller = tokens->Find(*token);
    if (caller.has_value()) return *std::move(caller);
    failed.Add(FailedLogins::Kind::kToken, call.peer(),
               token.has_value()                               ? "the token is not known"
               : call.client_metadata().count("authorization") ? "authorization is not one Bearer"
                                                               : "there is no token");
    return absl::UnauthenticatedError(
        "the call needs a token that this server knows, as metadata authorization: Bearer TOKEN");
  }
  const std::shared_ptr<const grpc::AuthContext> auth = call.auth_context();
  if (auth != nullptr && auth->IsPeerAuthenticated()) {
    const std::vector<grpc::string_ref> subject =
        auth->FindPropertyValues(GRPC_X509_SUBJECT_PROPERTY_NAME);
    if (!subject.empty()) return Caller{.name = absl::StrCat("tls:", View(subject.front()))};
  }
  return Caller{.name = CallerOfPeer(call.peer())};
}

}  // namespace quantd
