// Calibration: a tensor streams by and leaves statistics only, from which the ranges of its groups
// follow. It is the first of two passes over a tensor whose parameters depend on more than a
// session may hold, and how ranges of several streams come together:
//
//   input -> scan, any thread -> merge, in stripe order -> CalibrationState -> RangesOf -> ranges
//            groups, histogram   columns, Gram matrix        MergeCalibration
//
// The ranges are those that quantizing finds where it holds the tensor, so that both ways give the
// same bytes. int8 of 16 GiB of f32 leaves one GroupStats of 40 bytes.
//
// Second moments of columns and the Gram matrix sum rows in order, so they are made while stripes
// are committed, by one thread at a time: the Gram matrix of n columns, n / 2 multiplications a
// value, is as slow as one core, and values, lent pieces too, are then kept until their turn.
//
// Entry: Session::Begin, and RangesOf. Tested by
// tests/core/session/calibration_test.cc, dequantize_faults_test.cc (CalibrationFaultsTest) and
// quantize_session_test.cc (GivenRangesGiveTheSameBytes).
#include "core/session/calibration.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/checked_math.h"
#include "core/base/float_env.h"
#include "core/base/status_macros.h"
#include "core/session/evidence.h"
#include "core/session/ordered_jobs.h"
#include "core/session/piece_queue.h"
#include "core/session/stripes.h"
#include "core/session/value_ranges.h"
#include "core/stats/blas.h"
#include "core/stats/histogram.h"

namespace quantd {
namespace {

absl::Status CheckSizes(absl::string_view what, size_t from, size_t into) {
  if (from == into) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("states do not merge: ", from, " and ", into, " ", what));
}

// Refuses states that differ in form, or whose counts leave int64.
absl::Status CheckMerge(const CalibrationState& from, const CalibrationState& into) {
  QUANTD_RETURN_IF_ERROR(CheckSizes("groups", from.groups.size(), into.groups.size()));
  QUANTD_RETURN_IF_ERROR(
      CheckSizes("histogram buckets", from.histogram.size(), into.histogram.size()));
  QUANTD_RETURN_IF_ERROR(CheckSizes("column moments", from.column_second_moments.size(),
                                    into.column_second_moments.size()));
  QUANTD_RETURN_IF_ERROR(
      CheckSizes("elements of the Gram matrix", from.gram.size(), into.gram.size()));
  QUANTD_RETURN_IF_ERROR(
      CheckSizes("sketches of groups", from.sketches.size(), into.sketches.size()));
  for (size_t i = 0; i < from.sketches.size(); ++i) {
    const int64_t count = from.sketches[i].Count() + into.sketches[i].Count();
    if (count <= Sketch::kMaxCount) continue;
    return absl::InvalidArgumentError(absl::StrCat("states do not merge: group ", i, " would have ",
                                                   count, " values; at most ", Sketch::kMaxCount,
                                                   " are counted"));
  }
  for (size_t i = 0; i < from.groups.size(); ++i) {
    QUANTD_RETURN_IF_ERROR(CheckedAdd(from.groups[i].count, into.groups[i].count).status());
  }
  for (size_t i = 0; i < from.histogram.size(); ++i) {
    QUANTD_RETURN_IF_ERROR(CheckedAdd(from.histogram[i], into.histogram[i]).status());
  }
  QUANTD_RETURN_IF_ERROR(CheckedAdd(from.tensor.count, into.tensor.count).status());
  QUANTD_RETURN_IF_ERROR(CheckedAdd(from.non_finite, into.non_finite).status());
  return CheckedAdd(from.rows, into.rows).status();
}

template <typename T>
void AddAll(const std::vector<T>& from, std::vector<T>& into) {
  std::transform(from.begin(), from.end(), into.begin(), into.begin(), std::plus<T>());
}

// A state holds no values of groups.
absl::Status CheckKeepsValues(const Plan& plan) {
  if (plan.value_source != ValueSource::kBands) return absl::OkStatus();
  const Resolved& resolved = plan.resolved;
  const bool by_scheme = resolved.layout.from_values();
  return absl::InvalidArgumentError(absl::StrCat(
      by_scheme ? absl::StrCat("what scheme ", resolved.info->name, " wants")
                : absl::StrCat("range=", resolved.spec.range),
      " of ", resolved.layout.groups.num_groups,
      " groups is found from their values while they are quantized; calibrate with per=tensor",
      by_scheme ? "" : ", or with range=minmax or Nsigma"));
}

}  // namespace

absl::Status MergeCalibration(const CalibrationState& from, CalibrationState& into) {
  QUANTD_RETURN_IF_ERROR(CheckMerge(from, into));
  AddAll(from.histogram, into.histogram);
  AddAll(from.column_second_moments, into.column_second_moments);
  AddAll(from.gram, into.gram);
  for (size_t i = 0; i < from.groups.size(); ++i) into.groups[i].Merge(from.groups[i]);
  for (size_t i = 0; i < from.sketches.size(); ++i) into.sketches[i].Merge(from.sketches[i]);
  into.tensor.Merge(from.tensor);
  into.non_finite += from.non_finite;
  into.rows += from.rows;
  return absl::OkStatus();
}

absl::StatusOr<CalibratedRanges> RangesOf(const Plan& plan, const CalibrationState& state) {
  QUANTD_ASSIGN_OR_RETURN(const ChosenCalibrator calibrator,
                          FindCalibrator(plan.resolved.spec.range));
  QUANTD_RETURN_IF_ERROR(CheckKeepsValues(plan));
  CalibratedRanges ranges;
  ranges.source = plan.resolved.tensor;
  ranges.spec = FormatSpec(plan.resolved.spec);
  for (const GroupStats& group : state.groups) ranges.groups.push_back(calibrator.RangeOf(group));
  ranges.tensor = calibrator.RangeOf(state.tensor);
  if ((plan.resolved.layout.tensor_evidence & kHistogram) != 0) {
    QUANTD_ASSIGN_OR_RETURN(ranges.histogram, Histogram::FromCounts(state.histogram));
  }
  const bool sketched = plan.value_source == ValueSource::kSketches;
  if ((plan.value_source == ValueSource::kCounts || sketched) && !ranges.groups.empty()) {
    QUANTD_ASSIGN_OR_RETURN(const Histogram counts, Histogram::FromCounts(state.histogram));
    ranges.tensor = RangeOfCounts(plan, calibrator, state.tensor, counts);
  }
  if (plan.value_source == ValueSource::kCounts && !ranges.groups.empty()) {
    ranges.groups.assign(1, ranges.tensor);
  }
  if (!sketched) return ranges;
  if (state.sketches.size() != state.groups.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "range=", plan.resolved.spec.range, " is found from sketches of groups; the state has ",
        state.sketches.size(), " of ", state.groups.size()));
  }
  for (size_t i = 0; i < state.sketches.size(); ++i) {
    ranges.groups[i] = RangeOfCounts(plan, calibrator, state.groups[i], state.sketches[i]);
  }
  return ranges;
}

namespace {

EvidenceWants WantsOf(const Plan& plan, const CalibrationOptions& options) {
  const EvidenceWants wants = EvidenceWantsOf(plan);
  return {.moments = true,
          .magnitudes = wants.magnitudes,
          .histogram = options.histogram || wants.histogram || wants.sketches,  // of the tensor
          .sketches = wants.sketches,
          .non_finite = IsFloat(plan.resolved.tensor.dtype)};
}

// What one job scans.
struct ScanWork {
  static constexpr bool kReusable = false;
  Stripe stripe;
  PieceRange values;
  EvidenceCollector::Part part;
};

class Session final : public CalibrationSession {
 public:
  Session(Plan plan, const CalibrationOptions& options, const SessionContext& context,
          MemoryBudget::Reservation reservation, std::optional<GramAccumulator> gram,
          std::function<void()> on_event)
      : CalibrationSession(context, plan.stripes_in_flight, plan.input_bytes,
                           absl::StrCat("tensor \"", plan.resolved.tensor.name, "\""),
                           std::move(on_event)),
        plan_(std::move(plan)),
        options_(options),
        reservation_(std::move(reservation)),
        tensor_(plan_.resolved.tensor),
        num_elems_(tensor_.shape.num_elems()),
        elem_bytes_(SizeOf(tensor_.dtype)),
        whole_(WholeTensor(num_elems_)),
        evidence_(plan_.resolved.layout, EvidenceMapOf(plan_, whole_), num_elems_, tensor_.dtype,
                  WantsOf(plan_, options), 0, num_elems_),
        columns_(options.column_moments ? tensor_.shape.last_dim() : 0),
        gram_(std::move(gram)),
        cutter_(plan_.resolved.layout, num_elems_) {}
  ~Session() override { Stop(); }

  void Push(Piece piece) override {
    TakeIn([&] { input_.Push(piece); });
  }
  const Plan& plan() const override { return plan_; }
  absl::StatusOr<CalibrationState> Finish() override {
    QUANTD_RETURN_IF_ERROR(result());
    CalibrationState state;
    state.non_finite = evidence_.non_finite();
    std::vector<GroupStats> stats = evidence_.TakeStats();
    for (const GroupStats& group : stats) state.tensor.Merge(group);
    if (&EvidenceMapOf(plan_, whole_) != &whole_) state.groups = std::move(stats);
    if (const std::unique_ptr<Histogram> histogram = evidence_.TakeHistogram()) {
      state.histogram.assign(histogram->counts().begin(), histogram->counts().end());
    }
    state.sketches = evidence_.TakeSketches();
    if (options_.column_moments || options_.gram) {
      state.rows = num_elems_ / std::max<int64_t>(tensor_.shape.last_dim(), 1);
    }
    if (options_.column_moments) {
      state.column_second_moments.assign(columns_.sums().begin(), columns_.sums().end());
    }
    if (gram_) {
      QUANTD_ASSIGN_OR_RETURN(state.gram, std::move(*gram_).Finish());
    }
    return state;
  }

  void Run(ScanWork& work) {
    const ScopedTimer timer(statistics_ns_);
    work.part = evidence_.Scan(work.stripe, work.values.bytes);
    if (!has_chain()) work.values.Clear();  // lent memory goes back
  }

  absl::Status Commit(ScanWork& work) {
    evidence_.Merge(work.part);
    if (!has_chain()) return absl::OkStatus();
    if (WorksAsF32(tensor_.dtype)) {
      AddRows<float>(work);
    } else {
      AddRows<double>(work);
    }
    return absl::OkStatus();
  }

 private:
  bool HasStripe() const override {
    return !cutter_.done() &&
           input_.size_bytes() >= cutter_.stripe().num_elems() * elem_bytes_;
  }
  bool AllBegun() const override { return cutter_.done(); }
  std::unique_ptr<StripeJob> Begin() override {
    auto job = NewJob<JobOf<Session, ScanWork>>(*this);
    job->stripe = cutter_.stripe();
    input_.Take(job->stripe.num_elems() * elem_bytes_, job->values);
    cutter_.Next();
    return job;
  }
  // Moments of columns and the Gram matrix take the rows in order: their chain is that of commits.
  bool has_chain() const { return options_.column_moments || gram_.has_value(); }

  // As f32, with 0 for what is not finite.
  template <typename T>
  void AddRows(const ScanWork& work) {
    TileReader<T> reader(tensor_.dtype, work.values.bytes, work.stripe.begin);
    float rows[kTileElems];
    for (int64_t begin = work.stripe.begin; begin < work.stripe.end; begin += kTileElems) {
      const int64_t end = std::min(begin + kTileElems, work.stripe.end);
      const T* values = reader.Read(begin, end);
      for (int64_t i = 0; i < end - begin; ++i) {
        const auto value = static_cast<float>(LoadAt(values, i));
        rows[i] = std::isfinite(value) ? value : 0.0f;
      }
      const std::span<const float> tile(rows, static_cast<size_t>(end - begin));
      if (options_.column_moments) columns_.Add(tile);
      if (gram_) gram_->Add(tile);
    }
  }

  const Plan plan_;
  const CalibrationOptions options_;
  const MemoryBudget::Reservation reservation_;
  const TensorDesc& tensor_;
  const int64_t num_elems_;
  const int64_t elem_bytes_;
  const GroupMap whole_;
  EvidenceCollector evidence_;
  ColumnMoments columns_;                // the committer's
  std::optional<GramAccumulator> gram_;  // likewise
  StripeCutter cutter_;                  // the dispatcher's, under the lock
};

}  // namespace

absl::StatusOr<int64_t> CalibrationResidentBytes(const Plan& plan,
                                                 const CalibrationOptions& options) {
  QUANTD_RETURN_IF_ERROR(CheckKeepsValues(plan));
  const TensorDesc& tensor = plan.resolved.tensor;
  if ((options.column_moments || options.gram) && tensor.shape.rank() == 0) {
    return absl::InvalidArgumentError(
        "column moments and the Gram matrix need rank 1 or more; the shape is []");
  }
  const PackedLayout& layout = plan.resolved.layout;
  const int64_t num_elems = tensor.shape.num_elems();
  const GroupMap whole = WholeTensor(num_elems);
  const GroupMap& map = EvidenceMapOf(plan, whole);
  const int64_t stripe_elems = std::min(num_elems, kStripeElems);
  int64_t resident_bytes = EvidenceCollector::ResidentBytes(
      layout, map, num_elems, tensor.dtype, WantsOf(plan, options), num_elems, plan.threads,
      plan.stripes_in_flight);
  const auto hold = [&resident_bytes](int64_t bytes) {
    resident_bytes = SaturatingAdd(resident_bytes, bytes);
  };
  // Finish hands out a copy.
  hold(SaturatingMul(map.num_groups, sizeof(GroupStats)));
  hold(SaturatingMul(plan.stripes_in_flight, stripe_elems * SizeOf(tensor.dtype)));
  hold(PieceQueue::kBlockBytes);
  const bool counts = plan.value_source == ValueSource::kCounts ||
                      plan.value_source == ValueSource::kSketches;
  if (counts) hold(kCountedBytes);
  const int64_t columns = tensor.shape.last_dim();
  if (options.column_moments) hold(SaturatingMul(columns, 2 * sizeof(double)));
  if (options.gram && columns <= GramAccumulator::kMaxCols) {
    hold(GramAccumulator::ResidentBytes(columns));
  }
  return resident_bytes;
}

absl::StatusOr<std::unique_ptr<CalibrationSession>> CalibrationSession::Create(
    Plan plan, const CalibrationOptions& options, const SessionContext& context,
    std::function<void()> on_event) {
  QUANTD_ASSIGN_OR_RETURN(const int64_t resident_bytes, CalibrationResidentBytes(plan, options));
  QUANTD_ASSIGN_OR_RETURN(MemoryBudget::Reservation reservation,
                          context.budget->Reserve(
                              resident_bytes, absl::StrCat("calibration of \"",
                                                           plan.resolved.tensor.name, "\"")));
  std::optional<GramAccumulator> gram;
  if (options.gram) {
    QUANTD_ASSIGN_OR_RETURN(gram,
                            GramAccumulator::Create(plan.resolved.tensor.shape.last_dim()));
  }
  ScopedFloatEnv float_env;
  return std::make_unique<Session>(std::move(plan), options, context, std::move(reservation),
                                   std::move(gram), std::move(on_event));
}

}  // namespace quantd
