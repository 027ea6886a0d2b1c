#include "core/base/status_detail.h"

#include <utility>
#include <vector>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace quantd {
namespace {

constexpr char kFieldPayload[] = "quantd/field";        // the field's path
constexpr char kLimitPayload[] = "quantd/limit";        // NAME=ALLOWED
constexpr char kRetryPayload[] = "quantd/retry_ms";     // milliseconds
constexpr char kShortagePayload[] = "quantd/shortage";  // bytes

std::optional<std::string> PayloadOf(const absl::Status& status, absl::string_view name) {
  const absl::optional<absl::Cord> payload = status.GetPayload(name);
  if (!payload.has_value()) return std::nullopt;
  return std::string(*payload);
}

}  // namespace

absl::Status WithField(absl::Status status, absl::string_view field) {
  if (!status.GetPayload(kFieldPayload).has_value()) {
    status.SetPayload(kFieldPayload, absl::Cord(field));  // an OK status takes none
  }
  return status;
}

absl::Status WithLimit(absl::Status status, absl::string_view name, int64_t allowed) {
  status.SetPayload(kLimitPayload, absl::Cord(absl::StrCat(name, "=", allowed)));
  return status;
}

absl::Status WithRetryAfter(absl::Status status, absl::Duration delay) {
  status.SetPayload(kRetryPayload, absl::Cord(absl::StrCat(absl::ToInt64Milliseconds(delay))));
  return status;
}

absl::Status WithShortage(absl::Status status, int64_t bytes) {
  status.SetPayload(kShortagePayload, absl::Cord(absl::StrCat(bytes)));
  return status;
}

std::optional<std::string> FieldOf(const absl::Status& status) {
  return PayloadOf(status, kFieldPayload);
}

std::optional<LimitDetail> LimitOf(const absl::Status& status) {
  const std::optional<std::string> text = PayloadOf(status, kLimitPayload);
  if (!text.has_value()) return std::nullopt;
  const std::pair<std::string, std::string> parts = absl::StrSplit(*text, absl::MaxSplits('=', 1));
  LimitDetail limit = {parts.first, 0};
  if (!absl::SimpleAtoi(parts.second, &limit.allowed)) return std::nullopt;
  return limit;
}

std::optional<int64_t> ShortageOf(const absl::Status& status) {
  const std::optional<std::string> text = PayloadOf(status, kShortagePayload);
  int64_t bytes = 0;
  if (!text.has_value() || !absl::SimpleAtoi(*text, &bytes)) return std::nullopt;
  return bytes;
}

std::optional<absl::Duration> RetryAfterOf(const absl::Status& status) {
  const std::optional<std::string> text = PayloadOf(status, kRetryPayload);
  int64_t millis = 0;
  if (!text.has_value() || !absl::SimpleAtoi(*text, &millis)) return std::nullopt;
  return absl::Milliseconds(millis);
}

}  // namespace quantd
