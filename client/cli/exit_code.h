#ifndef QUANTD_CLIENT_CLI_EXIT_CODE_H_
#define QUANTD_CLIENT_CLI_EXIT_CODE_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace quantd::cli {

// What the program ends with; part of its interface.
enum ExitCode : int {
  kOk = 0,
  kCheckFailed = 1,  // verify found a difference, info --health a server that does not serve
  kBadInput = 2,     // usage, spec, or a file that breaks its format
  kUnavailable = 3,  // the server is unreachable or out of time
  kIoError = 4,      // a file cannot be read or written
  kOther = 5,
};

// The table above, as --help shows it.
inline constexpr char kExitCodesHelp[] =
    "Exit codes: 0 ok; 1 check failed (verify, info --health); 2 usage or bad input;\n"
    "3 server unreachable or out of time; 4 I/O error; 5 other.";

// Marks an error as one of the local file system, so that CodeOf gives kIoError. Errors about what
// a file contains (kInvalidArgument, kDataLoss, kUnimplemented) stay what they are.
absl::Status FileError(absl::Status status);

// Puts `name`, of a tensor or a file, before the message, unless it begins with it.
absl::Status Named(absl::string_view name, const absl::Status& status);

// Returns the exit code for an error, or kOk.
ExitCode CodeOf(const absl::Status& status);

}  // namespace quantd::cli

#endif  // QUANTD_CLIENT_CLI_EXIT_CODE_H_
