#include "core/session/dequantize_session.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/checked_math.h"
#include "core/base/digest.h"
#include "core/base/float_env.h"
#include "core/base/status_macros.h"
#include "core/session/window.h"
#include "core/simd/convert.h"

namespace quantd {
namespace {

int64_t ParamBytes(const PackedLayout& layout) {
  int64_t bytes = 0;
  for (size_t plane = 1; plane < layout.planes.size(); ++plane) {
    bytes += layout.planes[plane].size_bytes;
  }
  return bytes;
}

}  // namespace

class DequantizeSession::Impl {
 public:
  Impl(Plan plan, DType output_dtype, const SessionContext& context,
       MemoryBudget::Reservation reservation)
      : plan_(std::move(plan)),
        output_dtype_(output_dtype),
        context_(context),
        reservation_(std::move(reservation)),
        layout_(plan_.resolved.layout),
        num_elems_(plan_.resolved.tensor.shape.num_elems()),
        grid_(layout_),
        consumed_(layout_.planes.size()),
        digests_(layout_.planes.size()),
        params_(layout_.planes.size()) {
    for (size_t plane = 1; plane < params_.size(); ++plane) {
      params_[plane] =
          context_.pool->Acquire(static_cast<size_t>(layout_.planes[plane].size_bytes));
    }
  }

  absl::StatusOr<StepResult> Step(int plane, std::span<const std::byte> in, PayloadSink& sink,
                                  const CancelToken& cancel) {
    ScopedFloatEnv float_env;
    if (cancel.cancelled()) return absl::CancelledError("cancelled");
    if (plane < 0 || plane >= static_cast<int>(layout_.planes.size())) {
      return absl::InvalidArgumentError(
          absl::StrCat("plane ", plane, " is not one of the tensor's ", layout_.planes.size()));
    }
    const size_t i = static_cast<size_t>(plane);
    const int64_t left_bytes = layout_.planes[i].size_bytes - consumed_[i];
    const int64_t in_bytes = static_cast<int64_t>(in.size());
    if (in_bytes > left_bytes) {
      return absl::OutOfRangeError(absl::StrCat("plane \"", layout_.planes[i].name, "\" has ",
                                                layout_.planes[i].size_bytes, " bytes; ",
                                                in_bytes - left_bytes, " more were sent"));
    }
    if (plane == 0) return StepCodes(in, sink);
    if (!in.empty()) std::memcpy(params_[i].data() + consumed_[i], in.data(), in.size());
    consumed_[i] += in_bytes;
    digests_[i].Update(in);
    return StepResult{in_bytes, true};
  }

  int64_t consumed_bytes(int plane) const { return consumed_[static_cast<size_t>(plane)]; }

  absl::StatusOr<DecodingReport> Finish() {
    DecodingReport report;
    for (size_t i = 0; i < consumed_.size(); ++i) {
      const PlaneDesc& plane = layout_.planes[i];
      if (consumed_[i] < plane.size_bytes) {
        return absl::DataLossError(absl::StrCat("plane \"", plane.name, "\" has ", plane.size_bytes,
                                                " bytes; ", plane.size_bytes - consumed_[i],
                                                " of them are missing"));
      }
      report.plane_digests.push_back(digests_[i].Text());
    }
    report.values_digest = values_digest_.Text();
    return report;
  }

  const Plan& plan() const { return plan_; }

 private:
  absl::StatusOr<StepResult> StepCodes(std::span<const std::byte> in, PayloadSink& sink) {
    StepResult result;
    if (in.empty()) return result;
    const int64_t end =
        WindowEnd(layout_, num_elems_, decoded_elems_, plan_.target_elems, /*whole_groups=*/false);
    const int64_t offset = layout_.CodeOffset(decoded_elems_);
    const int64_t window_bytes = layout_.CodeOffset(end) - offset;
    // Codes hold at most 16-bit elements.
    const bool aligned = reinterpret_cast<uintptr_t>(in.data()) % 2 == 0;
    std::span<const std::byte> codes;
    if (held_bytes_ == 0 && aligned && static_cast<int64_t>(in.size()) >= window_bytes) {
      codes = in.first(static_cast<size_t>(window_bytes));
      result.consumed_bytes = window_bytes;
    } else {
      if (held_.size() == 0) held_ = context_.pool->Acquire(static_cast<size_t>(MaxWindowBytes()));
      result.consumed_bytes =
          std::min<int64_t>(static_cast<int64_t>(in.size()), window_bytes - held_bytes_);
      std::memcpy(held_.data() + held_bytes_, in.data(),
                  static_cast<size_t>(result.consumed_bytes));
      held_bytes_ += result.consumed_bytes;
      if (held_bytes_ == window_bytes) {
        codes = held_.span().first(static_cast<size_t>(window_bytes));
        held_bytes_ = 0;
      }
    }
    digests_[0].Update(in.first(static_cast<size_t>(result.consumed_bytes)));
    consumed_[0] += result.consumed_bytes;
    if (!codes.empty()) QUANTD_RETURN_IF_ERROR(DecodeWindow(codes, end, sink));
    result.wants_input = result.consumed_bytes == static_cast<int64_t>(in.size());
    return result;
  }

  int64_t MaxWindowBytes() const {
    return MaxCodeBytes(layout_, MaxWindowElems(layout_, num_elems_, plan_.target_elems, false));
  }

  // Parameters of the window's groups must have come.
  absl::Status CheckParams(int64_t end_elem) const {
    const GroupMap& groups = layout_.groups;
    int64_t needed_groups = groups.num_groups;
    if (groups.IsLocal(num_elems_)) {
      needed_groups = groups.band_rows > 1
                          ? groups.RowGroup((end_elem - 1) / groups.row_elems) + groups.runs_per_row
                          : groups.RunAt(end_elem - 1).group + 1;
    }
    for (size_t plane = 1; plane < params_.size(); ++plane) {
      const bool constant = layout_.planes[plane].role == PlaneRole::kConstant;
      const int64_t needed_bytes =
          constant ? layout_.planes[plane].size_bytes : needed_groups * layout_.GroupBytes(plane);
      if (consumed_[plane] >= needed_bytes) continue;
      return absl::FailedPreconditionError(
          absl::StrCat("codes came before their parameters: plane \"", layout_.planes[plane].name,
                       "\" needs ", needed_bytes, " bytes by now and has ", consumed_[plane]));
    }
    return absl::OkStatus();
  }

  absl::Status DecodeWindow(std::span<const std::byte> codes, int64_t end_elem, PayloadSink& sink) {
    QUANTD_RETURN_IF_ERROR(CheckParams(end_elem));
    const int64_t begin = decoded_elems_;
    const int64_t elem_bytes = SizeOf(output_dtype_);
    const int64_t size_bytes = (end_elem - begin) * elem_bytes;
    const std::span<std::byte> out = sink.Acquire(0, begin * elem_bytes, size_bytes);
    const int64_t first_tile = grid_.TileOf(begin);
    const int64_t num_tiles = grid_.TileOf(end_elem - 1) - first_tile + 1;
    context_.executor->ParallelFor(num_tiles, [&](int64_t i) {
      const int64_t from = std::max(grid_.Begin(first_tile + i), begin);
      const int64_t to = std::min(grid_.End(first_tile + i), end_elem);
      const int64_t code_offset = layout_.CodeOffset(from) - layout_.CodeOffset(begin);
      DecodeTile(codes.subspan(static_cast<size_t>(code_offset)), from, to - from,
                 out.data() + (from - begin) * elem_bytes);
    });
    values_digest_.Update(out);
    sink.Commit(0, begin * elem_bytes, size_bytes);
    decoded_elems_ = end_elem;
    return absl::OkStatus();
  }

  void DecodeTile(std::span<const std::byte> codes, int64_t first_elem, int64_t num_elems,
                  std::byte* out) const {
    ParamView view;
    for (size_t plane = 1; plane < params_.size(); ++plane) {
      view.planes[plane] = params_[plane].span();
    }
    const auto decode = [&](TileSpan tile) {
      plan_.scheme->decode(plan_.resolved, codes, view, first_elem, tile);
    };
    if (output_dtype_ == DType::kF32) {
      decode({reinterpret_cast<float*>(out), nullptr, num_elems});
    } else if (output_dtype_ == DType::kF64) {
      decode({nullptr, reinterpret_cast<double*>(out), num_elems});
    } else {  // by way of f64, where every product is exact, so that nothing is rounded twice
      double wide[kTileElems];
      decode({nullptr, wide, num_elems});
      const HalfKind kind = output_dtype_ == DType::kF16 ? HalfKind::kF16 : HalfKind::kBf16;
      NarrowToHalf(kind, Rounding::kHalfEven, /*saturate=*/false, wide, num_elems, nullptr,
                   reinterpret_cast<uint16_t*>(out));
    }
  }

  const Plan plan_;
  const DType output_dtype_;
  const SessionContext context_;
  const MemoryBudget::Reservation reservation_;
  const PackedLayout& layout_;
  const int64_t num_elems_;
  const TileGrid grid_;
  std::vector<int64_t> consumed_;  // bytes, by plane
  std::vector<PlaneDigest> digests_;
  PlaneDigest values_digest_;
  std::vector<BufferPool::Buffer> params_;  // by plane, whole
  BufferPool::Buffer held_;                 // the beginning of a window of codes
  int64_t held_bytes_ = 0;
  int64_t decoded_elems_ = 0;
};

DequantizeSession::DequantizeSession(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
DequantizeSession::~DequantizeSession() = default;

absl::StatusOr<std::unique_ptr<DequantizeSession>> DequantizeSession::Create(
    Plan plan, DType output_dtype, const SessionContext& context) {
  const TensorDesc& tensor = plan.resolved.tensor;
  if (!IsDequantizeTarget(output_dtype)) {
    return absl::InvalidArgumentError(absl::StrCat("values of dtype ", NameOf(output_dtype),
                                                   " cannot be given; use f64, f32, f16 or bf16"));
  }
  QUANTD_RETURN_IF_ERROR(SizeBytes({tensor.name, output_dtype, tensor.shape}).status());
  const PackedLayout& layout = plan.resolved.layout;
  const int64_t window_elems =
      MaxWindowElems(layout, tensor.shape.num_elems(), plan.target_elems, /*whole_groups=*/false);
  const int64_t resident_bytes = SaturatingAdd(
      ParamBytes(layout),
      SaturatingAdd(window_elems * SizeOf(output_dtype), MaxCodeBytes(layout, window_elems)));
  QUANTD_ASSIGN_OR_RETURN(
      MemoryBudget::Reservation reservation,
      context.budget->Reserve(resident_bytes, absl::StrCat("tensor \"", tensor.name, "\"")));
  return std::unique_ptr<DequantizeSession>(new DequantizeSession(
      std::make_unique<Impl>(std::move(plan), output_dtype, context, std::move(reservation))));
}

absl::StatusOr<StepResult> DequantizeSession::Step(int plane, std::span<const std::byte> in,
                                                   PayloadSink& sink, const CancelToken& cancel) {
  return impl_->Step(plane, in, sink, cancel);
}
int64_t DequantizeSession::consumed_bytes(int plane) const { return impl_->consumed_bytes(plane); }
absl::StatusOr<DecodingReport> DequantizeSession::Finish() { return impl_->Finish(); }
const Plan& DequantizeSession::plan() const { return impl_->plan(); }

}  // namespace quantd
