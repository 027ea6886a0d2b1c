#ifndef QUANTD_CORE_SESSION_CALIBRATION_H_
#define QUANTD_CORE_SESSION_CALIBRATION_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/calibrate/calibrator.h"
#include "core/exec/piece.h"
#include "core/session/planner.h"
#include "core/session/session_context.h"
#include "core/session/stripe_session.h"
#include "core/stats/histogram.h"
#include "core/stats/sketch.h"

namespace quantd {

struct CalibrationOptions {
  bool histogram = false;       // bf16 buckets of all finite values
  bool column_moments = false;  // second moments of the columns (the last axis)
  bool gram = false;            // X'X over rows of the last axis
};

// What streams of values have shown; states of several streams of the same spec and shape but for
// the first dimension merge. Rows come first: merging is in the order of the calls.
struct CalibrationState {
  using Group = GroupStats;
  std::vector<Group> groups;  // in group order
  Group tensor;               // over everything
  int64_t non_finite = 0;
  std::vector<int64_t> histogram;  // 65,536 counts by the upper 16 bits of the f32 value, or empty
  int64_t rows = 0;                // of the last axis that moments and Gram have seen
  std::vector<double> column_second_moments;  // sum of x^2 by column, or empty
  std::vector<double> gram;                   // columns x columns, row-major, symmetric, or empty
  std::vector<Sketch> sketches;  // by group, of groups that recur whose values are wanted, or empty

  bool operator==(const CalibrationState&) const = default;
};

// Adds `from` to `into`; kInvalidArgument, changing nothing, where they are of different form or a
// count leaves int64.
absl::Status MergeCalibration(const CalibrationState& from, CalibrationState& into);

struct CalibratedRanges {
  std::vector<Range> groups;
  Range tensor;
  std::optional<Histogram> histogram;  // where the scheme finds its constants from it
  // What they were found of, and by which resolved spec; no spec: nobody has said. Without a name
  // they fit tensors of any.
  TensorDesc source;
  std::string spec;
};

// OK if quantizing by the plan uses calibrated ranges; kInvalidArgument: it has others, or none.
absl::Status CheckRangesTaken(const Plan& plan);

// OK if the ranges fit the plan's tensor, as far as they say what they are for. kInvalidArgument:
// another name, granularity, calibrator, or shape where groups depend on it, with both.
absl::Status CheckRangesFit(const CalibratedRanges& ranges, const Plan& plan);
// Returns the ranges that the plan's calibrator reads from `state`, one for each group, and the
// range of the whole tensor. kNotFound: unknown calibrator. kInvalidArgument: a histogram that is
// none.
absl::StatusOr<CalibratedRanges> RangesOf(const Plan& plan, const CalibrationState& state);

// Returns what a session holds. kInvalidArgument: moments or Gram of a tensor that has no column.
absl::StatusOr<int64_t> CalibrationResidentBytes(const Plan& plan,
                                                 const CalibrationOptions& options);

// Streams over one tensor and keeps statistics only, in one pass on all threads.
class CalibrationSession : public StripeSession {
 public:
  // `plan` may be of any pass. kResourceExhausted: the state does not fit the budget, with the
  // number. kInvalidArgument: moments or Gram of a tensor that has no column.
  static absl::StatusOr<std::unique_ptr<CalibrationSession>> Create(
      Plan plan, const CalibrationOptions& options, const SessionContext& context,
      std::function<void()> on_event = {});

  // Hands the next bytes over; bytes past the tensor's end are kOutOfRange.
  virtual void Push(Piece piece) = 0;
  // Returns the state, once; the status where that is an error; kFailedPrecondition: not ended.
  virtual absl::StatusOr<CalibrationState> Finish() = 0;

  virtual const Plan& plan() const = 0;

 protected:
  using StripeSession::StripeSession;
};

}  // namespace quantd

#endif  // QUANTD_CORE_SESSION_CALIBRATION_H_
