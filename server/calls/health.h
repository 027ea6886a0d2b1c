#ifndef QUANTD_SERVER_CALLS_HEALTH_H_
#define QUANTD_SERVER_CALLS_HEALTH_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "core/base/mutex.h"

namespace quantd {

// How the server is, as grpc.health.v1 tells it: it serves until it stops. Outlives the calls that
// watch it. Thread-safe.
class HealthStatus {
 public:
  // HealthCheckResponse.ServingStatus of grpc/health/v1/health.proto.
  enum Status : int32_t { kServing = 1, kNotServing = 2, kServiceUnknown = 3 };

  // `service` has a status, and so has "", the whole server.
  explicit HealthStatus(absl::string_view service) : service_(service) {}

  Status Of(absl::string_view service) const ABSL_LOCKS_EXCLUDED(mutex_);
  bool stopped() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Nothing is served from now on; those who watch are told, and their calls end.
  void Stop() ABSL_LOCKS_EXCLUDED(mutex_);

  // Has `wake` called when it stops, until Forget of the number that is returned.
  int64_t Watch(std::function<void()> wake) ABSL_LOCKS_EXCLUDED(mutex_);
  void Forget(int64_t number) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  const std::string service_;
  mutable Mutex mutex_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t last_number_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<int64_t, std::function<void()>> watchers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace quantd

#endif  // QUANTD_SERVER_CALLS_HEALTH_H_
