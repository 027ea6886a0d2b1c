// Entry: OpenNpyDir. Tested by tests/core/io/npy_dir_test.cc and container_test.cc.
#include "core/io/npy_dir.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/base/status_macros.h"
#include "core/io/container.h"
#include "core/io/foreign_format.h"
#include "core/io/npy.h"
#include "core/io/quote.h"
#include "core/io/safetensors_header.h"
#include "core/io/small_file.h"

namespace quantd {
namespace {

constexpr absl::string_view kExtension = ".npy";

// Returns the names of the files in the folder, sorted.
absl::StatusOr<std::vector<std::string>> FilesIn(const std::string& path) {
  std::vector<std::string> names;
  std::error_code error;
  for (auto entry = std::filesystem::directory_iterator(path, error);
       !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  if (error) return absl::ErrnoToStatus(error.value(), path);
  std::sort(names.begin(), names.end());
  return names;
}

// Adds the array in the file `name` to `dir`, under the name `tensor`.
absl::Status AddFile(const std::string& path, const std::string& name, absl::string_view tensor,
                     const OpenOptions& options, NpyDir& dir) {
  const std::string file_path = absl::StrCat(path, "/", name);
  QUANTD_ASSIGN_OR_RETURN(std::unique_ptr<InputFile> file, InputFile::Open(file_path));
  QUANTD_ASSIGN_OR_RETURN(const Container* const npy, FindContainer("npy"));
  absl::StatusOr<ContainerIndex> index = npy->read_index(*file, tensor, {});
  if (!index.ok() && options.dtype.has_value()) index = npy->read_index(*file, tensor, options);
  if (!index.ok()) return InFile(file_path, index.status());
  dir.index.tensors.push_back(std::move(index->tensors[0]));
  file->Release();
  dir.files.push_back(std::move(file));
  return absl::OkStatus();
}

// Reads a folder that somebody else wrote.
absl::StatusOr<NpyDir> OpenPlain(const std::string& path, const OpenOptions& options) {
  QUANTD_ASSIGN_OR_RETURN(const std::vector<std::string> names, FilesIn(path));
  NpyDir dir;
  for (const std::string& name : names) {
    if (!absl::EndsWith(name, kExtension)) continue;
    QUANTD_RETURN_IF_ERROR(AddFile(path, name, absl::StripSuffix(name, kExtension), options, dir));
  }
  if (!dir.files.empty()) return dir;
  const std::string foreign = DescribeForeignFolder(path, names);
  if (!foreign.empty()) return absl::UnimplementedError(absl::StrCat(path, ": is ", foreign));
  return absl::NotFoundError(absl::StrCat(path, ": is a folder without .npy files; nor is there a ",
                                          path, "/", kNpyIndexFile));
}

// Checks that the file of `listed` has what the list says, and takes over where its values lie.
absl::Status TakePlace(const std::string& path, TensorEntry&& found, TensorEntry& listed) {
  TensorDesc expected = listed.desc;
  if (listed.is_foreign()) {  // npy has its bytes (npy.cc)
    expected.dtype = DType::kUint8;
    QUANTD_ASSIGN_OR_RETURN(expected.shape, Shape::Make({listed.foreign_bytes}));
  }
  if (found.desc != expected) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": has shape ", found.desc.shape.Text(),
                                                   "; ", kNpyIndexFile, " says ",
                                                   listed.desc.shape.Text()));
  }
  listed.offset_bytes = found.offset_bytes;
  listed.size_bytes = found.size_bytes;
  listed.order = found.order;
  return absl::OkStatus();
}

// Reads a folder that the npy container wrote.
absl::StatusOr<NpyDir> OpenListed(const std::string& path, const std::string& index_path) {
  QUANTD_ASSIGN_OR_RETURN(const std::string json, ReadSmallFile(index_path, kMaxNpyIndexBytes));
  absl::StatusOr<ContainerIndex> index = ParseSafetensorsHeader(json);
  if (!index.ok()) return InFile(index_path, index.status());
  QUANTD_ASSIGN_OR_RETURN(const Container* const npy, FindContainer("npy"));
  NpyDir dir;
  dir.index = *std::move(index);
  for (TensorEntry& entry : dir.index.tensors) {
    const std::string file_path = absl::StrCat(path, "/", NpyFileName(entry.desc.name));
    QUANTD_ASSIGN_OR_RETURN(std::unique_ptr<InputFile> file, InputFile::Open(file_path));
    OpenOptions known;
    known.dtype = entry.is_foreign() ? DType::kUint8 : entry.desc.dtype;
    absl::StatusOr<ContainerIndex> one = npy->read_index(*file, entry.desc.name, known);
    if (!one.ok()) return InFile(file_path, one.status());
    QUANTD_RETURN_IF_ERROR(TakePlace(file_path, std::move(one->tensors[0]), entry));
    file->Release();
    dir.files.push_back(std::move(file));
  }
  return dir;
}

}  // namespace

absl::StatusOr<NpyDir> OpenNpyDir(const std::string& path, const OpenOptions& options) {
  if ((!options.container.empty() && options.container != "npy") || options.shape.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": is a directory, which is npy and says itself what it holds"));
  }
  const std::string index_path = absl::StrCat(path, "/", kNpyIndexFile);
  if (!FileIdOf(index_path).has_value()) return OpenPlain(path, options);
  if (options.dtype.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": is a directory whose ", kNpyIndexFile, " says which types it holds"));
  }
  return OpenListed(path, index_path);
}

}  // namespace quantd
