// Planes of any bytes, in random pieces and any order, against the same planes in one piece.
// Input: | case (session_case.h) | bytes of the planes, repeated |
#include <memory>

#include "core/base/status_macros.h"
#include "core/session/dequantize_session.h"
#include "tests/fuzz/session_case.h"
#include "tests/support/cuts.h"

namespace quantd::fuzz {
namespace {

using testing::Bench;
using testing::MemorySink;

struct Decoded {
  std::vector<std::byte> values;
  DecodingReport report;
};

absl::StatusOr<Decoded> FinishInto(DequantizeSession& session, MemorySink& sink) {
  session.EndInput();
  session.Await();
  QUANTD_ASSIGN_OR_RETURN(DecodingReport report, session.Finish());
  Require(sink.in_order, "values were written out of order");
  return Decoded{std::move(sink.planes[0]), std::move(report)};
}

absl::StatusOr<Decoded> DecodeWhole(const Plan& plan, DType dtype, int64_t values_bytes,
                                    const std::vector<std::vector<std::byte>>& planes,
                                    const SessionContext& context) {
  MemorySink sink({values_bytes});
  QUANTD_ASSIGN_OR_RETURN(const std::unique_ptr<DequantizeSession> session,
                          DequantizeSession::Create(plan, dtype, sink, context));
  for (size_t i = planes.size(); i-- > 0;) {  // codes last
    session->Push(static_cast<int>(i), {planes[i], nullptr});
  }
  return FinishInto(*session, sink);
}

// With `any_order`, codes may come before their parameters, which is an error.
absl::StatusOr<Decoded> DecodePieces(const Plan& plan, DType dtype, int64_t values_bytes,
                                     const std::vector<std::vector<std::byte>>& planes,
                                     bool any_order, uint32_t seed, const SessionContext& context) {
  MemorySink sink({values_bytes});
  QUANTD_ASSIGN_OR_RETURN(const std::unique_ptr<DequantizeSession> session,
                          DequantizeSession::Create(plan, dtype, sink, context));
  std::mt19937 rng(seed);
  std::vector<Pieces> pieces(planes.begin(), planes.end());
  const auto is_left = [](const Pieces& plane) { return !plane.empty(); };
  while (std::any_of(pieces.begin(), pieces.end(), is_left)) {
    size_t plane = rng() % pieces.size();
    if (!any_order && std::any_of(pieces.begin() + 1, pieces.end(), is_left)) {
      plane = std::max<size_t>(plane, 1);
    }
    session->Push(static_cast<int>(plane), pieces[plane].Next(rng));
    while (!session->WantsInput() && session->Help()) {
    }
  }
  return FinishInto(*session, sink);
}

void Run(FuzzInput in) {
  const std::optional<SessionCase> test = TakeCase(in);
  if (!test.has_value()) return;
  static constexpr DType kOutputs[] = {DType::kF32, DType::kF64, DType::kF16, DType::kBf16};
  const DType dtype = kOutputs[test->flags & 3];
  Bench bench(0), other(test->flags >> 2 & 1);
  absl::StatusOr<Plan> plan =
      MakePlan(test->spec, test->tensor, bench.budget.limit_bytes(), {.has_ranges = true});
  if (!plan.ok() || !IsSmall(*plan)) return;
  std::vector<std::vector<std::byte>> planes;
  for (const int64_t size_bytes : testing::PlaneBytes(plan->resolved.layout)) {
    planes.push_back(in.Repeated(static_cast<size_t>(size_bytes)));
  }
  const int64_t values_bytes = test->tensor.shape.num_elems() * SizeOf(dtype);

  const absl::StatusOr<Decoded> expected =
      DecodeWhole(*plan, dtype, values_bytes, planes, bench.context());
  Require(expected.ok(), "planes of the right size are refused");
  plan->stripes_in_flight = 1 + test->seed % 3;
  const bool any_order = (test->flags & 8) != 0;
  const absl::StatusOr<Decoded> cut =
      DecodePieces(*plan, dtype, values_bytes, planes, any_order, test->seed, other.context());
  if (any_order && absl::IsFailedPrecondition(cut.status())) return;
  Require(cut.ok() && cut->values == expected->values &&
              cut->report.values_digest == expected->report.values_digest &&
              cut->report.plane_digests == expected->report.plane_digests,
          "other values than in one piece");
  Require(bench.budget.used_bytes() == 0 && other.budget.used_bytes() == 0, "memory is held");
}

}  // namespace
}  // namespace quantd::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size_bytes) {
  quantd::fuzz::Run(quantd::fuzz::FuzzInput(data, size_bytes));
  return 0;
}
