// Unary calls that are not about a tensor's values: each is a function of its request.
//
// Entries: MakePlan, MakeListSchemes, MakeGetServerInfo. Tested by tests/server/server_test.cc.
#include <google/protobuf/util/time_util.h>

#include <algorithm>
#include <span>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "core/base/status_detail.h"
#include "core/base/status_macros.h"
#include "core/scheme/definitions.h"
#include "core/scheme/registry.h"
#include "core/simd/targets.h"
#include "core/stats/blas.h"
#include "proto/convert.h"
#include "proto/frame_codec.h"
#include "server/calls/methods.h"
#include "server/calls/requests.h"

namespace quantd {
namespace {

constexpr int kDefaultPageSize = 200;

absl::Status Answer(CallContext& context, const v1::PlanRequest& request,
                    v1::PlanResponse& response) {
  QUANTD_ASSIGN_OR_RETURN(const TensorDesc tensor, FromProto(request.tensor()));
  QUANTD_ASSIGN_OR_RETURN(const QuantSpec spec, FromProto(request.spec()));
  QUANTD_ASSIGN_OR_RETURN(const Plan plan,
                          PlanFor(spec, tensor, context.service,
                                  {.has_ranges = request.with_ranges()}));
  *response.mutable_plan() = ToProto(plan);
  return absl::OkStatus();
}

absl::Status Answer(CallContext&, const v1::ListSchemesRequest& request,
                    v1::ListSchemesResponse& response) {
  const std::span<const Scheme* const> schemes = AllSchemes();
  if (request.page_size() < 0) {
    return WithField(
        absl::InvalidArgumentError(absl::StrCat("page_size=", request.page_size(), " is negative")),
        "page_size");
  }
  size_t begin = 0;
  if (!request.page_token().empty() &&
      (!absl::SimpleAtoi(request.page_token(), &begin) || begin > schemes.size())) {
    return WithField(absl::InvalidArgumentError("page_token is not one that ListSchemes gave"),
                     "page_token");
  }
  const auto size =
      static_cast<size_t>(request.page_size() == 0 ? kDefaultPageSize : request.page_size());
  const size_t end = begin + std::min(size, schemes.size() - begin);
  for (size_t i = begin; i < end; ++i) *response.add_schemes() = ToProto(*schemes[i]);
  if (begin == 0) response.set_common_definition(std::string(CommonDefinition()));
  if (end < schemes.size()) response.set_next_page_token(absl::StrCat(end));
  return absl::OkStatus();
}

absl::Status Answer(CallContext& context, const v1::GetServerInfoRequest&,
                    v1::GetServerInfoResponse& response) {
  response.set_version(QUANTD_VERSION);
  response.set_build(QUANTD_BUILD);
  response.set_simd_target(ChosenSimdTarget());
  response.set_blas_core(BlasCoreName());
  response.set_worker_threads(context.service.worker_threads);
  response.set_memory_budget_bytes(context.service.session.budget->limit_bytes());
  response.set_memory_used_bytes(context.service.session.budget->used_bytes() - context.base_bytes);
  response.set_max_message_bytes(context.service.limits.max_message_bytes);
  response.set_max_unary_bytes(context.service.limits.max_unary_bytes);
  response.set_max_tensor_memory_bytes(context.service.limits.session_budget_bytes);
  response.set_max_open_tensors(context.service.limits.max_open_tensors);
  response.set_max_dimensions(kMaxRank);
  response.set_max_name_bytes(static_cast<int>(kMaxTensorNameBytes));
  *response.mutable_uptime() = google::protobuf::util::TimeUtil::NanosecondsToDuration(
      absl::ToInt64Nanoseconds(absl::Now() - context.service.start_time));
  for (const DType dtype : AllDTypes()) {
    if (IsQuantizable(dtype)) response.add_input_data_types(ToProto(dtype));
  }
  return absl::OkStatus();
}

// A call that answers one frame at once.
template <typename Request, typename Response>
class Query final : public FrameHandler {
 public:
  Query(CallContext& context, FrameOutbox& outbox) : context_(context), outbox_(outbox) {}
  absl::Status Accept(const grpc::ByteBuffer& frame) override {
    Request request;
    Response response;
    QUANTD_RETURN_IF_ERROR(ParseRequest(frame, request));
    QUANTD_RETURN_IF_ERROR(Answer(context_, request, response));
    outbox_.SendLast(SerializeFrame(response));
    return absl::OkStatus();
  }
  absl::Status Close() override { return NoRequestError(); }

 private:
  CallContext& context_;
  FrameOutbox& outbox_;
};

}  // namespace

std::unique_ptr<FrameHandler> MakePlan(CallContext& context, FrameOutbox& outbox,
                                       const CancelToken&) {
  return std::make_unique<Query<v1::PlanRequest, v1::PlanResponse>>(context, outbox);
}

std::unique_ptr<FrameHandler> MakeListSchemes(CallContext& context, FrameOutbox& outbox,
                                              const CancelToken&) {
  return std::make_unique<Query<v1::ListSchemesRequest, v1::ListSchemesResponse>>(context, outbox);
}

std::unique_ptr<FrameHandler> MakeGetServerInfo(CallContext& context, FrameOutbox& outbox,
                                                const CancelToken&) {
  return std::make_unique<Query<v1::GetServerInfoRequest, v1::GetServerInfoResponse>>(context,
                                                                                      outbox);
}

}  // namespace quantd
