// gRPC 1.51 tells nobody whose TLS handshake has failed, nor why, and hangs up without the alert
// that OpenSSL has written for the peer, so that a client without a certificate reads "Socket
// closed". Two seams of OpenSSL mend both:
//
//   SSL_new            gRPC calls it on the thread that hands a connection over: what OpenSSL
//                      keeps for us with each SSL then gets the peer's address
//   SSL_do_handshake   the program has one of its own (server/interpose.cc), which calls Handshake:
//                      a failure is told, and gRPC hears of it one call later, after it has sent
//                      the alert. A peer that then stays meets gRPC's time limit.
//
// Only failed certificates are kept for that one call: peers that speak no TLS read no alerts.
//
// Entries: WatchHandshakes, HandshakeScope, Handshake. Tested by tests/e2e/test_failed_logins.py.
#include "server/net/handshakes.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"

namespace quantd {
namespace {

thread_local const HandshakeScope* scope = nullptr;
std::atomic<int> ssl_index = -1;  // of a WatchedHandshake, set before there is any SSL

}  // namespace

// Whose handshake an SSL makes.
struct WatchedHandshake {
  explicit WatchedHandshake(const HandshakeScope& scope) : peer(scope.peer_), failed(scope.failed_) {}

  // OpenSSL calls these for each SSL.
  static void OnNew(void*, void*, CRYPTO_EX_DATA* data, int index, long, void*) {
    if (scope != nullptr) CRYPTO_set_ex_data(data, index, new WatchedHandshake(*scope));
  }
  static void OnFree(void*, void* handshake, CRYPTO_EX_DATA*, int, long, void*) {
    delete static_cast<WatchedHandshake*>(handshake);
  }

  const std::string peer;
  const std::shared_ptr<FailedLogins> failed;
  bool told = false;
};

void WatchHandshakes() {
  static const int index =
      SSL_get_ex_new_index(0, nullptr, &WatchedHandshake::OnNew, nullptr,
                           &WatchedHandshake::OnFree);
  ssl_index = index;
}

HandshakeScope::HandshakeScope(std::string peer, std::shared_ptr<FailedLogins> failed)
    : peer_(std::move(peer)), failed_(std::move(failed)) {
  scope = this;
}

HandshakeScope::~HandshakeScope() { scope = nullptr; }

namespace {

// Tells of the failure that OpenSSL has queued; returns whether it is for want of a certificate.
bool Tell(const SSL* ssl, WatchedHandshake& handshake) {
  handshake.told = true;
  const unsigned long error = ERR_peek_error();
  const char* const reason = ERR_reason_error_string(error);
  const long verified = SSL_get_verify_result(ssl);
  std::string why = reason != nullptr ? reason : "the handshake failed";
  if (verified != X509_V_OK) {
    absl::StrAppend(&why, ": ", X509_verify_cert_error_string(verified));
  }
  const bool is_certificate =
      ERR_GET_LIB(error) == ERR_LIB_SSL &&
      (verified != X509_V_OK || ERR_GET_REASON(error) == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE);
  handshake.failed->Add(
      is_certificate ? FailedLogins::Kind::kCertificate : FailedLogins::Kind::kTls, handshake.peer,
      why);
  return is_certificate;
}

}  // namespace

int Handshake(SSL* ssl, int (*real)(SSL*)) {
  const int result = real(ssl);
  const int index = ssl_index;
  if (result > 0 || index < 0) return result;
  auto* const watched = static_cast<WatchedHandshake*>(SSL_get_ex_data(ssl, index));
  if (watched == nullptr || watched->told || SSL_get_error(ssl, result) != SSL_ERROR_SSL) {
    return result;
  }
  const bool has_alert = Tell(ssl, *watched) && BIO_wpending(SSL_get_wbio(ssl)) > 0;
  // gRPC takes 1 for "go on": it sends what there is, and is not done before OpenSSL is.
  return has_alert && !SSL_is_init_finished(ssl) ? 1 : result;
}

}  // namespace quantd
