#ifndef QUANTD_SERVER_SERVICE_CONTEXT_H_
#define QUANTD_SERVER_SERVICE_CONTEXT_H_

#include <spdlog/logger.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/session/session_context.h"
#include "server/admit/idle_watch.h"
#include "server/net/tokens.h"
#include "server/observe/failed_logins.h"
#include "server/observe/metrics.h"

namespace quantd {

// What the service allows its peers.
struct ServiceLimits {
  int64_t max_message_bytes = 0;     // of a request
  int64_t max_unary_bytes = 0;       // of a unary call's response
  int64_t session_budget_bytes = 0;  // what one tensor may hold
  int64_t max_queued_bytes = 0;      // of a stream's responses that the peer has not read yet
  int64_t frame_bytes = 0;           // what a stream reserves for a frame; larger ones ask for more

  // What a stream holds beside its tensors: responses, the frame at work, and the one that is read.
  int64_t stream_bytes() const { return max_queued_bytes + 2 * frame_bytes; }
  int max_open_tensors = 0;  // of a stream
  int max_metadata_bytes = 8 << 10;  // of a call's headers
};

class Admission;
class CallerAccounts;
class HealthStatus;
class SharedRegions;
struct SharedRegion;
class WaitingRoom;

// What all calls share. Outlives them. Thread-safe.
struct ServiceContext {
  SessionContext session;  // `pool` is `shared_pool`; the executor has a worker at least
  std::shared_ptr<BufferPool> shared_pool;  // responses on their way keep it alive
  ServiceLimits limits;
  Executor* small_calls = nullptr;  // has a worker that no stream keeps waiting
  Admission* admission = nullptr;   // never null while there are calls; likewise the next five
  CallerAccounts* accounts = nullptr;
  WaitingRoom* waiting_room = nullptr;  // for calls that hold nothing else yet
  // Unary calls whose request is being read, which may become as large as a message may be.
  Admission* readers = nullptr;
  std::shared_ptr<MemoryBudget> reading_room;  // what readers wait for
  HealthStatus* health = nullptr;
  SharedRegions* regions = nullptr;             // null: clients share no memory
  const TokenTable* tokens = nullptr;           // null: calls need none
  IdleWatch* idle_watch = nullptr;              // never null while there are calls
  FailedLogins* failed_logins = nullptr;        // likewise
  std::shared_ptr<spdlog::logger> logger;       // null: silent
  std::shared_ptr<spdlog::logger> call_logger;  // for one line a call; null: silent
  bool json_log = false;                        // what those lines are
  Metrics metrics;                              // off unless the server was told to have them
  absl::Time (*now)() = &absl::Now;  // the clock of calls
  absl::Time start_time = absl::Now();
  int worker_threads = 0;
  std::atomic<int64_t> active_calls = 0;
  std::atomic<int64_t> health_calls = 0;  // of them, that only tell how the server is
  std::atomic<int64_t> started_calls = 0;

  // Returns how many calls have something to do.
  int64_t working_calls() const { return active_calls.load() - health_calls.load(); }
};

// What one call works with. Outlives its handler.
struct CallContext {
  ServiceContext& service;
  SessionContext session;  // the budget is the caller's share of the server's
  std::shared_ptr<const SharedRegion> shared = nullptr;  // null: the client shares no memory
  int64_t base_bytes = 0;                                // that it holds in any case
  std::string caller = {};                               // its name
};

}  // namespace quantd

#endif  // QUANTD_SERVER_SERVICE_CONTEXT_H_
