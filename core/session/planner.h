#ifndef QUANTD_CORE_SESSION_PLANNER_H_
#define QUANTD_CORE_SESSION_PLANNER_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/scheme/scheme.h"
#include "core/session/evidence.h"

namespace quantd {

// How a tensor goes through a session: what follows from whether its parameters are known, and from
// how long a band is beside a stripe and the budget.
enum class Pass : uint8_t {
  kStatic,    // parameters are known: output flows at once
  kLocal,     // parameters of each band come from the band: output flows at once
  kBuffered,  // the whole tensor is held, then encoded
  kTwoPass,   // does not fit the budget: Calibrate first, then send again with the ranges
};
absl::string_view NameOf(Pass pass);

// Where the values are from that a calibrator needs, such as those of percentiles, or a scheme.
enum class ValueSource : uint8_t {
  kNone,      // it needs none, or there are ranges
  kCounts,    // one group has all values: they are counted
  kBands,     // groups do not recur: their values are at hand; schemes may want them too
  kSketches,  // they do: the values of each are counted in little memory
};

// What is known before the values, beside the spec.
struct PlanInputs {
  bool has_ranges = false;      // what Calibrate finds is given
  int64_t importance_elems = 0;  // weights that are given
  int64_t codebook_levels = 0;   // levels that are given
  int threads = 1;              // that work on a session
};

// The decision about one tensor.
struct Plan {
  const Scheme* scheme = nullptr;
  Resolved resolved;
  std::optional<Resolved> counted;  // of one group of kTileElems: what sketches are tried out with
  Pass pass = Pass::kStatic;
  ValueSource value_source = ValueSource::kNone;
  int threads = 1;                // that it counts on
  bool known_constants = false;   // before the values
  bool known_params = false;      // those of the groups, before the values
  int64_t input_bytes = 0;        // size of the tensor's values
  int64_t output_bytes = 0;       // sum over the planes
  int64_t held_bytes = 0;         // values that are held until their parameters are found
  int64_t stripes_in_flight = 1;  // that are worked on, or wait for their turn to be written
  int64_t resident_bytes = 0;     // what a session of this plan holds at most
  std::string fallback_reason;    // why the spec's `incompatible` scheme was taken; empty: it was not
};

// Returns the plan of quantizing `tensor` by `spec` where a session may hold `budget_bytes`. Pure.
// kNotFound: unknown scheme or calibrator. kInvalidArgument: spec or shape. kResourceExhausted: not
// even one stripe fits, with the number.
absl::StatusOr<Plan> MakePlan(const QuantSpec& spec, const TensorDesc& tensor, int64_t budget_bytes,
                              const PlanInputs& inputs = {});

// Returns what a calibration, or a session that holds values, has to find out; and of which groups:
// the layout's, or `whole`, where constants alone need evidence of the whole tensor.
EvidenceWants EvidenceWantsOf(const Plan& plan);
const GroupMap& EvidenceMapOf(const Plan& plan, const GroupMap& whole);

// Returns the bytes of what is stored and worked with for `num_groups` groups, constants included.
int64_t ParamBytes(const PackedLayout& layout, int64_t num_groups);

}  // namespace quantd

#endif  // QUANTD_CORE_SESSION_PLANNER_H_
