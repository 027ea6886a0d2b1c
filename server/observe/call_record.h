#ifndef QUANTD_SERVER_OBSERVE_CALL_RECORD_H_
#define QUANTD_SERVER_OBSERVE_CALL_RECORD_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/observe/metrics.h"
#include "server/service_context.h"

namespace quantd {

// Where the time of a call went, summed over it. What is zero may not have been looked at.
struct CallTimes {
  absl::Duration queue;       // waits for a worker
  absl::Duration statistics;  // search for ranges and parameters
  absl::Duration encode;      // making of codes, or of values
  absl::Duration send;        // a response frame was with gRPC
};

// Returns `text` if it is a traceparent of W3C Trace Context that may be passed on, else nothing.
absl::string_view ValidTraceparent(absl::string_view text);

// kHealth: of grpc.health.v1, which works for nobody and holds next to nothing.
enum class CallKind { kUnary, kStream, kHealth };

// What is known of a call when it begins.
struct CallFacts {
  CallKind kind = CallKind::kStream;
  std::string rpc;
  std::string caller;  // the name, which may hold any bytes
  std::string peer;
  absl::Time deadline = absl::InfiniteFuture();
  std::string traceparent;  // as it came
};

// Metadata that end a call: keys and values.
using CallTrailers = std::vector<std::pair<std::string, std::string>>;

// What is kept of one call, from its beginning to its end: for metrics, the log and the trailers.
// The log gets a line for each stream at level info, for each unary call at level debug; there is
// never any payload in it. Not thread-safe.
class CallRecord {
 public:
  // `context` outlives this.
  CallRecord(ServiceContext& context, CallFacts facts);
  // The call is gone.
  ~CallRecord();
  CallRecord(const CallRecord&) = delete;
  CallRecord& operator=(const CallRecord&) = delete;

  void AddReceived(int64_t bytes);
  void AddSent(int64_t bytes);
  void AddQueueWait(absl::Duration wait);
  void AddMemoryWait(absl::Duration wait) { metrics_.AddMemoryWait(wait); }
  void AddSend(absl::Duration time) { times_.send += time; }
  void AddTimes(absl::Duration statistics, absl::Duration encode);

  CallKind kind() const { return facts_.kind; }
  // Returns the name of the method, "Quantize".
  absl::string_view rpc() const { return facts_.rpc; }
  // Returns when the call shall have ended; the infinite future if nobody has said.
  absl::Time deadline() const { return facts_.deadline; }
  // Returns why a call ends that the peer has cancelled or given up: kCancelled, or
  // kDeadlineExceeded.
  absl::Status Cancellation() const;

  // Returns the trailers of a call that is finished with `status` now.
  CallTrailers Trailers(const absl::Status& status) const;

  // To be called once, when gRPC is done with the call. `summary` is for the log.
  void End(const absl::Status& status, absl::string_view summary);

 private:
  std::string TextLine(const absl::Status& status, absl::string_view summary,
                       absl::Duration elapsed) const;
  std::string JsonFields(const absl::Status& status, absl::string_view summary,
                         absl::Duration elapsed) const;

  ServiceContext& context_;
  const CallFacts facts_;  // no traceparent if it is not valid
  RpcMetrics& metrics_;
  const absl::Time start_;
  CallTimes times_;
  int64_t received_bytes_ = 0;
  int64_t sent_bytes_ = 0;
};

}  // namespace quantd

#endif  // QUANTD_SERVER_OBSERVE_CALL_RECORD_H_
