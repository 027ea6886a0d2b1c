#ifndef QUANTD_SERVER_NET_TLS_H_
#define QUANTD_SERVER_NET_TLS_H_

#include <grpcpp/security/server_credentials.h>
#include <spdlog/logger.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "core/base/mutex.h"
#include "server/net/access.h"

namespace quantd {

// How long before it a certificate's end is worth a warning.
inline constexpr absl::Duration kExpiryNotice = absl::Hours(14 * 24);

// What the files hold.
struct TlsMaterial {
  std::string certificate, key, client_ca;
  bool operator==(const TlsMaterial&) const = default;
};

// kInvalidArgument: something does not parse, is not valid now, or key and certificate do not
// match.
absl::Status CheckTls(const TlsFiles& files, const TlsMaterial& material);

// The certificates of a server, which follow their files. What is broken is never taken: the last
// good ones stay. Thread-safe.
class TlsCertificates {
 public:
  // Errors: those of ReadSmallFile and CheckTls.
  static absl::StatusOr<std::unique_ptr<TlsCertificates>> Load(
      const TlsFiles& files, std::shared_ptr<spdlog::logger> logger);

  // Takes the files as they are now if they have changed and are good; logs what came of it, and
  // each day that what is in use expires within kExpiryNotice.
  void Refresh();

  // Returns when the first certificate of the chain in use expires.
  absl::Time expiry() const;

  // Returns credentials for one port, which give each new connection what is current; they ask this
  // object, which outlives the server.
  std::shared_ptr<grpc::ServerCredentials> MakeCredentials();

  // Returns what is current, and the number of times that it has changed.
  TlsMaterial current(int64_t* generation) const;
  bool wants_client_certificates() const { return !files_.client_ca.empty(); }

 private:
  TlsCertificates(const TlsFiles& files, std::shared_ptr<spdlog::logger> logger)
      : files_(files), logger_(std::move(logger)) {}
  void Take(const TlsMaterial& material) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RefreshFiles() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MaybeWarnOfExpiry() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const TlsFiles files_;
  const std::shared_ptr<spdlog::logger> logger_;  // null: silent
  mutable Mutex mutex_;
  TlsMaterial current_ ABSL_GUARDED_BY(mutex_);
  int64_t generation_ ABSL_GUARDED_BY(mutex_) = 1;
  TlsMaterial last_read_ ABSL_GUARDED_BY(mutex_);  // good or not
  std::string last_error_ ABSL_GUARDED_BY(mutex_);
  absl::Time expiry_ ABSL_GUARDED_BY(mutex_);
  absl::Time next_notice_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

}  // namespace quantd

#endif  // QUANTD_SERVER_NET_TLS_H_
