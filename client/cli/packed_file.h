#ifndef QUANTD_CLIENT_CLI_PACKED_FILE_H_
#define QUANTD_CLIENT_CLI_PACKED_FILE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/input.h"
#include "client/cli/metadata.h"

namespace quantd::cli {

// One packed tensor of a file that `quantctl quantize` wrote.
struct PackedTensor {
  PackedEntry entry;
  std::vector<size_t> planes;  // places of its planes in the input, codes first
};

// A file that `quantctl quantize` wrote. Thread-compatible.
struct PackedFile {
  std::unique_ptr<Input> input;
  std::vector<PackedTensor> packed;  // in the order of their codes
  std::vector<size_t> kept;          // places of the other tensors in the input
};

// Opens such a file; errors name it. kInvalidArgument: it is none, or planes are missing.
absl::StatusOr<PackedFile> OpenPacked(const std::string& path);

}  // namespace quantd::cli

#endif  // QUANTD_CLIENT_CLI_PACKED_FILE_H_
