#ifndef QUANTD_SERVER_NET_ACCESS_H_
#define QUANTD_SERVER_NET_ACCESS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace quantd {

// Files that TLS needs, in PEM form.
struct TlsFiles {
  std::string certificate;  // the server's, those that signed it after it; empty: no TLS
  std::string key;
  std::string client_ca;  // who may sign the certificates that clients must have; empty: need none

  bool enabled() const { return !certificate.empty(); }
};

// Who may connect, and what a peer may do to the transport.
struct AccessOptions {
  TlsFiles tls;                        // of all TCP addresses
  std::string tokens_path;             // of the tokens that calls must bring; empty: none
  std::vector<uint32_t> allowed_uids;  // of the peers of UNIX sockets; empty: all
  uint32_t socket_mode = 0660;
  int max_connections = 1024;
  int max_per_address = 768;  // of these, or of a user of UNIX sockets; 0: any number
  // What a client may share of its memory over one connection beside a UNIX socket; 0: nothing.
  int64_t shared_memory_bytes = int64_t{64} << 20;
  int max_metadata_bytes = 8 << 10;  // of a call's headers
  // A stream whose peer neither sends nor takes a frame for this long is ended.
  absl::Duration idle_timeout = absl::InfiniteDuration();
};

}  // namespace quantd

#endif  // QUANTD_SERVER_NET_ACCESS_H_
