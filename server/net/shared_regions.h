#ifndef QUANTD_SERVER_NET_SHARED_REGIONS_H_
#define QUANTD_SERVER_NET_SHARED_REGIONS_H_

#include <spdlog/logger.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/base/mutex.h"
#include "core/exec/memory_budget.h"
#include "core/io/shared_memory.h"

namespace quantd {

// Memory that a client shares, and what is reserved for it: pages that the client gives back come
// anew out of the server's memory when it touches them. Thread-compatible.
struct SharedRegion {
  std::unique_ptr<SharedMemory> memory;
  MemoryBudget::Reservation reservation;
};

struct SharedRegionsOptions {
  int64_t max_region_bytes = int64_t{64} << 20;
  int max_connections = 256;
  // A connection that has not offered memory by then is closed.
  absl::Duration offer_timeout = absl::Seconds(5);
  std::shared_ptr<spdlog::logger> logger;  // null: silent
};

// The regions of all clients that are connected to a side socket. One message is all that such a
// connection says; its token is good until it ends, while streams keep the region that they use.
// Has a thread. Thread-safe.
class SharedRegions {
 public:
  // Regions are reserved in `budget`, which outlives them.
  SharedRegions(SharedRegionsOptions options, MemoryBudget& budget);
  ~SharedRegions();

  // kResourceExhausted: no descriptor is left.
  absl::Status Start();
  // Closes all connections, and forgets their regions.
  void Stop();
  // Takes over a connection. After Start.
  void Adopt(OwnedFd connection) ABSL_LOCKS_EXCLUDED(mutex_);
  // Returns the region of `token`; kUnavailable: there is none, or its connection has ended.
  absl::StatusOr<std::shared_ptr<const SharedRegion>> Find(absl::string_view token)
      ABSL_LOCKS_EXCLUDED(mutex_);

  int64_t connections() const ABSL_LOCKS_EXCLUDED(mutex_);
  int64_t regions() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Connection {
    OwnedFd fd;
    absl::Time deadline;  // of the offer
    std::string token;    // empty: no offer yet
  };
  using Connections = std::map<int, Connection>;  // by descriptor

  void Run();
  void Take(Connection& connection) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<std::string> Accept(int fd) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Connections::iterator Close(Connections::iterator connection)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const SharedRegionsOptions options_;
  MemoryBudget& budget_;
  OwnedFd epoll_, wake_;  // an eventfd; readable: stop
  std::thread thread_;
  mutable Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  Connections connections_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::shared_ptr<const SharedRegion>, std::less<>> regions_
      ABSL_GUARDED_BY(mutex_);
};

}  // namespace quantd

#endif  // QUANTD_SERVER_NET_SHARED_REGIONS_H_
