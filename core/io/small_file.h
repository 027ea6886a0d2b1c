#ifndef QUANTD_CORE_IO_SMALL_FILE_H_
#define QUANTD_CORE_IO_SMALL_FILE_H_

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"

namespace quantd {

// Returns what is in the regular file at `path`: certificates, tokens, configuration. Errors name
// the path: kInvalidArgument if it is no regular file, kResourceExhausted beyond `max_bytes`, else
// what the system's error stands for (kNotFound, kPermissionDenied ...).
absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t max_bytes = 1 << 20);

}  // namespace quantd

#endif  // QUANTD_CORE_IO_SMALL_FILE_H_
