#include "server/calls/grpc_status.h"

#include <google/protobuf/any.pb.h>
#include <google/protobuf/util/time_util.h>

#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "core/base/status_detail.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace quantd {
namespace {

constexpr char kDomain[] = "quantd.v1";
// Peers take 8 KiB of metadata by default, the message among them.
constexpr size_t kMaxDetailsBytes = 3072;

google::rpc::Status Describe(const absl::Status& status) {
  google::rpc::Status described;
  described.set_code(static_cast<int>(status.code()));
  described.set_message(std::string(status.message()));
  const std::optional<std::string> field = FieldOf(status);
  const std::optional<LimitDetail> limit = LimitOf(status);
  google::rpc::ErrorInfo info;
  info.set_domain(kDomain);
  info.set_reason(absl::StatusCodeToString(status.code()));
  if (field.has_value()) {
    info.set_reason("INVALID_FIELD");
    (*info.mutable_metadata())["field"] = *field;
  }
  if (limit.has_value()) {
    info.set_reason("LIMIT_EXCEEDED");
    (*info.mutable_metadata())["limit"] = limit->name;
    (*info.mutable_metadata())["allowed"] = absl::StrCat(limit->allowed);
  }
  described.add_details()->PackFrom(info);
  if (field.has_value()) {
    google::rpc::BadRequest bad;
    bad.add_field_violations()->set_field(*field);
    bad.mutable_field_violations(0)->set_description(std::string(status.message()));
    described.add_details()->PackFrom(bad);
  }
  if (limit.has_value()) {
    google::rpc::QuotaFailure quota;
    quota.add_violations()->set_subject(limit->name);
    quota.mutable_violations(0)->set_description(std::string(status.message()));
    described.add_details()->PackFrom(quota);
  }
  if (const std::optional<absl::Duration> delay = RetryAfterOf(status)) {
    google::rpc::RetryInfo retry;
    *retry.mutable_retry_delay() =
        google::protobuf::util::TimeUtil::MillisecondsToDuration(absl::ToInt64Milliseconds(*delay));
    described.add_details()->PackFrom(retry);
  }
  return described;
}

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  std::string details = Describe(status).SerializeAsString();
  if (details.size() > kMaxDetailsBytes) details.clear();
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()),
                      details);
}

std::pair<std::string, std::string> RetryTrailer(absl::Duration delay) {
  return {"grpc-retry-pushback-ms", absl::StrCat(absl::ToInt64Milliseconds(delay))};
}

v1::TensorError ToTensorError(const absl::Status& status) {
  google::rpc::Status described = Describe(status);
  v1::TensorError error;
  error.set_code(described.code());
  *error.mutable_message() = std::move(*described.mutable_message());
  *error.mutable_details() = std::move(*described.mutable_details());
  return error;
}

}  // namespace quantd
