// A tensor in random pieces, with few stripes in flight, on two threads, or in two passes, against
// the same tensor in one piece; and back.
// Input: | case (session_case.h) | values, repeated |
#include <memory>

#include "core/base/status_macros.h"
#include "core/session/quantize_session.h"
#include "tests/fuzz/session_case.h"
#include "tests/support/cuts.h"

namespace quantd::fuzz {
namespace {

using testing::Bench;
using testing::Cut;
using testing::Fingerprint;
using testing::MemorySink;

absl::StatusOr<QuantizedTensor> QuantizePieces(const Plan& plan, std::span<const std::byte> values,
                                               const QuantizeOptions& options, uint32_t seed,
                                               const SessionContext& context) {
  QuantizedTensor result = {.plan = plan};
  MemorySink sink(testing::PlaneBytes(plan.resolved.layout));
  QUANTD_ASSIGN_OR_RETURN(const std::unique_ptr<QuantizeSession> session,
                          QuantizeSession::Create(plan, options, sink, context));
  std::mt19937 rng(seed);
  for (Pieces pieces(values); !pieces.empty();) {
    session->Push(pieces.Next(rng));
    while (!session->WantsInput() && session->Help()) {
    }
  }
  session->EndInput();
  session->Await();
  QUANTD_ASSIGN_OR_RETURN(result.report, session->Finish());
  Require(sink.in_order, "planes were written out of order");
  result.planes = std::move(sink.planes);
  return result;
}

void RequireSame(const absl::StatusOr<QuantizedTensor>& result,
                 const absl::StatusOr<QuantizedTensor>& expected) {
  Require(result.status() == expected.status(), "another status than in one piece");
  if (result.ok()) {
    Require(Fingerprint(*result) == Fingerprint(*expected), "another result than in one piece");
  }
}

// Ranges by a pass of their own, then the values again.
void RunTwoPasses(const SessionCase& test, std::span<const std::byte> values,
                  const QuantizeOptions& given, const absl::StatusOr<QuantizedTensor>& expected,
                  const Plan& plan, const SessionContext& context) {
  const absl::StatusOr<CalibrationState> state =
      testing::CalibrateCut(plan, values, Cut::kRandom, {}, context);
  if (plan.value_source == ValueSource::kBands) {  // of whose values a state would keep nothing
    Require(!state.ok(), "ranges come of values that are not there");
    return;
  }
  Require(state.ok() || !expected.ok(), "what can be quantized cannot be calibrated");
  if (!state.ok()) return;
  const absl::StatusOr<CalibratedRanges> ranges = RangesOf(plan, *state);
  Require(ranges.ok(), "no ranges of what was calibrated");
  QuantizeOptions options = given;
  options.ranges = ranges->groups;
  options.tensor_range = ranges->tensor;
  options.histogram = ranges->histogram;
  RequireSame(QuantizeAll(test.spec, test.tensor, values, options, context), expected);
}

void RunBack(const QuantizedTensor& tensor, const SessionContext& context) {
  for (const DType dtype : {DType::kF32, DType::kBf16}) {
    const auto whole = testing::DequantizeCut(tensor, dtype, Cut::kWhole, context);
    const auto cut = testing::DequantizeCut(tensor, dtype, Cut::kRandom, context);
    Require(whole.ok() && cut.ok() && *whole == *cut, "what was packed does not come back");
  }
}

void Run(FuzzInput in) {
  const std::optional<SessionCase> test = TakeCase(in);
  if (!test.has_value()) return;
  Bench bench(0), other(test->flags & 1);
  absl::StatusOr<Plan> plan = MakePlan(test->spec, test->tensor, bench.budget.limit_bytes());
  if (!plan.ok() || !IsSmall(*plan)) return;
  const std::vector<std::byte> values = in.Repeated(static_cast<size_t>(plan->input_bytes));
  QuantizeOptions options;
  options.figures = (test->flags & 2) == 0;

  const absl::StatusOr<QuantizedTensor> expected =
      QuantizeAll(test->spec, test->tensor, values, options, bench.context());
  if (plan->pass != Pass::kStatic) {
    RunTwoPasses(*test, values, options, expected, *plan, other.context());
  }
  RequireSame(QuantizeAll(test->spec, test->tensor, values, options, other.context()), expected);
  plan->stripes_in_flight = 1 + test->seed % 3;
  RequireSame(QuantizePieces(*plan, values, options, test->seed, other.context()), expected);
  if (expected.ok()) RunBack(*expected, other.context());
  Require(bench.budget.used_bytes() == 0 && other.budget.used_bytes() == 0, "memory is held");
}

}  // namespace
}  // namespace quantd::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size_bytes) {
  quantd::fuzz::Run(quantd::fuzz::FuzzInput(data, size_bytes));
  return 0;
}
