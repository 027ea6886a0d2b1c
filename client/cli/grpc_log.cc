#include "client/cli/grpc_log.h"

#include <grpc/support/log.h>
#include <stdio.h>
#include <stdlib.h>

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "core/base/mutex.h"

namespace quantd::cli {
namespace {

// gRPC's log function has no argument of ours.
Mutex mutex;
std::string* tls_reason = nullptr;  // the first one; never freed: gRPC's threads may outlive main

// Takes the reason out of OpenSSL's "error:0A000418:SSL routines::tlsv1 alert unknown ca".
void Remember(absl::string_view message) {
  const size_t at = message.find("SSL routines:");
  if (at == absl::string_view::npos) return;
  absl::string_view reason = message.substr(message.rfind(':') + 1);
  absl::ConsumeSuffix(&reason, ".");
  MutexLock lock(&mutex);
  if (tls_reason == nullptr) tls_reason = new std::string(reason);
}

void Log(gpr_log_func_args* args) {
  Remember(args->message);
  if (getenv("GRPC_VERBOSITY") == nullptr) return;
  fprintf(stderr, "%s:%d: %s\n", args->file, args->line, args->message);
}

}  // namespace

void TakeGrpcLog() { gpr_set_log_function(&Log); }

absl::Status WithTlsReason(const absl::Status& status) {
  MutexLock lock(&mutex);
  if (tls_reason == nullptr || !(absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status))) {
    return status;
  }
  // An alert is what the other end says.
  const absl::string_view what =
      absl::StrContains(*tls_reason, "alert")
          ? "; the server refuses the client's certificate or its TLS (--tls-cert, --tls-key): "
          : "; TLS has failed (--tls-ca says whom to trust): ";
  return absl::Status(status.code(), absl::StrCat(status.message(), what, *tls_reason));
}

}  // namespace quantd::cli
