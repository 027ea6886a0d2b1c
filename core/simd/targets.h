#ifndef QUANTD_CORE_SIMD_TARGETS_H_
#define QUANTD_CORE_SIMD_TARGETS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace quantd {

// The names of the SIMD targets that this CPU can run, best first: "avx512", "avx2", "sse4",
// "neon", "scalar".
std::vector<std::string> SupportedSimdTargets();

// Returns the target in use.
std::string ChosenSimdTarget();

// Uses `target` from now on; "" is the best. kNotFound lists those that there are. Call before any
// work begins; all targets give the same bytes, so this is for tests and measurements.
absl::Status ChooseSimdTarget(absl::string_view target);

}  // namespace quantd

#endif  // QUANTD_CORE_SIMD_TARGETS_H_
