#include "core/session/quantize_session.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/checked_math.h"
#include "core/base/digest.h"
#include "core/base/float_env.h"
#include "core/base/status_macros.h"
#include "core/calibrate/calibrator.h"
#include "core/session/group_scan.h"
#include "core/session/tile_encoder.h"
#include "core/session/window.h"

namespace quantd {
namespace {

// Groups whose parameters one task makes.
constexpr int64_t kGroupsPerTask = 1024;
// Ranges that are found right before values are encoded are those of about so many elements, ...
constexpr int64_t kStepElems = kTileElems;
// ... where the L2 cache holds the bands of rows, or the runs, that share them.
constexpr int64_t kMaxStepUnitElems = int64_t{64} << 10;

}  // namespace

class QuantizeSession::Impl {
 public:
  Impl(Plan plan, QuantizeOptions options, const SessionContext& context,
       MemoryBudget::Reservation reservation, ChosenCalibrator calibrator)
      : plan_(std::move(plan)),
        options_(std::move(options)),
        context_(context),
        reservation_(std::move(reservation)),
        calibrator_(calibrator),
        resolved_(plan_.resolved),
        layout_(resolved_.layout),
        num_elems_(resolved_.tensor.shape.num_elems()),
        elem_bytes_(SizeOf(resolved_.tensor.dtype)),
        encoder_(*plan_.scheme, resolved_, options_.figures, *context.executor),
        digests_(layout_.planes.size()),
        params_(layout_.planes.size()) {}

  absl::StatusOr<StepResult> Step(std::span<const std::byte> in, PayloadSink& sink,
                                  const CancelToken& cancel) {
    ScopedFloatEnv float_env;
    if (cancel.cancelled()) return absl::CancelledError("cancelled");
    const int64_t left_bytes = plan_.input_bytes - received_bytes_;
    if (static_cast<int64_t>(in.size()) > left_bytes) {
      return absl::OutOfRangeError(
          absl::StrCat("tensor \"", resolved_.tensor.name, "\" has ", plan_.input_bytes, " bytes; ",
                       static_cast<int64_t>(in.size()) - left_bytes, " more were sent"));
    }
    if (done()) return StepResult{};
    if (plan_.pass == Pass::kBuffered) return StepBuffered(in, sink);
    return StepStreaming(in, sink);
  }

  bool done() const { return started_ && encoded_elems_ == num_elems_; }

  absl::StatusOr<EncodingReport> Finish() {
    if (received_bytes_ < plan_.input_bytes) {
      return absl::DataLossError(
          absl::StrCat("tensor \"", resolved_.tensor.name, "\" has ", plan_.input_bytes, " bytes; ",
                       plan_.input_bytes - received_bytes_, " of them are missing"));
    }
    if (!done()) return absl::FailedPreconditionError("the session has output left; call Step");
    EncodingReport report = encoder_.report();
    for (const PlaneDigest& digest : digests_) report.digests.push_back(digest.Text());
    return report;
  }

  const Plan& plan() const { return plan_; }
  const SessionWork& work() const { return work_; }

 private:
  // Input is gathered in `held_`, then encoded window by window from there.
  absl::StatusOr<StepResult> StepBuffered(std::span<const std::byte> in, PayloadSink& sink) {
    if (held_.size() == 0) held_ = context_.pool->Acquire(static_cast<size_t>(plan_.input_bytes));
    if (!in.empty()) std::memcpy(held_.data() + received_bytes_, in.data(), in.size());
    received_bytes_ += static_cast<int64_t>(in.size());
    StepResult result;
    result.consumed_bytes = static_cast<int64_t>(in.size());
    const bool complete = received_bytes_ == plan_.input_bytes;
    if (ScanHeld(complete) || !complete) {
      result.wants_input = !complete;
      return result;
    }
    QUANTD_RETURN_IF_ERROR(Start(sink));
    if (encoded_elems_ < num_elems_) {
      const int64_t end = EndOfWindow(plan_.in_place_target_elems);
      QUANTD_RETURN_IF_ERROR(
          EncodeWindow(held_.data() + encoded_elems_ * elem_bytes_, end - encoded_elems_, sink));
    }
    result.wants_input = done();
    return result;
  }

  // Takes one window of what is held into the statistics; false if there is none to take.
  bool ScanHeld(bool complete) {
    ScopedTimer timer(work_.statistics);
    const int64_t received_elems = received_bytes_ / elem_bytes_;
    int64_t end = std::min(scanned_elems_ + plan_.target_elems, received_elems);
    if (end == scanned_elems_ || (end - scanned_elems_ < plan_.target_elems && !complete))
      return false;
    const GroupMap& groups = StatsMap();
    end = StatsCut(groups, scanned_elems_, end);
    if (stats_.empty()) stats_.resize(static_cast<size_t>(groups.num_groups));
    const Window window = {resolved_.tensor.dtype, held_.data() + scanned_elems_ * elem_bytes_,
                           scanned_elems_, end - scanned_elems_};
    ScanGroups(window, groups, calibrator_.calibrator->needs_moments, 0, stats_,
               *context_.executor);
    scanned_elems_ = end;
    return true;
  }

  // Whose statistics a buffered tensor needs: those of the groups, or of the whole.
  const GroupMap& StatsMap() {
    if (!layout_.needs_tensor_range) return layout_.groups;
    whole_.row_elems = whole_.run_elems = std::max<int64_t>(num_elems_, 1);
    return whole_;
  }

  absl::StatusOr<StepResult> StepStreaming(std::span<const std::byte> in, PayloadSink& sink) {
    QUANTD_RETURN_IF_ERROR(Start(sink));
    StepResult result;
    if (encoded_elems_ == num_elems_) return result;
    const bool in_place =
        held_bytes_ == 0 &&
        reinterpret_cast<uintptr_t>(in.data()) % static_cast<uintptr_t>(elem_bytes_) == 0;
    int64_t end = EndOfWindow(plan_.in_place_target_elems);
    if (!in_place || static_cast<int64_t>(in.size()) < (end - encoded_elems_) * elem_bytes_) {
      end = EndOfWindow(plan_.target_elems);
    }
    const int64_t window_elems = end - encoded_elems_;
    const int64_t window_bytes = window_elems * elem_bytes_;
    if (in_place && static_cast<int64_t>(in.size()) >= window_bytes) {
      received_bytes_ += window_bytes;
      result.consumed_bytes = window_bytes;
      QUANTD_RETURN_IF_ERROR(EncodeWindow(in.data(), window_elems, sink));
    } else {
      if (held_.size() == 0) {
        held_ = context_.pool->Acquire(static_cast<size_t>(plan_.window_elems * elem_bytes_));
      }
      const int64_t take =
          std::min<int64_t>(static_cast<int64_t>(in.size()), window_bytes - held_bytes_);
      if (take > 0) std::memcpy(held_.data() + held_bytes_, in.data(), static_cast<size_t>(take));
      held_bytes_ += take;
      received_bytes_ += take;
      result.consumed_bytes = take;
      if (held_bytes_ == window_bytes) {
        held_bytes_ = 0;
        QUANTD_RETURN_IF_ERROR(EncodeWindow(held_.data(), window_elems, sink));
      }
    }
    result.wants_input = result.consumed_bytes == static_cast<int64_t>(in.size());
    return result;
  }

  int64_t EndOfWindow(int64_t target_elems) const {
    return WindowEnd(layout_, num_elems_, encoded_elems_, target_elems, plan_.whole_groups);
  }

  // Writes the constant planes, and the parameters of all groups where they are known before
  // values.
  absl::Status Start(PayloadSink& sink) {
    if (started_) return absl::OkStatus();
    started_ = true;
    for (size_t plane = 1; plane < layout_.planes.size(); ++plane) {
      const bool constant = layout_.planes[plane].role == PlaneRole::kConstant;
      if (!constant && !plan_.params_upfront) continue;
      params_[plane].resize(static_cast<size_t>(layout_.planes[plane].size_bytes));
    }
    if (plan_.scheme->resolve_constants != nullptr) {
      plan_.scheme->resolve_constants(resolved_, TensorRange(), Planes(0));
      WritePlanes(PlaneRole::kConstant, 0, sink);
    }
    if (!plan_.params_upfront) return absl::OkStatus();
    const bool found = !stats_.empty();  // else ranges are given
    ResolveGroups(0, layout_.groups.num_groups, found);
    WritePlanes(PlaneRole::kPerGroup, 0, sink);
    stats_ = {};
    return absl::OkStatus();
  }

  Range TensorRange() const {
    if (options_.tensor_range.has_value()) return *options_.tensor_range;
    if (!layout_.needs_tensor_range || stats_.empty()) return {};
    return calibrator_.RangeOf(stats_[0]);
  }

  // Makes the parameters of groups [first_group, + num_groups) into params_, from stats_ if
  // `found`.
  void ResolveGroups(int64_t first_group, int64_t num_groups, bool found) {
    context_.executor->ParallelFor(CeilDiv(num_groups, kGroupsPerTask), [&](int64_t task) {
      const int64_t begin = task * kGroupsPerTask;
      const int64_t count = std::min(kGroupsPerTask, num_groups - begin);
      std::span<const GroupStats> stats;
      if (found) stats = std::span(stats_).subspan(static_cast<size_t>(begin));
      ResolveSome(first_group, begin, count, stats);
    });
  }

  // Makes the parameters of groups [first_group + begin, + count), where those of `first_group`
  // begin params_; from `stats`, unless it is empty.
  void ResolveSome(int64_t first_group, int64_t begin, int64_t count,
                   std::span<const GroupStats> stats) {
    constexpr int64_t kGroupsAtOnce = 64;
    Range ranges[kGroupsAtOnce];
    for (int64_t done = 0; done < count; done += kGroupsAtOnce) {
      const int64_t num_groups = std::min(kGroupsAtOnce, count - done);
      const int64_t from = begin + done;
      for (int64_t i = 0; i < num_groups; ++i) {
        if (!stats.empty()) {
          ranges[i] = calibrator_.RangeOf(stats[static_cast<size_t>(done + i)]);
        } else if (resolved_.spec.given_range.has_value()) {
          ranges[i] = *resolved_.spec.given_range;
        } else if (!options_.ranges.empty() && !layout_.needs_tensor_range) {
          ranges[i] = options_.ranges[static_cast<size_t>(first_group + from + i)];
        }
      }
      ParamPlanes planes = Planes(first_group + from);
      for (size_t plane = 1; plane < layout_.planes.size(); ++plane) {
        if (layout_.planes[plane].role != PlaneRole::kPerGroup) continue;
        planes.planes[plane] =
            planes.planes[plane].subspan(static_cast<size_t>(from * layout_.GroupBytes(plane)));
      }
      plan_.scheme->resolve(resolved_, {ranges, static_cast<size_t>(num_groups)}, planes);
    }
  }

  ParamPlanes Planes(int64_t first_group) {
    ParamPlanes planes;
    planes.first_group = first_group;
    for (size_t plane = 1; plane < params_.size(); ++plane) planes.planes[plane] = params_[plane];
    return planes;
  }

  void WritePlanes(PlaneRole role, int64_t first_group, PayloadSink& sink) {
    for (size_t plane = 1; plane < layout_.planes.size(); ++plane) {
      if (layout_.planes[plane].role != role || params_[plane].empty()) continue;
      const std::vector<std::byte>& bytes = params_[plane];
      const int64_t offset =
          role == PlaneRole::kConstant ? 0 : first_group * layout_.GroupBytes(plane);
      const int64_t size_bytes = static_cast<int64_t>(bytes.size());
      const std::span<std::byte> out = sink.Acquire(static_cast<int>(plane), offset, size_bytes);
      std::memcpy(out.data(), bytes.data(), bytes.size());
      digests_[plane].Update(bytes);
      sink.Commit(static_cast<int>(plane), offset, size_bytes);
    }
  }

  struct GroupSpan {
    int64_t first = 0;
    int64_t count = 0;
  };

  // Returns the groups of elements [first_elem, end_elem), which begin with a group and end with
  // one.
  GroupSpan GroupsOf(int64_t first_elem, int64_t end_elem) const {
    const GroupMap& groups = layout_.groups;
    const int64_t last_row = (end_elem - 1) / groups.row_elems;
    const int64_t first = groups.RunAt(first_elem).group;
    const int64_t end = groups.band_rows > 1 ? groups.RowGroup(last_row) + groups.runs_per_row
                                             : groups.RunAt(end_elem - 1).group + 1;
    return {first, end - first};
  }

  bool FindsRanges() const {
    const bool given = resolved_.spec.given_range.has_value() ||
                       (!options_.ranges.empty() && !layout_.needs_tensor_range);
    return layout_.needs_ranges && !given;
  }

  // Finds the parameters of the window's groups before anything of it is encoded.
  void ResolveWindow(const Window& window, GroupSpan groups) {
    ScopedTimer timer(work_.statistics);
    const bool found = FindsRanges();
    if (found) {
      stats_.assign(static_cast<size_t>(groups.count), GroupStats{});
      ScanGroups(window, layout_.groups, calibrator_.calibrator->needs_moments, groups.first,
                 stats_, *context_.executor);
    }
    ResolveGroups(groups.first, groups.count, found);
  }

  // What a task that encodes a part of a window has done.
  struct TaskState {
    std::vector<GroupStats> stats;      // of the groups at hand
    std::optional<PlaneDigest> digest;  // of codes [begin_byte, end_byte), which begin with a leaf
    int64_t begin_byte = 0;
    int64_t end_byte = 0;
    std::chrono::nanoseconds statistics{};
  };

  // Finds the parameters of the next few groups of a window, so that their values are in the cache
  // when they are encoded. Returns where the groups end.
  int64_t ResolveStep(const Window& window, int64_t first_group, int64_t elem, int64_t end_elem,
                      TaskState& task) {
    ScopedTimer timer(task.statistics);
    const int64_t end =
        std::min(WindowEnd(layout_, num_elems_, elem, kStepElems, plan_.whole_groups), end_elem);
    const GroupSpan groups = GroupsOf(elem, end);
    task.stats.assign(static_cast<size_t>(groups.count), GroupStats{});
    const Window part = {window.dtype, window.At(elem), elem, end - elem};
    ScanHere(part, layout_.groups, calibrator_.calibrator->needs_moments, groups.first, task.stats);
    for (int64_t done = 0; done < groups.count; done += kGroupsPerTask) {
      const int64_t count = std::min(kGroupsPerTask, groups.count - done);
      ResolveSome(first_group, groups.first - first_group + done, count,
                  std::span(task.stats).subspan(static_cast<size_t>(done)));
    }
    return end;
  }

  // Hashes codes that a task has made, from the first leaf on that begins in them.
  static void HashCodes(int64_t begin_byte, std::span<const std::byte> codes, TaskState& task) {
    constexpr auto kLeafBytes = static_cast<int64_t>(PlaneDigest::kLeafBytes);
    const int64_t end_byte = begin_byte + static_cast<int64_t>(codes.size());
    if (!task.digest.has_value()) {
      const int64_t leaf_byte = RoundUp(begin_byte, kLeafBytes);
      if (leaf_byte >= end_byte) return;
      task.digest.emplace();
      task.begin_byte = leaf_byte;
      codes = codes.subspan(static_cast<size_t>(leaf_byte - begin_byte));
    }
    task.digest->Update(codes);
    task.end_byte = end_byte;
  }

  // Completes the digest of the codes, which begin at `offset`.
  void JoinDigests(int64_t offset, std::span<const std::byte> codes, std::span<TaskState> tasks) {
    int64_t hashed_byte = offset;
    const auto hash_to = [&](int64_t byte) {
      digests_[0].Update(codes.subspan(static_cast<size_t>(hashed_byte - offset),
                                       static_cast<size_t>(byte - hashed_byte)));
      hashed_byte = byte;
    };
    for (TaskState& task : tasks) {
      if (!task.digest.has_value()) continue;
      hash_to(task.begin_byte);
      digests_[0].Append(*std::move(task.digest));
      hashed_byte = task.end_byte;
    }
    hash_to(offset + static_cast<int64_t>(codes.size()));
  }

  // Takes what tasks spent on statistics out of the time that the window is encoded in.
  void ShareTime(std::span<const TaskState> tasks) {
    std::chrono::nanoseconds statistics{};
    for (const TaskState& task : tasks) statistics += task.statistics;
    statistics /= std::min<int64_t>(std::ssize(tasks), context_.executor->concurrency());
    work_.statistics += statistics;
    work_.encoding -= statistics;
  }

  absl::Status EncodeWindow(const std::byte* values, int64_t window_elems, PayloadSink& sink) {
    const Window window = {resolved_.tensor.dtype, values, encoded_elems_, window_elems};
    const bool has_params = plan_.scheme->resolve != nullptr && !plan_.params_upfront;
    const bool resolves_in_steps = has_params && FindsRanges() && !AreColumns(layout_.groups) &&
                                   LocalUnitElems(layout_.groups) <= kMaxStepUnitElems;
    GroupSpan groups;
    if (has_params) {
      groups = GroupsOf(window.first_elem, window.end_elem());
      for (size_t plane = 1; plane < layout_.planes.size(); ++plane) {
        if (layout_.planes[plane].role != PlaneRole::kPerGroup) continue;
        params_[plane].resize(static_cast<size_t>(groups.count * layout_.GroupBytes(plane)));
      }
      if (!resolves_in_steps) ResolveWindow(window, groups);
    }
    ScopedTimer timer(work_.encoding);
    ParamView view;
    view.first_group = groups.first;
    for (size_t plane = 1; plane < params_.size(); ++plane) view.planes[plane] = params_[plane];
    const int64_t offset = layout_.CodeOffset(window.first_elem);
    const int64_t size_bytes = layout_.CodeOffset(window.end_elem()) - offset;
    const std::span<std::byte> out = sink.Acquire(0, offset, size_bytes);
    const std::vector<int64_t> cuts =
        CutWindow(layout_, window, context_.executor->concurrency(), resolves_in_steps);
    std::vector<TaskState> tasks(cuts.size() - 1);
    const auto prepare = [&](size_t task, int64_t elem) {
      if (!resolves_in_steps) return cuts[task + 1];
      return ResolveStep(window, groups.first, elem, cuts[task + 1], tasks[task]);
    };
    const auto take = [&](size_t task, std::span<const std::byte> codes) {
      HashCodes(offset + (codes.data() - out.data()), codes, tasks[task]);
    };
    QUANTD_RETURN_IF_ERROR(encoder_.Encode(window, view, out, {cuts, prepare, take}));
    ShareTime(tasks);
    JoinDigests(offset, out, tasks);
    if (has_params) WritePlanes(PlaneRole::kPerGroup, groups.first, sink);
    sink.Commit(0, offset, size_bytes);
    encoded_elems_ = window.end_elem();
    ++work_.windows;
    if (done()) held_ = {};
    return absl::OkStatus();
  }

  const Plan plan_;
  const QuantizeOptions options_;
  const SessionContext context_;
  const MemoryBudget::Reservation reservation_;
  const ChosenCalibrator calibrator_;
  const Resolved& resolved_;
  const PackedLayout& layout_;
  const int64_t num_elems_;
  const int64_t elem_bytes_;
  TileEncoder encoder_;
  std::vector<PlaneDigest> digests_;            // by plane
  std::vector<std::vector<std::byte>> params_;  // by plane: constants whole, groups of the window
  std::vector<GroupStats> stats_;               // of the window's groups, or of all
  GroupMap whole_;
  BufferPool::Buffer held_;  // buffered: the tensor; streaming: the beginning of a window
  int64_t held_bytes_ = 0;   // streaming: how much of it is filled
  int64_t received_bytes_ = 0;
  int64_t scanned_elems_ = 0;
  int64_t encoded_elems_ = 0;
  bool started_ = false;
  SessionWork work_;
};

QuantizeSession::QuantizeSession(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
QuantizeSession::~QuantizeSession() = default;

absl::StatusOr<std::unique_ptr<QuantizeSession>> QuantizeSession::Create(
    Plan plan, QuantizeOptions options, const SessionContext& context) {
  const Resolved& resolved = plan.resolved;
  if (plan.pass == Pass::kTwoPass) {
    return absl::FailedPreconditionError(
        absl::StrCat("tensor \"", resolved.tensor.name, "\" (", plan.input_bytes,
                     " bytes) does not fit the memory of a session, and its parameters depend on "
                     "all of it; call "
                     "Calibrate and send it again with the ranges, or use group=, axis=0, scale= "
                     "or a given range"));
  }
  const size_t num_groups = static_cast<size_t>(resolved.layout.groups.num_groups);
  if (!resolved.layout.needs_tensor_range && !options.ranges.empty() &&
      options.ranges.size() != num_groups) {
    return absl::InvalidArgumentError(absl::StrCat("ranges hold ", options.ranges.size(),
                                                   " groups; the tensor has ", num_groups));
  }
  if (plan.pass == Pass::kLocal && resolved.layout.needs_tensor_range && !options.tensor_range) {
    return absl::InvalidArgumentError(
        "ranges hold no range of the whole tensor, which the scheme needs");
  }
  const bool planned_with_ranges = plan.pass == Pass::kStatic && resolved.layout.needs_ranges &&
                                   !resolved.spec.given_range.has_value();
  if (planned_with_ranges && options.ranges.empty() && num_groups > 0) {
    return absl::InvalidArgumentError("the plan counts on ranges and none are given");
  }
  QUANTD_ASSIGN_OR_RETURN(const ChosenCalibrator calibrator, FindCalibrator(resolved.spec.range));
  QUANTD_ASSIGN_OR_RETURN(
      MemoryBudget::Reservation reservation,
      context.budget->Reserve(plan.resident_bytes,
                              absl::StrCat("tensor \"", resolved.tensor.name, "\"")));
  return std::unique_ptr<QuantizeSession>(new QuantizeSession(std::make_unique<Impl>(
      std::move(plan), std::move(options), context, std::move(reservation), calibrator)));
}

absl::StatusOr<StepResult> QuantizeSession::Step(std::span<const std::byte> in, PayloadSink& sink,
                                                 const CancelToken& cancel) {
  return impl_->Step(in, sink, cancel);
}
bool QuantizeSession::done() const { return impl_->done(); }
absl::StatusOr<EncodingReport> QuantizeSession::Finish() { return impl_->Finish(); }
const Plan& QuantizeSession::plan() const { return impl_->plan(); }
const SessionWork& QuantizeSession::work() const { return impl_->work(); }

namespace {

// Keeps all planes in memory.
class VectorSink : public PayloadSink {
 public:
  explicit VectorSink(const PackedLayout& layout) {
    for (const PlaneDesc& plane : layout.planes) {
      planes.emplace_back(static_cast<size_t>(plane.size_bytes));
    }
  }
  std::span<std::byte> Acquire(int plane, int64_t offset_bytes, int64_t size_bytes) override {
    return std::span(planes[static_cast<size_t>(plane)])
        .subspan(static_cast<size_t>(offset_bytes), static_cast<size_t>(size_bytes));
  }
  void Commit(int, int64_t, int64_t) override {}

  std::vector<std::vector<std::byte>> planes;
};

}  // namespace

absl::StatusOr<QuantizedTensor> QuantizeAll(const QuantSpec& spec, const TensorDesc& tensor,
                                            std::span<const std::byte> values,
                                            const QuantizeOptions& options,
                                            const SessionContext& context) {
  QuantizedTensor result;
  QUANTD_ASSIGN_OR_RETURN(result.plan, MakePlan(spec, tensor, context.budget->limit_bytes(),
                                                {.has_ranges = !options.ranges.empty() ||
                                                               options.tensor_range.has_value()}));
  QUANTD_ASSIGN_OR_RETURN(std::unique_ptr<QuantizeSession> session,
                          QuantizeSession::Create(result.plan, options, context));
  VectorSink sink(result.plan.resolved.layout);
  const CancelToken cancel;
  while (!session->done()) {
    QUANTD_ASSIGN_OR_RETURN(const StepResult step, session->Step(values, sink, cancel));
    values = values.subspan(static_cast<size_t>(step.consumed_bytes));
    if (step.wants_input && values.empty() && !session->done()) break;
  }
  QUANTD_ASSIGN_OR_RETURN(result.report, session->Finish());
  result.planes = std::move(sink.planes);
  return result;
}

}  // namespace quantd
