// raw: the values of one tensor and nothing else, so that dtype and shape come from the caller, and
// a file of any other size is refused. Read only.
//
// Entry: raw_container. Tested by tests/core/io/container_test.cc.
#include <string>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/io/container.h"

namespace quantd {
namespace {

absl::StatusOr<ContainerIndex> ReadIndex(const FileBytes& file, absl::string_view stem,
                                         const OpenOptions& options) {
  if (!options.dtype.has_value() || !options.shape.has_value()) {
    return absl::InvalidArgumentError("raw values need a dtype and a shape");
  }
  TensorEntry entry(TensorDesc{std::string(stem), *options.dtype, *options.shape}, 0, 0);
  QUANTD_ASSIGN_OR_RETURN(entry.size_bytes, SizeBytes(entry));
  const int64_t file_bytes = file.size_bytes();
  if (file_bytes != entry.size_bytes) {
    const std::string message =
        absl::StrCat("file has ", file_bytes, " bytes; shape ", entry.desc.shape.Text(), " of ",
                     NameOf(entry.desc.dtype), " needs ", entry.size_bytes);
    return file_bytes < entry.size_bytes ? absl::DataLossError(message)
                                         : absl::InvalidArgumentError(message);
  }
  return ContainerIndex{{std::move(entry)}, {}};
}

constexpr absl::string_view kExtensions[] = {".raw", ".bin"};

}  // namespace

const Container& raw_container() {
  static constexpr Container kContainer = {
      .name = "raw",
      .summary = "the values of one tensor, little-endian and in C order, and nothing else",
      .extensions = kExtensions,
      .matches = nullptr,
      .read_index = &ReadIndex,
      .create = nullptr,
  };
  return kContainer;
}

}  // namespace quantd
