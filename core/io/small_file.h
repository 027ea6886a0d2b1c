#ifndef QUANTD_CORE_IO_SMALL_FILE_H_
#define QUANTD_CORE_IO_SMALL_FILE_H_

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"

namespace quantd {

// What is read besides regular files.
enum class PipePolicy { kRefuse, kRead };

// Returns what is in the regular file at `path`: certificates, tokens, configuration; of a pipe, if
// it may be one, all that comes until its end, for which this waits. Errors name the path:
// kInvalidArgument if it is something else, kResourceExhausted beyond `max_bytes`, else what the
// system's error stands for (kNotFound, kPermissionDenied ...).
absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t max_bytes = 1 << 20,
                                          PipePolicy pipes = PipePolicy::kRefuse);

}  // namespace quantd

#endif  // QUANTD_CORE_IO_SMALL_FILE_H_
