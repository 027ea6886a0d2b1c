#include "tests/support/cuts.h"

#include <array>
#include <utility>

#include "absl/status/status.h"
#include "core/base/status_macros.h"

namespace quantd::testing {

std::vector<int64_t> CutSizes(Cut cut, int64_t total_bytes, uint32_t seed) {
  static constexpr std::array<int64_t, 8> kPrimes = {2, 7, 1009, 65537, 13, 4099, 31, 300007};
  std::mt19937 rng(seed);
  std::vector<int64_t> sizes;
  for (size_t i = 0; total_bytes > 0; ++i) {
    int64_t size = total_bytes;
    if (cut == Cut::kOneByte) size = 1;
    if (cut == Cut::kPrimes) size = kPrimes[i % kPrimes.size()];
    if (cut == Cut::kRandom) size = 1 + static_cast<int64_t>(rng() % (1u << (rng() % 20)));
    sizes.push_back(std::min(size, total_bytes));
    total_bytes -= sizes.back();
  }
  return sizes;
}

MemorySink::MemorySink(std::vector<int64_t> plane_bytes) : committed_(plane_bytes.size()) {
  for (const int64_t size_bytes : plane_bytes) planes.emplace_back(static_cast<size_t>(size_bytes));
}

std::span<std::byte> MemorySink::Acquire(int plane, int64_t offset_bytes, int64_t size_bytes) {
  in_order = in_order && offset_bytes == committed_[static_cast<size_t>(plane)];
  return std::span(planes[static_cast<size_t>(plane)])
      .subspan(static_cast<size_t>(offset_bytes), static_cast<size_t>(size_bytes));
}

void MemorySink::Commit(int plane, int64_t, int64_t size_bytes) {
  committed_[static_cast<size_t>(plane)] += size_bytes;
}

absl::StatusOr<QuantizedTensor> QuantizeCut(const QuantSpec& spec, const TensorDesc& tensor,
                                            std::span<const std::byte> values, Cut cut,
                                            const QuantizeOptions& options, int64_t session_budget,
                                            const SessionContext& context) {
  QuantizedTensor result;
  const PlanInputs inputs = {!options.ranges.empty() || options.tensor_range.has_value()};
  QUANTD_ASSIGN_OR_RETURN(result.plan, MakePlan(spec, tensor, session_budget, inputs));
  QUANTD_ASSIGN_OR_RETURN(std::unique_ptr<QuantizeSession> session,
                          QuantizeSession::Create(result.plan, options, context));
  std::vector<int64_t> sizes;
  for (const PlaneDesc& plane : result.plan.resolved.layout.planes)
    sizes.push_back(plane.size_bytes);
  MemorySink sink(sizes);
  const CancelToken cancel;
  for (const int64_t piece_bytes : CutSizes(cut, static_cast<int64_t>(values.size()), 5)) {
    std::span<const std::byte> piece = values.first(static_cast<size_t>(piece_bytes));
    values = values.subspan(piece.size());
    for (bool more = true; more;) {
      QUANTD_ASSIGN_OR_RETURN(const StepResult step, session->Step(piece, sink, cancel));
      piece = piece.subspan(static_cast<size_t>(step.consumed_bytes));
      more = !piece.empty() || !step.wants_input;
    }
  }
  while (!session->done()) {
    QUANTD_RETURN_IF_ERROR(session->Step({}, sink, cancel).status());
  }
  QUANTD_ASSIGN_OR_RETURN(result.report, session->Finish());
  if (!sink.in_order) return absl::InternalError("planes were written out of order");
  result.planes = std::move(sink.planes);
  return result;
}

absl::StatusOr<std::vector<std::byte>> DequantizeCut(const QuantizedTensor& tensor, DType dtype,
                                                     Cut cut, const SessionContext& context) {
  const int64_t values_bytes = tensor.plan.resolved.tensor.shape.num_elems() * SizeOf(dtype);
  QUANTD_ASSIGN_OR_RETURN(std::unique_ptr<DequantizeSession> session,
                          DequantizeSession::Create(tensor.plan, dtype, context));
  MemorySink sink({values_bytes});
  const CancelToken cancel;
  for (size_t i = tensor.planes.size(); i-- > 0;) {  // codes last
    std::span<const std::byte> plane = tensor.planes[i];
    for (const int64_t piece_bytes : CutSizes(cut, static_cast<int64_t>(plane.size()), 6)) {
      std::span<const std::byte> piece = plane.first(static_cast<size_t>(piece_bytes));
      plane = plane.subspan(piece.size());
      while (!piece.empty()) {
        QUANTD_ASSIGN_OR_RETURN(const StepResult step,
                                session->Step(static_cast<int>(i), piece, sink, cancel));
        piece = piece.subspan(static_cast<size_t>(step.consumed_bytes));
      }
    }
  }
  QUANTD_ASSIGN_OR_RETURN(const DecodingReport report, session->Finish());
  if (!sink.in_order || report.plane_digests != tensor.report.digests) {
    return absl::InternalError("digests differ, or values were written out of order");
  }
  return sink.planes[0];
}

absl::StatusOr<CalibrationState> CalibrateCut(const Plan& plan, std::span<const std::byte> values,
                                              Cut cut, const CalibrationOptions& options,
                                              const SessionContext& context) {
  QUANTD_ASSIGN_OR_RETURN(std::unique_ptr<CalibrationSession> session,
                          CalibrationSession::Create(plan, options, context));
  const CancelToken cancel;
  for (const int64_t piece_bytes : CutSizes(cut, static_cast<int64_t>(values.size()), 7)) {
    std::span<const std::byte> piece = values.first(static_cast<size_t>(piece_bytes));
    values = values.subspan(piece.size());
    while (!piece.empty()) {
      QUANTD_ASSIGN_OR_RETURN(const StepResult step, session->Step(piece, cancel));
      piece = piece.subspan(static_cast<size_t>(step.consumed_bytes));
    }
  }
  return session->Finish();
}

}  // namespace quantd::testing
