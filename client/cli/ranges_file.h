#ifndef QUANTD_CLIENT_CLI_RANGES_FILE_H_
#define QUANTD_CLIENT_CLI_RANGES_FILE_H_

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "client/cli/interrupts.h"
#include "client/cli/report_view.h"
#include "core/session/calibration.h"

namespace quantd::cli {

// The ranges of tensors, as `quantctl calibrate -o` writes them and `quantize --ranges` reads
// them: {"quantd_ranges": 1, "tensors": {NAME: {"spec": ..., "dtype": ..., "shape": [...],
// "tensor": [min, max], "groups": [[min, max], ...]}}}, by name, with what they are for.
using NamedRanges = std::map<std::string, CalibratedRanges>;

Json RangesToJson(const NamedRanges& tensors);

// Reads such a file of up to 4 GiB, or 256 MiB from a pipe. Errors name the file and the place in
// it.
absl::StatusOr<NamedRanges> ReadRangesFile(const std::string& path);

// Writes a small text file, whole or not at all.
absl::Status WriteTextFile(const std::string& path, const std::string& text,
                           Interrupts& interrupts);

}  // namespace quantd::cli

#endif  // QUANTD_CLIENT_CLI_RANGES_FILE_H_
