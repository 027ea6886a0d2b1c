#include "client/cli/exit_code.h"

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "client/cli/text.h"

namespace quantd::cli {
namespace {

constexpr char kFilePayload[] = "quantd.dev/file-error";

}  // namespace

absl::Status FileError(absl::Status status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kUnimplemented:
      break;
    default:
      status.SetPayload(kFilePayload, absl::Cord());
  }
  return status;
}

absl::Status Named(absl::string_view name, const absl::Status& status) {
  if (status.ok() || name.empty()) return status;
  absl::string_view message = status.message();
  const bool has_name = absl::ConsumePrefix(&message, name);
  absl::Status named(status.code(), absl::StrCat(ShownName(name), has_name ? "" : ": ", message));
  if (status.GetPayload(kFilePayload).has_value()) named.SetPayload(kFilePayload, absl::Cord());
  return named;
}

ExitCode CodeOf(const absl::Status& status) {
  if (status.GetPayload(kFilePayload).has_value()) return kIoError;
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kOk;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
      return kUnavailable;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kDataLoss:
      return kBadInput;
    default:
      return kOther;
  }
}

}  // namespace quantd::cli
