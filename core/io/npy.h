#ifndef QUANTD_CORE_IO_NPY_H_
#define QUANTD_CORE_IO_NPY_H_

#include <string>

#include "absl/strings/string_view.h"

namespace quantd {

// A directory of npy files has one file a tensor and this one: the header that a safetensors file
// of the same tensors would have. It holds the metadata, the names, and the types that npy cannot
// name.
inline constexpr char kNpyIndexFile[] = "index.json";

// Returns the file of the tensor called `name`: NAME.npy, with what a file name cannot have (or
// should not: '/', '%', control characters, a leading dot) as %XX. Names that differ, differ after.
std::string NpyFileName(absl::string_view name);

}  // namespace quantd

#endif  // QUANTD_CORE_IO_NPY_H_
