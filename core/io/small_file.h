#ifndef QUANTD_CORE_IO_SMALL_FILE_H_
#define QUANTD_CORE_IO_SMALL_FILE_H_

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"

namespace quantd {

// Returns what is in the regular file at `path`: certificates, tokens, configuration; of a pipe,
// which it may be where `max_pipe_bytes` > 0, all that comes until its end, for which this waits.
// Errors name the path: kInvalidArgument if it is something else, kResourceExhausted beyond
// `max_bytes` or `max_pipe_bytes`, else what the system's error stands for (kNotFound,
// kPermissionDenied ...).
absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t max_bytes = 1 << 20,
                                          size_t max_pipe_bytes = 0);

}  // namespace quantd

#endif  // QUANTD_CORE_IO_SMALL_FILE_H_
