#ifndef QUANTD_CORE_BASE_STATUS_DETAIL_H_
#define QUANTD_CORE_BASE_STATUS_DETAIL_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

// What a program can read of an error beside its code; the message, for people, stays the same. It
// travels in the payloads of the status, so it is lost where a status is made anew from a message.
namespace quantd {

// A limit that was met. `name` has its unit: "memory_bytes", "open_tensors".
struct LimitDetail {
  std::string name;
  int64_t allowed;
};

// Names the request field at fault, unless `status` names one already or is OK.
absl::Status WithField(absl::Status status, absl::string_view field);
// Names the limit that was met; `name` is [a-z0-9_]+, and one of few: metrics count by it.
absl::Status WithLimit(absl::Status status, absl::string_view name, int64_t allowed);
// Says when the same call may succeed.
absl::Status WithRetryAfter(absl::Status status, absl::Duration delay);

// Says that only these bytes of memory were not free: the same call may succeed later.
absl::Status WithShortage(absl::Status status, int64_t bytes);

std::optional<std::string> FieldOf(const absl::Status& status);
std::optional<LimitDetail> LimitOf(const absl::Status& status);
std::optional<absl::Duration> RetryAfterOf(const absl::Status& status);
std::optional<int64_t> ShortageOf(const absl::Status& status);

}  // namespace quantd

#endif  // QUANTD_CORE_BASE_STATUS_DETAIL_H_
