#ifndef QUANTD_SERVER_OBSERVE_FAILED_LOGINS_H_
#define QUANTD_SERVER_OBSERVE_FAILED_LOGINS_H_

#include <spdlog/logger.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "core/base/mutex.h"
#include "server/observe/sparse_log.h"

namespace quantd {

// Peers that were not let in: all are counted, and logged with address and reason, but of each kind
// no more than a line a second, so that whoever tries all the time cannot fill the disk.
// Thread-safe.
class FailedLogins {
 public:
  enum class Kind {
    kToken,        // a call without a token, or with one that is not known
    kCertificate,  // a TLS client without a certificate, or with one that is not trusted
    kTls,          // another handshake that fails
    kUid,          // a user whom --allow-uid does not name
  };
  static constexpr std::array kKinds = {Kind::kToken, Kind::kCertificate, Kind::kTls, Kind::kUid};
  static absl::string_view NameOf(Kind kind);

  // Null: silent.
  explicit FailedLogins(std::shared_ptr<spdlog::logger> logger) : logger_(std::move(logger)) {}

  // `peer` as gRPC names it, "ipv4:192.0.2.1:443"; neither has anything secret.
  void Add(Kind kind, absl::string_view peer, absl::string_view reason);
  // Logs those for which it was too early; to be called every now and then.
  void LogRest();

  int64_t count(Kind kind) const;

 private:
  struct Tally {
    int64_t count = 0;
    SparseLog log;
  };
  void Write(Kind kind, const std::string& last, int64_t events) const;

  const std::shared_ptr<spdlog::logger> logger_;
  mutable Mutex mutex_;
  std::array<Tally, kKinds.size()> tallies_ ABSL_GUARDED_BY(mutex_);  // by kind
};

}  // namespace quantd

#endif  // QUANTD_SERVER_OBSERVE_FAILED_LOGINS_H_
