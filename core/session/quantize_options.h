#ifndef QUANTD_CORE_SESSION_QUANTIZE_OPTIONS_H_
#define QUANTD_CORE_SESSION_QUANTIZE_OPTIONS_H_

#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "core/session/planner.h"
#include "core/stats/histogram.h"

namespace quantd {

struct QuantizeOptions {
  bool figures = true;
  // From Calibrate: one range for each group, in group order; empty where the session finds them.
  std::vector<Range> ranges;
  std::optional<Range> tensor_range;     // where the layout needs it
  std::optional<Histogram> histogram;    // likewise
  std::vector<float> importance;         // weights: [columns] or [batch, columns]; none: all the same
  std::vector<float> codebook;           // levels, ascending; none: the scheme finds them
};

// Drops what the plan's layout does not want. kInvalidArgument: ranges, a histogram or weights that do
// not fit, or that the plan counts on and are not there.
absl::Status CheckOptions(const Plan& plan, QuantizeOptions& options);

// Returns how weights apply to a tensor of `shape`. The options outlive it.
Importance ImportanceOf(const QuantizeOptions& options, const Shape& shape);

}  // namespace quantd

#endif  // QUANTD_CORE_SESSION_QUANTIZE_OPTIONS_H_
