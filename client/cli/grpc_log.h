#ifndef QUANTD_CLIENT_CLI_GRPC_LOG_H_
#define QUANTD_CLIENT_CLI_GRPC_LOG_H_

#include "absl/status/status.h"

namespace quantd::cli {

// Keeps gRPC's own log, which is for whoever debugs, off stderr unless GRPC_VERBOSITY is set, and
// remembers what it has of TLS. To be called before anything of gRPC.
void TakeGrpcLog();

// Returns `status` with why TLS has failed, which gRPC 1.51 says in its log alone, if it has and
// the server cannot be reached.
absl::Status WithTlsReason(const absl::Status& status);

}  // namespace quantd::cli

#endif  // QUANTD_CLIENT_CLI_GRPC_LOG_H_
