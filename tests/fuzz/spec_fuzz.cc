// The text form of specs. Input: the text.
#include "absl/status/statusor.h"
#include "core/scheme/registry.h"
#include "core/scheme/spec.h"
#include "core/session/planner.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/support/values.h"

namespace quantd::fuzz {
namespace {

void RequireRoundTrip(const QuantSpec& spec) {
  const std::string text = FormatSpec(spec);
  for (const char c : text) {
    const bool allowed = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                         (c >= '0' && c <= '9') ||
                         absl::string_view(":=,._-+").find(c) != absl::string_view::npos;
    Require(allowed, "FormatSpec gives a character that a shell may take");
  }
  const absl::StatusOr<QuantSpec> again = ParseSpec(text);
  Require(again.ok() && *again == spec, "ParseSpec(FormatSpec(spec)) is another spec");
}

void Run(absl::string_view text) {
  const absl::StatusOr<QuantSpec> spec = ParseSpec(text);
  if (!spec.ok()) {
    Require(absl::IsInvalidArgument(spec.status()), "ParseSpec fails with another code");
    return;
  }
  RequireRoundTrip(*spec);
  const TensorDesc tensor = testing::MakeTensor("t", DType::kF32, {6, 5, 64});
  const absl::StatusOr<Plan> plan = MakePlan(*spec, tensor, int64_t{1} << 30);
  if (!plan.ok()) return;
  RequireRoundTrip(plan->resolved.spec);
  const absl::StatusOr<Plan> again = MakePlan(plan->resolved.spec, tensor, int64_t{1} << 30);
  Require(again.ok() && again->resolved.spec == plan->resolved.spec &&
              again->output_bytes == plan->output_bytes,
          "a resolved spec resolves to another one");
}

}  // namespace
}  // namespace quantd::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size_bytes) {
  quantd::fuzz::Run(quantd::fuzz::FuzzInput(data, size_bytes).RestText());
  return 0;
}
