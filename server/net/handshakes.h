#ifndef QUANTD_SERVER_NET_HANDSHAKES_H_
#define QUANTD_SERVER_NET_HANDSHAKES_H_

#include <memory>
#include <string>

#include "server/observe/failed_logins.h"

namespace quantd {

// Has TLS handshakes watched from now on. To be called before the first one.
void WatchHandshakes();

// The TLS handshakes that begin on this thread while it lives are those of a peer: how one fails is
// told to `failed`. Not thread-safe.
class HandshakeScope {
 public:
  HandshakeScope(std::string peer, std::shared_ptr<FailedLogins> failed);
  ~HandshakeScope();
  HandshakeScope(const HandshakeScope&) = delete;
  HandshakeScope& operator=(const HandshakeScope&) = delete;

 private:
  friend struct Handshake;
  const std::string peer_;
  const std::shared_ptr<FailedLogins> failed_;
};

}  // namespace quantd

#endif  // QUANTD_SERVER_NET_HANDSHAKES_H_
