#ifndef QUANTD_SERVER_RESOLVED_OPTIONS_H_
#define QUANTD_SERVER_RESOLVED_OPTIONS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/server.h"
#include "server/service_context.h"

// What options come to on this machine, and whether a server can do anything by them.
namespace quantd {

// What a server takes beside its budget: the program, gRPC, what malloc has not given back yet.
inline constexpr int64_t kBesideBudgetBytes = int64_t{32} << 20;
// And for each connection.
inline constexpr int64_t kConnectionBytes = int64_t{3} << 19;

// Returns what a server of such a budget holds at most while so many connections are open.
int64_t MemoryBoundBytes(int64_t budget_bytes, int64_t connections);

inline constexpr int kMaxThreads = 1024;

// Returns `options` with values in the place of zeros that stand for something else.
ServerOptions WithDefaults(ServerOptions options);

// Returns what calls are allowed by `resolved`.
ServiceLimits LimitsOf(const ServerOptions& resolved);

// kInvalidArgument: what is allowed by itself, but so that no client could ever have anything done.
absl::Status CheckWorkable(const ServerOptions& resolved);

// Returns what may go wrong by `resolved` where the machine, or the cgroup, has `machine_bytes` of
// memory and a process may have `max_descriptors`: a sentence each.
std::vector<std::string> WarningsOf(const ServerOptions& resolved, int64_t machine_bytes,
                                    int64_t max_descriptors);

// Returns `resolved` as comments of a configuration file: lines of "# KEY=VALUE".
std::string ResolvedText(const ServerOptions& resolved);

}  // namespace quantd

#endif  // QUANTD_SERVER_RESOLVED_OPTIONS_H_
