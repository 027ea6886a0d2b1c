#ifndef QUANTD_SERVER_OBSERVE_METRICS_H_
#define QUANTD_SERVER_OBSERVE_METRICS_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/observe/failed_logins.h"

namespace prometheus {
class Collectable;
}

namespace quantd {

// What happened to one tensor.
struct TensorOutcome {
  enum class Result { kOk, kFailed, kCancelled };
  Result result = Result::kFailed;
  absl::string_view scheme;  // the registry's; empty: the tensor did not get that far
  int64_t input_bytes = 0;   // that came
  int64_t output_bytes = 0;  // of a tensor that is done
  int64_t stripes = 0;       // that were encoded
  int64_t clipped = 0;
  int64_t non_finite = 0;
  absl::Duration elapsed;     // from its start to its end
  absl::Duration statistics;  // where the time went
  absl::Duration encode;
};

// What a server tells of itself once, and, by functions, whenever it is asked.
struct ServerFacts {
  std::string version, build, simd_target, blas_core;
  absl::Time start;
  int64_t memory_limit_bytes = 0;
  int64_t machine_memory_bytes = 0;
  std::function<int64_t()> memory_reserved_bytes, memory_bound_bytes, waiting_calls,
      open_connections, refused_connections, displaced_connections;
  std::function<int64_t(FailedLogins::Kind)> failed_logins;
  std::function<absl::Time()> certificate_expiry;  // null: no TLS
};

// The counters of one RPC. Thread-safe.
class RpcMetrics {
 public:
  void CallBegan();
  void CallEnded(absl::StatusCode code, absl::Duration elapsed);
  // Cheap enough for every frame.
  void AddReceived(int64_t bytes);
  void AddSent(int64_t bytes);
  // The wait for a worker of the executor.
  void AddQueueWait(absl::Duration wait);
  // The wait for memory, however it ended.
  void AddMemoryWait(absl::Duration wait);
  void TensorEnded(const TensorOutcome& outcome);

 private:
  friend class Metrics;
  struct Impl;
  Impl* impl_ = nullptr;  // null: metrics are off
};

// All that a server counts, by names that begin with "quantd_", and what the system says of its
// process, by the names that Prometheus gives that. Each counter is there from the start, as 0.
// Does nothing until it is turned on, so that nobody needs to ask whether there are metrics. Labels
// are bounded: RPCs, status codes, schemes of the registry, limits. Thread-safe, but for TurnOn.
class Metrics {
 public:
  Metrics();
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  // To be called once, before anything else.
  void TurnOn(const ServerFacts& facts);

  // Returns the counters of an RPC of QuantizationService; to be looked up once a call. Lives as
  // long as this.
  RpcMetrics& rpc(absl::string_view name);

  // Counts `status` by the limit that it names (status_detail.h), if it refuses something.
  void CountRefusal(const absl::Status& status);

  // Counts a connection that its guard has ended, by the name of the reason, one of those that were
  // added: so each is there from the start.
  void AddGuardReason(absl::string_view reason);
  void CountGuardEnd(absl::string_view reason);

  // Returns everything in the text format of Prometheus; empty if metrics are off.
  std::string Text() const;

 private:
  struct Impl;
  std::shared_ptr<prometheus::Collectable> collectable() const;  // null: metrics are off
  std::unique_ptr<Impl> impl_;
  RpcMetrics off_;
};

}  // namespace quantd

#endif  // QUANTD_SERVER_OBSERVE_METRICS_H_
