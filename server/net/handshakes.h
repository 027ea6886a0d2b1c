#ifndef QUANTD_SERVER_NET_HANDSHAKES_H_
#define QUANTD_SERVER_NET_HANDSHAKES_H_

#include <openssl/types.h>

#include <memory>
#include <string>

#include "server/observe/failed_logins.h"

namespace quantd {

// Has TLS handshakes watched from now on. To be called before the first one.
void WatchHandshakes();

// What is to be called for OpenSSL's SSL_do_handshake, which is `real`: tells of a failure, and has
// gRPC send the alert before it hangs up.
int Handshake(SSL* ssl, int (*real)(SSL*));

// The TLS handshakes that begin on this thread while it lives are those of a peer: how one fails is
// told to `failed`. Not thread-safe.
class HandshakeScope {
 public:
  HandshakeScope(std::string peer, std::shared_ptr<FailedLogins> failed);
  ~HandshakeScope();
  HandshakeScope(const HandshakeScope&) = delete;
  HandshakeScope& operator=(const HandshakeScope&) = delete;

 private:
  friend struct WatchedHandshake;
  const std::string peer_;
  const std::shared_ptr<FailedLogins> failed_;
};

}  // namespace quantd

#endif  // QUANTD_SERVER_NET_HANDSHAKES_H_
