// Messages of strangers: heads of requests as the server reads them, planned and put to work, and
// what a client reads of a server. Input: | u8 kind of message | message |
#include <memory>

#include "proto/convert.h"
#include "server/calls/requests.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/support/cuts.h"

namespace quantd::fuzz {
namespace {

using testing::Bench;
using testing::Cut;

// Tensors beyond this are planned, but no values are made for them.
constexpr int64_t kMaxBytes = 128 << 10;

// What the server has, with small limits.
struct FuzzServer {
  FuzzServer() : bench(0, int64_t{64} << 20) {
    context.session = bench.context();
    context.limits.session_budget_bytes = int64_t{16} << 20;
  }
  Bench bench;
  ServiceContext context;
};

// Codes that a peer may see for what it has sent.
void RequireClean(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kFailedPrecondition:
      Require(status.ok() || !status.message().empty(), "an error without a message");
      break;
    default:
      Require(false, status.ToString());
  }
}

void RequireSound(const Plan& plan, const FuzzServer& server) {
  int64_t output_bytes = 0;
  for (const PlaneDesc& plane : plan.resolved.layout.planes) {
    Require(plane.size_bytes >= 0, "a plane of negative size");
    output_bytes += plane.size_bytes;
  }
  Require(output_bytes == plan.output_bytes, "planes do not sum to the output");
  Require(
      plan.resident_bytes >= 0 && plan.resident_bytes <= server.context.limits.session_budget_bytes,
      "a plan beyond the budget");
  const absl::StatusOr<QuantSpec> spec = ParseSpec(FormatSpec(plan.resolved.spec));
  Require(spec.ok() && *spec == plan.resolved.spec, "a resolved spec that does not parse");
}

bool IsSmall(const Plan& plan) {
  return plan.input_bytes <= kMaxBytes && plan.output_bytes <= 4 * kMaxBytes;
}

void RunQuantize(const v1::QuantizeStart& start, FuzzServer& server) {
  absl::StatusOr<QuantizeHead> head = ReadHead(start, server.context);
  RequireClean(head.status());
  if (!head.ok()) return;
  RequireSound(head->plan, server);
  StartedMessage(head->plan).SerializeAsString();
  if (!IsSmall(head->plan)) return;
  const QuantSpec& spec = head->plan.resolved.spec;
  const std::vector<std::byte> values(static_cast<size_t>(head->plan.input_bytes));
  absl::StatusOr<QuantizedTensor> result =
      testing::QuantizeCut(spec, head->plan.resolved.tensor, values, Cut::kWhole, head->options,
                           server.context.limits.session_budget_bytes, server.context.session);
  RequireClean(result.status());
  if (result.ok()) {
    ToProto(result->report, result->plan.resolved.layout.planes).SerializeAsString();
  }
}

void RunDequantize(const v1::DequantizeStart& start, FuzzServer& server) {
  absl::StatusOr<DequantizeHead> head = ReadHead(start, server.context);
  RequireClean(head.status());
  if (!head.ok()) return;
  RequireSound(head->plan, server);
  StartedMessage(*head).SerializeAsString();
  if (!IsSmall(head->plan) || head->output_bytes > 8 * kMaxBytes) return;
  testing::MemorySink sink({head->output_bytes});
  const auto session =
      DequantizeSession::Create(head->plan, head->output_dtype, sink, server.context.session);
  RequireClean(session.status());
  if (!session.ok()) return;
  const std::vector<PlaneDesc>& planes = head->plan.resolved.layout.planes;
  for (size_t i = planes.size(); i-- > 0;) {
    const std::vector<std::byte> zeros(static_cast<size_t>(planes[i].size_bytes));
    (*session)->Push(static_cast<int>(i), testing::LendCopy(zeros));
  }
  (*session)->EndInput();
  (*session)->Await();
  Require((*session)->Finish().ok(), "planes of the right size are refused, or too few");
}

void RunCalibrate(const v1::CalibrateStart& start, FuzzServer& server) {
  absl::StatusOr<CalibrateHead> head = ReadHead(start, server.context);
  RequireClean(head.status());
  if (!head.ok()) return;
  RequireSound(head->plan, server);
  if (head->plan.input_bytes > kMaxBytes || !IsSmall(head->plan)) return;
  const std::vector<std::byte> values(static_cast<size_t>(head->plan.input_bytes));
  absl::StatusOr<CalibrationState> state =
      testing::CalibrateCut(head->plan, values, Cut::kWhole, head->options, server.context.session);
  RequireClean(state.status());
  if (!state.ok()) return;
  for (const CalibrationState& other : head->merge) {
    const CalibrationState before = *state;
    const absl::Status merged = MergeCalibration(other, *state);
    RequireClean(merged);
    Require(merged.ok() || *state == before || state->tensor.mean != state->tensor.mean,
            "a merge that fails changes the state");
  }
  const absl::StatusOr<CalibratedRanges> ranges = RangesOf(head->plan, *state);
  RequireClean(ranges.status());
  if (ranges.ok()) ToProto(*ranges).SerializeAsString();
  ToProto(*state).SerializeAsString();
}

void RunPlan(const v1::PlanRequest& request, FuzzServer& server) {
  const absl::StatusOr<TensorDesc> tensor = FromProto(request.tensor());
  const absl::StatusOr<QuantSpec> spec = FromProto(request.spec());
  RequireClean(tensor.status());
  RequireClean(spec.status());
  if (tensor.ok()) {
    const absl::StatusOr<TensorDesc> again = FromProto(ToProto(*tensor));
    Require(again.ok() && *again == *tensor, "a descriptor does not come back");
  }
  if (spec.ok()) {
    const absl::StatusOr<QuantSpec> again = FromProto(ToProto(*spec));
    Require(again.ok() && *again == *spec, "a spec does not come back");
  }
  if (!tensor.ok() || !spec.ok()) return;
  const absl::StatusOr<Plan> plan =
      MakePlan(*spec, *tensor, server.context.limits.session_budget_bytes,
               {.has_ranges = request.with_ranges()});
  RequireClean(plan.status());
  if (!plan.ok()) return;
  RequireSound(*plan, server);
  ToProto(*plan).SerializeAsString();
}

// What a client reads.
void RunResponse(const v1::QuantizeResponse& response, FuzzServer&) {
  std::vector<PlaneDesc> planes;
  for (const v1::Plane& message : response.start().plan().planes()) {
    const absl::StatusOr<PlaneDesc> plane = FromProto(message);
    RequireClean(plane.status());
    if (plane.ok()) planes.push_back(*plane);
  }
  RequireClean(FromProto(response.report(), planes).status());
  RequireClean(FromProto(response.start().tensor()).status());
  RequireClean(FromProto(response.start().plan().pass(), "pass").status());
}

void RunCalibrateResponse(const v1::CalibrateResponse& response, FuzzServer&) {
  RequireClean(FromProto(response.ranges()).status());
  const absl::StatusOr<CalibrationState> state = FromProto(response.state());
  RequireClean(state.status());
  if (!state.ok()) return;
  CalibrationState sum = *state;
  RequireClean(MergeCalibration(*state, sum));
}

template <typename Message>
void Run(absl::string_view bytes, void (*run)(const Message&, FuzzServer&)) {
  Message message;
  if (!ParseMessage(bytes, "input", message).ok()) return;
  FuzzServer server;
  run(message, server);
  Require(server.bench.budget.used_bytes() == 0, "memory is held");
}

}  // namespace
}  // namespace quantd::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size_bytes) {
  using namespace quantd::fuzz;  // NOLINT
  FuzzInput in(data, size_bytes);
  switch (in.Byte() % 6) {
    case 0:
      Run(in.RestText(), &RunQuantize);
      break;
    case 1:
      Run(in.RestText(), &RunDequantize);
      break;
    case 2:
      Run(in.RestText(), &RunCalibrate);
      break;
    case 3:
      Run(in.RestText(), &RunPlan);
      break;
    case 4:
      Run(in.RestText(), &RunResponse);
      break;
    case 5:
      Run(in.RestText(), &RunCalibrateResponse);
      break;
  }
  return 0;
}
