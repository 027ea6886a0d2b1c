#ifndef QUANTD_SERVER_OBSERVE_LOG_H_
#define QUANTD_SERVER_OBSERVE_LOG_H_

#include <spdlog/logger.h>

#include <memory>

#include "absl/strings/string_view.h"

namespace quantd {

// Name of the logger whose messages, in a JSON log, are fields of an object rather than text.
inline constexpr char kCallLoggerName[] = "call";

// Returns a logger to stderr that all of the program shares as "quantd". With `json`, each line is
// an object with "time", "level", and "message" or the fields of a call.
std::shared_ptr<spdlog::logger> MakeLogger(absl::string_view level, bool json);

}  // namespace quantd

#endif  // QUANTD_SERVER_OBSERVE_LOG_H_
