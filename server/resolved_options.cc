// Entries: WithDefaults, CheckWorkable, WarningsOf. Tested by tests/server/resolved_options_test.cc
// and tests/e2e/test_operation.py.
#include "server/resolved_options.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <set>
#include <system_error>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/status_macros.h"
#include "core/session/planner.h"
#include "core/simd/targets.h"
#include "server/admit/waiting_room.h"
#include "server/net/listen.h"
#include "server/observe/metrics_endpoint.h"

namespace quantd {
namespace {

// Responses that wait in a stream. A window's output comes on top.
constexpr int64_t kMaxQueuedBytes = int64_t{4} << 20;
constexpr int64_t kMaxFrameBytes = int64_t{4} << 20;
// What else a server has open: libraries, gRPC's pollers, sockets that listen, scrapes of metrics,
// connections that are closing.
constexpr int64_t kOtherDescriptors = 256;

// A tensor of 4 KiB, which each server should have room for.
absl::Status CheckRoomForATensor(const ServerOptions& resolved) {
  const ServiceLimits limits = LimitsOf(resolved);
  QUANTD_ASSIGN_OR_RETURN(const QuantSpec spec, ParseSpec("int8"));
  QUANTD_ASSIGN_OR_RETURN(Shape shape, Shape::Make({1, 1024}));
  const absl::StatusOr<Plan> plan =
      MakePlan(spec, {"t", DType::kF32, std::move(shape)}, limits.session_budget_bytes,
               {.threads = resolved.threads});
  if (!plan.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("tensor memory of ", limits.session_budget_bytes,
                                                   " bytes has room for no tensor: ",
                                                   plan.status().message()));
  }
  const int64_t needed_bytes = limits.stream_bytes() + plan->resident_bytes;
  if (needed_bytes <= resolved.caller_budget_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "caller memory of ", resolved.caller_budget_bytes, " bytes has room for no stream; one with ",
      "a tensor of 4 KiB takes ", needed_bytes));
}

// What only the socket itself would say otherwise.
absl::Status CheckSocketMode(uint32_t mode) {
  if ((mode & 0222) != 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat(
      "socket mode 0%o lets nobody connect, which needs the right to write", mode));
}

// Returns the folder of a UNIX socket if it is not there; else nothing.
std::string MissingFolder(const ListenAddress& address) {
  const std::filesystem::path folder = std::filesystem::path(address.unix_path).parent_path();
  std::error_code error;
  if (folder.empty() || std::filesystem::is_directory(folder, error)) return "";
  return folder.string();
}

// kInvalidArgument: nobody can listen there, or two want to.
absl::Status CheckAddresses(const ServerOptions& resolved) {
  std::set<std::string> taken;
  const auto take = [&taken](const ListenAddress& address) {
    const bool any_port = !address.is_unix() && address.port == 0;
    if (any_port || taken.insert(address.text).second) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("address ", address.text, " is given twice; each can be had once"));
  };
  for (const std::string& text : resolved.listen) {
    QUANTD_ASSIGN_OR_RETURN(const ListenAddress address, ParseListenAddress(text));
    if (address.is_unix()) {
      QUANTD_RETURN_IF_ERROR(CheckSocketMode(resolved.access.socket_mode));
    }
    QUANTD_RETURN_IF_ERROR(take(address));
  }
  if (resolved.metrics.empty()) return absl::OkStatus();
  QUANTD_ASSIGN_OR_RETURN(const ListenAddress metrics, ParseMetricsAddress(resolved.metrics));
  return take(metrics);
}

}  // namespace

ServerOptions WithDefaults(ServerOptions options) {
  const int64_t budget_bytes = options.memory_budget_bytes;
  if (options.session_budget_bytes == 0) options.session_budget_bytes = budget_bytes / 4;
  if (options.caller_budget_bytes == 0) options.caller_budget_bytes = budget_bytes / 4 * 3;
  if (options.threads == 0) {
    options.threads =
        std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, kMaxThreads);
  }
  return options;
}

ServiceLimits LimitsOf(const ServerOptions& resolved) {
  const int64_t budget_bytes = resolved.memory_budget_bytes;
  return {.max_message_bytes = resolved.max_message_bytes,
          .max_unary_bytes = resolved.max_unary_bytes,
          .session_budget_bytes = resolved.session_budget_bytes,
          .max_queued_bytes = std::min(kMaxQueuedBytes, budget_bytes / 8),
          .frame_bytes = std::min(kMaxFrameBytes, budget_bytes / 16),
          .max_open_tensors = resolved.max_open_tensors,
          .max_metadata_bytes = resolved.access.max_metadata_bytes};
}

int64_t MemoryBoundBytes(int64_t budget_bytes, int64_t connections) {
  const int64_t beside_bytes = kBesideBudgetBytes + kConnectionBytes * connections;
  return std::min(budget_bytes, std::numeric_limits<int64_t>::max() - beside_bytes) + beside_bytes;
}

absl::Status CheckWorkable(const ServerOptions& resolved) {
  QUANTD_RETURN_IF_ERROR(CheckRoomForATensor(resolved));
  return CheckAddresses(resolved);
}

std::vector<std::string> WarningsOf(const ServerOptions& resolved, int64_t machine_bytes,
                                    int64_t max_descriptors) {
  std::vector<std::string> warnings;
  if (resolved.memory_budget_bytes > machine_bytes - kBesideBudgetBytes) {
    warnings.push_back(absl::StrCat(
        "a memory budget of ", resolved.memory_budget_bytes, " bytes, with ", kBesideBudgetBytes,
        " beside it and up to ", kConnectionBytes, " for each connection, does not fit the ",
        machine_bytes, " bytes of the machine or its cgroup: the system may kill the server"));
  }
  // gRPC's socket, and the duplicate that tells of its end.
  const int64_t descriptors = 2 * int64_t{resolved.access.max_connections} + kOtherDescriptors;
  if (descriptors > max_descriptors) {
    warnings.push_back(absl::StrCat(resolved.access.max_connections, " connections take up to ",
                                    descriptors, " descriptors, and the process may have ",
                                    max_descriptors, ": raise the limit (ulimit -n)"));
  }
  bool has_unix = false;
  for (const std::string& text : resolved.listen) {
    const absl::StatusOr<ListenAddress> address = ParseListenAddress(text);
    if (!address.ok() || !address->is_unix()) continue;
    has_unix = true;
    // Whoever starts the server may make it first, as systemd does.
    if (const std::string folder = MissingFolder(*address); !folder.empty()) {
      warnings.push_back(
          absl::StrCat("listen address ", text, ": there is no folder ", folder, " now"));
    }
  }
  if (!resolved.access.allowed_uids.empty() && !has_unix) {
    warnings.push_back("users are asked of UNIX sockets alone (--allow-uid), and there is none");
  }
  return warnings;
}

std::string ResolvedText(const ServerOptions& resolved) {
  return absl::StrCat("# memory=", resolved.memory_budget_bytes,
                      "\n# tensor-memory=", resolved.session_budget_bytes,
                      "\n# caller-memory=", resolved.caller_budget_bytes,
                      "\n# threads=", resolved.threads, "\n# simd=\"", ChosenSimdTarget(),
                      "\"\n# waiting-streams=",
                      WaitingRoom::LengthFor(resolved.memory_budget_bytes,
                                             resolved.max_waiting_calls),
                      "\n");
}

}  // namespace quantd
