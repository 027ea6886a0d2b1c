#include "tests/support/cuts.h"

#include <array>
#include <utility>

#include "absl/status/status.h"
#include "core/base/crc32c.h"
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

SinkMemory MemorySink::Acquire(int64_t offset_bytes, int64_t size_bytes) {
  if (offset_bytes != acquired_) in_order = false;
  acquired_ += size_bytes;
  return std::span(planes[0])
      .subspan(static_cast<size_t>(offset_bytes), static_cast<size_t>(size_bytes));
}

void MemorySink::Commit(int64_t offset_bytes, int64_t size_bytes, uint32_t crc32c) {
  const auto bytes = std::span(planes[0]).subspan(static_cast<size_t>(offset_bytes),
                                                  static_cast<size_t>(size_bytes));
  if (offset_bytes != committed_[0] || Crc32c(bytes) != crc32c) in_order = false;
  committed_[0] += size_bytes;
}

void MemorySink::Put(int plane, int64_t offset_bytes, std::span<const std::byte> bytes) {
  int64_t& committed = committed_[static_cast<size_t>(plane)];
  if (offset_bytes != committed) in_order = false;
  std::copy(bytes.begin(), bytes.end(),
            planes[static_cast<size_t>(plane)].begin() + offset_bytes);
  committed += static_cast<int64_t>(bytes.size());
}

std::vector<int64_t> PlaneBytes(const PackedLayout& layout) {
  std::vector<int64_t> sizes;
  for (const PlaneDesc& plane : layout.planes) sizes.push_back(plane.size_bytes);
  return sizes;
}

Piece LendCopy(std::span<const std::byte> bytes) {
  const auto copy = std::make_shared<std::vector<std::byte>>(bytes.begin(), bytes.end());
  return {*copy, copy};
}

namespace {

// Feeds `push` with the pieces of `bytes`; has the session do what it can in between.
template <typename Session, typename PushFn>
void Feed(Session& session, std::span<const std::byte> bytes, Cut cut, uint32_t seed,
          PushFn push) {
  for (const int64_t piece_bytes : CutSizes(cut, static_cast<int64_t>(bytes.size()), seed)) {
    const auto piece = bytes.first(static_cast<size_t>(piece_bytes));
    bytes = bytes.subspan(piece.size());
    push(cut == Cut::kWhole ? Piece{piece, nullptr} : LendCopy(piece));
    while (!session.WantsInput() && session.Help()) {
    }
  }
}

}  // namespace

absl::StatusOr<QuantizedTensor> QuantizeCut(const QuantSpec& spec, const TensorDesc& tensor,
                                            std::span<const std::byte> values, Cut cut,
                                            const QuantizeOptions& options, int64_t session_budget,
                                            const SessionContext& context) {
  QuantizedTensor result;
  PlanInputs inputs;
  inputs.has_ranges = !options.ranges.empty() || options.tensor_range.has_value() ||
                      options.histogram.has_value();
  inputs.importance_elems = std::ssize(options.importance);
  inputs.codebook_levels = std::ssize(options.codebook);
  inputs.threads = context.executor->workers() + 1;
  QUANTD_ASSIGN_OR_RETURN(result.plan, MakePlan(spec, tensor, session_budget, inputs));
  MemorySink sink(PlaneBytes(result.plan.resolved.layout));
  QUANTD_ASSIGN_OR_RETURN(std::unique_ptr<QuantizeSession> session,
                          QuantizeSession::Create(result.plan, options, sink, context));
  Feed(*session, values, cut, 5, [&](Piece piece) { session->Push(std::move(piece)); });
  session->EndInput();
  session->Await();
  QUANTD_ASSIGN_OR_RETURN(result.report, session->Finish());
  if (!sink.in_order) return absl::InternalError("planes were written out of order");
  result.planes = std::move(sink.planes);
  return result;
}

absl::StatusOr<std::vector<std::byte>> DequantizeCut(const QuantizedTensor& tensor, DType dtype,
                                                     Cut cut, const SessionContext& context) {
  const int64_t values_bytes = tensor.plan.resolved.tensor.shape.num_elems() * SizeOf(dtype);
  MemorySink sink({values_bytes});
  QUANTD_ASSIGN_OR_RETURN(std::unique_ptr<DequantizeSession> session,
                          DequantizeSession::Create(tensor.plan, dtype, sink, context));
  for (size_t i = tensor.planes.size(); i-- > 0;) {  // codes last
    Feed(*session, tensor.planes[i], cut, 6,
         [&](Piece piece) { session->Push(static_cast<int>(i), std::move(piece)); });
  }
  session->EndInput();
  session->Await();
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
  Feed(*session, values, cut, 7, [&](Piece piece) { session->Push(std::move(piece)); });
  session->EndInput();
  session->Await();
  return session->Finish();
}

}  // namespace quantd::testing
