#ifndef QUANTD_CORE_IO_NPY_DIR_H_
#define QUANTD_CORE_IO_NPY_DIR_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/io/container_index.h"
#include "core/io/input_file.h"

namespace quantd {

// What a folder of .npy files holds: a tensor a file.
struct NpyDir {
  ContainerIndex index;
  std::vector<std::shared_ptr<const InputFile>> files;  // of each tensor; none is kept open
};

// The longest kNpyIndexFile that is read and written. It has the header of a safetensors file, but
// not its limit: here any number of tensors has room.
inline constexpr int64_t kMaxNpyIndexBytes = int64_t{2} << 30;

// Opens the folder at `path`: as the npy container wrote it, if it has kNpyIndexFile; else of all
// .npy files in it, named after them, in the order of their names. `options.dtype` is the type of
// arrays that npy has no name for. Errors name the file. kNotFound: a file that is listed, or any
// .npy file, is missing; kInvalidArgument: a file contradicts the list, or `options` has a shape;
// kUnimplemented: a folder of something else (DescribeForeignFolder); else as InputFile::Open and
// the npy container.
absl::StatusOr<NpyDir> OpenNpyDir(const std::string& path, const OpenOptions& options);

}  // namespace quantd

#endif  // QUANTD_CORE_IO_NPY_DIR_H_
