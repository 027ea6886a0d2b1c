#include "client/wire.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "core/base/checked_math.h"
#include "core/base/status_macros.h"
#include "proto/convert.h"

namespace quantd {
namespace {

// No plan is larger: the widest parameters of one element take far less than this.
constexpr int64_t kMaxGrowth = 64;
constexpr int64_t kMaxFixedBytes = 64 << 10;

absl::Status BadAnswer(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("the server's answer is wrong: ", what));
}

absl::Status CheckPlanes(const TensorPlan& plan) {
  if (plan.planes.empty()) return BadAnswer("no planes");
  int64_t total_bytes = 0;
  for (size_t i = 0; i < plan.planes.size(); ++i) {
    const PlaneDesc& plane = plan.planes[i];
    const auto size_bytes = SizeBytes({plane.name, plane.dtype, plane.shape});
    if (!size_bytes.ok() || *size_bytes != plane.size_bytes) {
      return BadAnswer(absl::StrCat("plane ", plane.name, " of ", NameOf(plane.dtype), " ",
                                    plane.shape.Text(), " with ", plane.size_bytes, " bytes"));
    }
    for (size_t j = 0; j < i; ++j) {
      if (plan.planes[j].name == plane.name) {
        return BadAnswer(absl::StrCat("two planes called ", plane.name));
      }
    }
    QUANTD_ASSIGN_OR_RETURN(total_bytes, CheckedAdd(total_bytes, plane.size_bytes));
  }
  if (total_bytes != plan.output_bytes) {
    return BadAnswer(
        absl::StrCat("planes of ", total_bytes, " bytes in an output of ", plan.output_bytes));
  }
  if (total_bytes / kMaxGrowth > plan.input_bytes + kMaxFixedBytes) {
    return BadAnswer(absl::StrCat("an output of ", total_bytes, " bytes from ", plan.input_bytes));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckEcho(const v1::TensorDescriptor& echo, const TensorDesc& asked) {
  const auto found = FromProto(echo);
  if (found.ok() && *found == asked) return absl::OkStatus();
  return BadAnswer(absl::StrCat(
      "it is about ",
      found.ok() ? absl::StrCat(found->name, " ", NameOf(found->dtype), " ", found->shape.Text())
                 : "no tensor",
      ", asked was ", asked.name, " ", NameOf(asked.dtype), " ", asked.shape.Text()));
}

absl::StatusOr<TensorPlan> ReadPlan(const v1::QuantizationPlan& message, const TensorDesc& tensor) {
  TensorPlan plan;
  plan.resolved_spec = message.resolved_spec();
  plan.input_bytes = message.input_bytes();
  plan.output_bytes = message.output_bytes();
  plan.resident_bytes = message.resident_bytes();
  plan.num_groups = message.num_groups();
  plan.fallback_reason = message.fallback_reason();
  for (const v1::Plane& plane : message.planes()) {
    absl::StatusOr<PlaneDesc> read = FromProto(plane);
    if (!read.ok()) return BadAnswer(read.status().message());
    plan.planes.push_back(*std::move(read));
  }
  const absl::StatusOr<Pass> pass = FromProto(message.pass(), "pass");
  if (!pass.ok()) return BadAnswer(pass.status().message());
  plan.pass = *pass;
  QUANTD_ASSIGN_OR_RETURN(const int64_t input_bytes, SizeBytes(tensor));
  if (plan.input_bytes != input_bytes) {
    return BadAnswer(absl::StrCat("input of ", plan.input_bytes, " bytes, which is ", input_bytes));
  }
  QUANTD_RETURN_IF_ERROR(CheckPlanes(plan));
  return plan;
}

bool SamePlane(const PlaneDesc& a, const PlaneDesc& b) {
  return a.name == b.name && a.dtype == b.dtype && a.shape == b.shape &&
         a.size_bytes == b.size_bytes;
}

absl::Duration ReadDuration(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

}  // namespace quantd
