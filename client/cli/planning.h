#ifndef QUANTD_CLIENT_CLI_PLANNING_H_
#define QUANTD_CLIENT_CLI_PLANNING_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/cli/connection.h"
#include "client/cli/input.h"
#include "client/types.h"

namespace quantd::cli {

// OK if `why_kept` says nothing of some tensor, or there is none. kInvalidArgument: all are kept,
// with why, and what can be done.
absl::Status CheckAnySelected(const Input& input, const std::vector<std::string>& why_kept);

// Returns the plan of each tensor that `why_kept` says nothing of. Those that the scheme cannot
// take are kept, and `why_kept` tells why, where the spec says incompatible=keep, but not all of
// them (CheckAnySelected).
absl::StatusOr<std::vector<std::optional<TensorPlan>>> PlanSelected(
    const Connection& connection, const Input& input, const QuantSpec& spec,
    std::vector<std::string>& why_kept);

// Returns a resolved spec without what is its scheme's default: "int8:axis=0", "q8_0".
std::string ShortSpec(absl::string_view resolved_spec);

}  // namespace quantd::cli

#endif  // QUANTD_CLIENT_CLI_PLANNING_H_
