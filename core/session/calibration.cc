#include "core/session/calibration.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/checked_math.h"
#include "core/base/float_env.h"
#include "core/base/status_macros.h"
#include "core/session/group_scan.h"
#include "core/session/window.h"
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

// The groups whose statistics are kept: none where only the whole tensor counts.
GroupMap StatsMapOf(const Resolved& resolved) {
  if (!resolved.layout.needs_tensor_range) return resolved.layout.groups;
  GroupMap whole;
  whole.row_elems = whole.run_elems = std::max<int64_t>(resolved.tensor.shape.num_elems(), 1);
  return whole;
}

}  // namespace

absl::Status MergeCalibration(const CalibrationState& from, CalibrationState& into) {
  QUANTD_RETURN_IF_ERROR(CheckMerge(from, into));
  AddAll(from.histogram, into.histogram);
  AddAll(from.column_second_moments, into.column_second_moments);
  AddAll(from.gram, into.gram);
  for (size_t i = 0; i < from.groups.size(); ++i) into.groups[i].Merge(from.groups[i]);
  into.tensor.Merge(from.tensor);
  into.non_finite += from.non_finite;
  into.rows += from.rows;
  return absl::OkStatus();
}

absl::StatusOr<CalibratedRanges> RangesOf(const Plan& plan, const CalibrationState& state) {
  QUANTD_ASSIGN_OR_RETURN(const ChosenCalibrator calibrator,
                          FindCalibrator(plan.resolved.spec.range));
  CalibratedRanges ranges;
  for (const GroupStats& group : state.groups) ranges.groups.push_back(calibrator.RangeOf(group));
  ranges.tensor = calibrator.RangeOf(state.tensor);
  return ranges;
}

class CalibrationSession::Impl {
 public:
  Impl(Plan plan, const CalibrationOptions& options, const SessionContext& context,
       MemoryBudget::Reservation reservation, std::optional<GramAccumulator> gram)
      : plan_(std::move(plan)),
        options_(options),
        context_(context),
        reservation_(std::move(reservation)),
        tensor_(plan_.resolved.tensor),
        map_(StatsMapOf(plan_.resolved)),
        num_elems_(tensor_.shape.num_elems()),
        elem_bytes_(SizeOf(tensor_.dtype)),
        stats_(static_cast<size_t>(map_.num_groups)),
        columns_(options.column_moments ? tensor_.shape.last_dim() : 0),
        gram_(std::move(gram)) {
    if (options.histogram) histogram_.emplace();
  }

  absl::StatusOr<StepResult> Step(std::span<const std::byte> in, const CancelToken& cancel) {
    ScopedFloatEnv float_env;
    if (cancel.cancelled()) return absl::CancelledError("cancelled");
    const int64_t in_bytes = static_cast<int64_t>(in.size());
    const int64_t left_bytes = plan_.input_bytes - received_bytes_;
    if (in_bytes > left_bytes) {
      return absl::OutOfRangeError(absl::StrCat("tensor \"", tensor_.name, "\" has ",
                                                plan_.input_bytes, " bytes; ",
                                                in_bytes - left_bytes, " more were sent"));
    }
    StepResult result;
    if (in.empty()) return result;
    const int64_t end = WindowEndElem();
    const int64_t window_bytes = (end - scanned_elems_) * elem_bytes_;
    const bool aligned =
        reinterpret_cast<uintptr_t>(in.data()) % static_cast<uintptr_t>(elem_bytes_) == 0;
    if (held_bytes_ == 0 && aligned && in_bytes >= window_bytes) {
      result.consumed_bytes = window_bytes;
      Scan(in.data(), end);
    } else {
      if (held_.size() == 0) {
        held_ = context_.pool->Acquire(static_cast<size_t>(plan_.target_elems * elem_bytes_));
      }
      result.consumed_bytes = std::min(in_bytes, window_bytes - held_bytes_);
      std::memcpy(held_.data() + held_bytes_, in.data(),
                  static_cast<size_t>(result.consumed_bytes));
      held_bytes_ += result.consumed_bytes;
      if (held_bytes_ == window_bytes) {
        held_bytes_ = 0;
        Scan(held_.data(), end);
      }
    }
    received_bytes_ += result.consumed_bytes;
    result.wants_input = result.consumed_bytes == in_bytes;
    return result;
  }

  absl::StatusOr<CalibrationState> Finish() {
    if (received_bytes_ < plan_.input_bytes) {
      return absl::DataLossError(
          absl::StrCat("tensor \"", tensor_.name, "\" has ", plan_.input_bytes, " bytes; ",
                       plan_.input_bytes - received_bytes_, " of them are missing"));
    }
    CalibrationState state;
    for (const GroupStats& group : stats_) state.tensor.Merge(group);
    if (!plan_.resolved.layout.needs_tensor_range) state.groups = std::move(stats_);
    state.non_finite = non_finite_;
    if (histogram_)
      state.histogram.assign(histogram_->counts().begin(), histogram_->counts().end());
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

  const Plan& plan() const { return plan_; }

 private:
  int64_t WindowEndElem() const {
    const int64_t target = std::min(scanned_elems_ + plan_.target_elems, num_elems_);
    return StatsCut(map_, scanned_elems_, target);
  }

  void Scan(const std::byte* values, int64_t end) {
    const Window window = {tensor_.dtype, values, scanned_elems_, end - scanned_elems_};
    ScanGroups(window, map_, /*moments=*/true, 0, stats_, *context_.executor);
    CountNonFinite(window);
    if (histogram_ || options_.column_moments || gram_) AddValues(window);
    scanned_elems_ = end;
  }

  void CountNonFinite(const Window& window) {
    if (!IsFloat(tensor_.dtype)) return;
    if (tensor_.dtype == DType::kF64) {
      const auto* values = reinterpret_cast<const double*>(window.values);
      non_finite_ += std::count_if(values, values + window.num_elems,
                                   [](double value) { return !std::isfinite(value); });
      return;
    }
    ForEachTile(window, [this](std::span<float> values) {
      non_finite_ += std::count_if(values.begin(), values.end(),
                                   [](float value) { return !std::isfinite(value); });
    });
  }

  // Histogram, moments and Gram matrix work on f32 with 0 for what is not finite.
  void AddValues(const Window& window) {
    ForEachTile(window, [this](std::span<float> values) {
      if (histogram_) histogram_->Add(values);
      for (float& value : values) value = std::isfinite(value) ? value : 0.0f;
      if (options_.column_moments) columns_.Add(values);
      if (gram_) gram_->Add(values);
    });
  }

  template <typename Fn>
  void ForEachTile(const Window& window, Fn fn) {
    float values[kTileElems];
    double wide[kTileElems];
    int64_t inexact = 0;
    for (int64_t elem = window.first_elem; elem < window.end_elem(); elem += kTileElems) {
      const int64_t count = std::min(kTileElems, window.end_elem() - elem);
      if (WorksAsF32(window.dtype)) {
        WidenToF32(window.dtype, window.At(elem), count, values);
      } else {
        const double* loaded = LoadValues(window, elem, count, wide, inexact);
        std::transform(loaded, loaded + count, values,
                       [](double value) { return static_cast<float>(value); });
      }
      fn(std::span<float>(values, static_cast<size_t>(count)));
    }
  }

  const Plan plan_;
  const CalibrationOptions options_;
  const SessionContext context_;
  const MemoryBudget::Reservation reservation_;
  const TensorDesc& tensor_;
  const GroupMap map_;
  const int64_t num_elems_;
  const int64_t elem_bytes_;
  std::vector<GroupStats> stats_;
  int64_t non_finite_ = 0;
  std::optional<Histogram> histogram_;
  ColumnMoments columns_;
  std::optional<GramAccumulator> gram_;
  BufferPool::Buffer held_;  // the beginning of a window
  int64_t held_bytes_ = 0;
  int64_t received_bytes_ = 0;
  int64_t scanned_elems_ = 0;
};

CalibrationSession::CalibrationSession(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CalibrationSession::~CalibrationSession() = default;

absl::StatusOr<std::unique_ptr<CalibrationSession>> CalibrationSession::Create(
    Plan plan, const CalibrationOptions& options, const SessionContext& context) {
  const TensorDesc& tensor = plan.resolved.tensor;
  if ((options.column_moments || options.gram) && tensor.shape.rank() == 0) {
    return absl::InvalidArgumentError(
        "column moments and the Gram matrix need rank 1 or more; the shape is []");
  }
  const int64_t num_groups = StatsMapOf(plan.resolved).num_groups;
  // Twice what is kept: Finish hands out a copy.
  int64_t resident_bytes = SaturatingMul(num_groups, 2 * sizeof(GroupStats));
  const auto hold = [&resident_bytes](int64_t bytes) {
    resident_bytes = SaturatingAdd(resident_bytes, bytes);
  };
  hold(plan.target_elems * SizeOf(tensor.dtype));
  hold(ScanScratchBytes(StatsMapOf(plan.resolved), plan.target_elems));
  if (options.histogram) hold(Histogram::kNumBuckets * int64_t{2} * sizeof(int64_t));
  const int64_t columns = tensor.shape.last_dim();
  if (options.column_moments) hold(SaturatingMul(columns, 2 * sizeof(double)));
  std::optional<GramAccumulator> gram;
  if (options.gram && columns <= GramAccumulator::kMaxCols) {
    hold(GramAccumulator::ResidentBytes(columns));
  }
  QUANTD_ASSIGN_OR_RETURN(MemoryBudget::Reservation reservation,
                          context.budget->Reserve(resident_bytes, absl::StrCat("calibration of \"",
                                                                               tensor.name, "\"")));
  if (options.gram) {
    QUANTD_ASSIGN_OR_RETURN(gram, GramAccumulator::Create(columns));
  }
  return std::unique_ptr<CalibrationSession>(new CalibrationSession(std::make_unique<Impl>(
      std::move(plan), options, context, std::move(reservation), std::move(gram))));
}

absl::StatusOr<StepResult> CalibrationSession::Step(std::span<const std::byte> in,
                                                    const CancelToken& cancel) {
  return impl_->Step(in, cancel);
}
absl::StatusOr<CalibrationState> CalibrationSession::Finish() { return impl_->Finish(); }
const Plan& CalibrationSession::plan() const { return impl_->plan(); }

}  // namespace quantd
