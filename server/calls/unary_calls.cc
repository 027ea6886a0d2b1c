#include "server/calls/unary_calls.h"

#include <google/protobuf/util/time_util.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/base/checked_math.h"
#include "core/base/status_detail.h"
#include "core/base/status_macros.h"
#include "core/exec/memory_budget.h"
#include "core/scheme/registry.h"
#include "core/session/dequantize_session.h"
#include "core/session/quantize_session.h"
#include "core/simd/targets.h"
#include "core/stats/blas.h"
#include "proto/convert.h"
#include "server/calls/requests.h"

namespace quantd {
namespace {

constexpr int kDefaultPageSize = 50;

// Returns what a unary call and its session hold, where its response is not too large.
absl::StatusOr<MemoryBudget::Reservation> TakeMemory(const CallContext& context, UnaryState& call,
                                                     absl::string_view method, int64_t input_bytes,
                                                     int64_t output_bytes, int64_t session_bytes) {
  if (output_bytes > context.service.limits.max_unary_bytes) {
    return WithLimit(absl::ResourceExhaustedError(absl::StrCat(
                         "the response of ", method, " would have ", output_bytes,
                         " bytes; a unary one may have ", context.service.limits.max_unary_bytes,
                         "; use Streaming", method)),
                     "unary_response_bytes", context.service.limits.max_unary_bytes);
  }
  if (call.memory.bytes() > 0) return std::move(call.memory);
  // The response lies there twice: as the message, and serialized.
  QUANTD_ASSIGN_OR_RETURN(int64_t bytes, CheckedAdd(input_bytes, 2 * output_bytes));
  QUANTD_ASSIGN_OR_RETURN(bytes, CheckedAdd(bytes, session_bytes));
  return context.session.budget->Reserve(bytes, "a unary call");
}

// What is counted of a unary call's tensor; goes to the call at its end.
class UnaryTensor {
 public:
  explicit UnaryTensor(UnaryState& call) : call_(call) {}
  ~UnaryTensor() {
    if (outcome.result != TensorOutcome::Result::kOk && call_.cancel.cancelled()) {
      outcome.result = TensorOutcome::Result::kCancelled;
    }
    outcome.elapsed = absl::Now() - start_;
    call_.outcome = outcome;
  }

  TensorOutcome outcome;

 private:
  UnaryState& call_;
  const absl::Time start_ = absl::Now();
};

SessionContext With(SessionContext context, MemoryBudget& account) {
  context.budget = &account;
  return context;
}

std::span<const std::byte> AsBytes(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::span<std::byte> AsWritable(std::string& text) {
  return std::as_writable_bytes(std::span(text.data(), text.size()));
}

// Returns the bytes of each plane, in the layout's order.
absl::StatusOr<std::vector<const std::string*>> CollectPlanes(const v1::DequantizeRequest& request,
                                                              const Plan& plan) {
  const std::vector<IncomingPlane> known = IncomingPlanes(plan);
  std::vector<const std::string*> data(known.size(), nullptr);
  for (const v1::PlaneData& plane : request.planes()) {
    QUANTD_ASSIGN_OR_RETURN(const int index, FindPlane(known, plane.plane().name()));
    const std::string*& slot = data[static_cast<size_t>(index)];
    if (slot != nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("planes: ", plane.plane().name(), " comes twice"));
    }
    slot = &plane.data();
  }
  for (size_t i = 0; i < known.size(); ++i) {
    const size_t size = data[i] == nullptr ? 0 : data[i]->size();
    if (static_cast<int64_t>(size) != known[i].size_bytes) {
      return absl::InvalidArgumentError(absl::StrCat("planes: ", known[i].name, " has ", size,
                                                     " bytes; ", known[i].size_bytes,
                                                     " are expected"));
    }
  }
  return data;
}

// Has the session do all of its work, on this thread and others; a call that is cancelled ends within
// a stripe.
void Drive(StripeSession& session, const CancelToken& cancel) {
  session.EndInput();
  do {
    if (cancel.cancelled()) session.Cancel(absl::CancelledError("cancelled"));
  } while (session.Help());
  session.Await();
}

}  // namespace

absl::Status Quantize(CallContext& context, const v1::QuantizeRequest& request,
                      v1::QuantizeResponse& response, UnaryState& call) {
  UnaryTensor tensor(call);
  QUANTD_ASSIGN_OR_RETURN(QuantizeHead head, ReadHead(request.start(), context.service));
  tensor.outcome.scheme = head.plan.scheme->info.name;
  tensor.outcome.input_bytes = static_cast<int64_t>(request.data().size());
  QUANTD_ASSIGN_OR_RETURN(
      const MemoryBudget::Reservation memory,
      TakeMemory(context, call, "Quantize", static_cast<int64_t>(request.data().size()),
                 head.plan.output_bytes, head.plan.resident_bytes));
  *response.mutable_start() = StartedMessage(head.plan);
  std::vector<std::span<std::byte>> data;
  for (const PlaneDesc& desc : head.plan.resolved.layout.planes) {
    v1::PlaneData& plane = *response.add_planes();
    *plane.mutable_plane() = ToProto(desc);
    plane.mutable_data()->resize(static_cast<size_t>(desc.size_bytes));
  }
  for (v1::PlaneData& plane : *response.mutable_planes()) {
    data.push_back(AsWritable(*plane.mutable_data()));
  }
  SpanSink sink(std::move(data));
  MemoryBudget account(memory.bytes());
  QUANTD_ASSIGN_OR_RETURN(const std::unique_ptr<QuantizeSession> session,
                          QuantizeSession::Create(std::move(head.plan), std::move(head.options),
                                                  sink, With(context.session, account)));
  session->Push({AsBytes(request.data()), nullptr});
  Drive(*session, call.cancel);
  QUANTD_ASSIGN_OR_RETURN(const EncodingReport report, session->Finish());
  *response.mutable_report() = ToProto(report, session->plan().resolved.layout.planes);
  const int64_t input_bytes = tensor.outcome.input_bytes;
  tensor.outcome = OutcomeOf(*session);
  tensor.outcome.input_bytes = input_bytes;
  AddReport(session->plan(), report, tensor.outcome);
  return absl::OkStatus();
}

absl::Status Dequantize(CallContext& context, const v1::DequantizeRequest& request,
                        v1::DequantizeResponse& response, UnaryState& call) {
  UnaryTensor tensor(call);
  QUANTD_ASSIGN_OR_RETURN(DequantizeHead head, ReadHead(request.start(), context.service));
  tensor.outcome.scheme = head.plan.scheme->info.name;
  tensor.outcome.input_bytes = head.plan.output_bytes;
  QUANTD_ASSIGN_OR_RETURN(const std::vector<const std::string*> planes,
                          CollectPlanes(request, head.plan));
  QUANTD_ASSIGN_OR_RETURN(
      const MemoryBudget::Reservation memory,
      TakeMemory(context, call, "Dequantize", head.plan.output_bytes, head.output_bytes,
                 DequantizeResidentBytes(head.plan, head.output_dtype)));
  *response.mutable_start() = StartedMessage(head);
  response.mutable_data()->resize(static_cast<size_t>(head.output_bytes));
  SpanSink sink({AsWritable(*response.mutable_data())});
  MemoryBudget account(memory.bytes());
  QUANTD_ASSIGN_OR_RETURN(const std::unique_ptr<DequantizeSession> session,
                          DequantizeSession::Create(std::move(head.plan), head.output_dtype, sink,
                                                    With(context.session, account)));
  for (size_t n = 0; n < planes.size(); ++n) {  // parameters first, then the codes: plane 0
    const size_t i = (n + 1) % planes.size();
    if (planes[i] == nullptr) continue;  // of no bytes
    session->Push(static_cast<int>(i), {AsBytes(*planes[i]), nullptr});
  }
  Drive(*session, call.cancel);
  tensor.outcome.encode = absl::FromChrono(session->work().encoding);
  QUANTD_ASSIGN_OR_RETURN(const DecodingReport report, session->Finish());
  *response.mutable_finished() = ToProto(report, session->plan().resolved.layout.planes);
  tensor.outcome.output_bytes = head.output_bytes;
  tensor.outcome.result = TensorOutcome::Result::kOk;
  return absl::OkStatus();
}

absl::Status PlanTensor(CallContext& context, const v1::PlanRequest& request,
                        v1::PlanResponse& response, UnaryState&) {
  QUANTD_ASSIGN_OR_RETURN(const TensorDesc tensor, FromProto(request.tensor()));
  QUANTD_ASSIGN_OR_RETURN(const QuantSpec spec, FromProto(request.spec()));
  QUANTD_ASSIGN_OR_RETURN(const Plan plan,
                          PlanFor(spec, tensor, context.service,
                                  {.has_ranges = request.with_ranges()}));
  *response.mutable_plan() = ToProto(plan);
  return absl::OkStatus();
}

absl::Status ListSchemes(CallContext&, const v1::ListSchemesRequest& request,
                         v1::ListSchemesResponse& response, UnaryState&) {
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
  if (end < schemes.size()) response.set_next_page_token(absl::StrCat(end));
  return absl::OkStatus();
}

absl::Status GetServerInfo(CallContext& context, const v1::GetServerInfoRequest&,
                           v1::GetServerInfoResponse& response, UnaryState&) {
  response.set_version(QUANTD_VERSION);
  response.set_build(QUANTD_BUILD);
  response.set_simd_target(ChosenSimdTarget());
  response.set_blas_core(BlasCoreName());
  response.set_worker_threads(context.service.worker_threads);
  response.set_memory_budget_bytes(context.service.session.budget->limit_bytes());
  response.set_memory_used_bytes(context.service.session.budget->used_bytes());
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

}  // namespace quantd
