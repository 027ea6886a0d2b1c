// The table of containers, and which of them a file is: the one that is named; else, if the
// extension says nothing, raw where a shape is given; else by extension; else by its first bytes. A
// directory is npy.
//
// Entry: TensorFile::Open. Tested by tests/core/io/container_test.cc.
#include "core/io/container.h"

#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/status_macros.h"
#include "core/io/npy.h"
#include "core/io/quote.h"
#include "core/io/safetensors_header.h"

namespace quantd {

#define QUANTD_CONTAINER(name) const Container& name##_container();
#include "core/io/containers.def"
#undef QUANTD_CONTAINER

namespace {

std::string KnownNames() {
  const auto append_name = [](std::string* out, const Container* row) {
    absl::StrAppend(out, row->name);
  };
  return absl::StrJoin(AllContainers(), ", ", append_name);
}

// Returns `status` with the path in front.
absl::Status InFile(const std::string& path, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

absl::string_view Stem(absl::string_view path) {
  path = path.substr(path.rfind('/') + 1);  // npos + 1 is 0
  const size_t dot = path.rfind('.');
  return dot == absl::string_view::npos || dot == 0 ? path : path.substr(0, dot);
}

// Returns the container whose extension `path` has, or null.
const Container* FindByExtension(absl::string_view path) {
  for (const Container* row : AllContainers()) {
    for (const absl::string_view extension : row->extensions) {
      if (absl::EndsWithIgnoreCase(path, extension)) return row;
    }
  }
  return nullptr;
}

absl::StatusOr<const Container*> ChooseContainer(const std::string& path,
                                                 std::span<const std::byte> file,
                                                 const OpenOptions& options) {
  if (!options.container.empty()) return FindContainer(options.container);
  if (options.shape.has_value() && FindByExtension(path) == nullptr) return FindContainer("raw");
  return DetectContainer(path, file.first(std::min<size_t>(file.size(), 16)));
}

}  // namespace

std::span<const Container* const> AllContainers() {
  static const Container* const kAll[] = {
#define QUANTD_CONTAINER(name) &name##_container(),
#include "core/io/containers.def"
#undef QUANTD_CONTAINER
  };
  return kAll;
}

absl::StatusOr<const Container*> FindContainer(absl::string_view name) {
  for (const Container* row : AllContainers()) {
    if (row->name == name) return row;
  }
  return absl::NotFoundError(
      absl::StrCat("unknown container ", Quote(name), "; known: ", KnownNames()));
}

absl::StatusOr<const Container*> DetectContainer(absl::string_view path,
                                                 std::span<const std::byte> head) {
  if (const Container* row = FindByExtension(path); row != nullptr) return row;
  for (const Container* row : AllContainers()) {
    if (row->matches != nullptr && row->matches(head)) return row;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      path, ": neither the name nor the content tells the format; known: ", KnownNames(),
      " (raw needs a dtype and a shape)"));
}

absl::StatusOr<TensorFile> TensorFile::Open(const std::string& path, const OpenOptions& options) {
  struct stat info;
  if (stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) return OpenDir(path, options);
  TensorFile result;
  QUANTD_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
  QUANTD_ASSIGN_OR_RETURN(result.container_, ChooseContainer(path, file.bytes(), options));
  absl::StatusOr<ContainerIndex> index =
      result.container_->read_index(file.bytes(), Stem(path), options);
  if (!index.ok()) return InFile(path, index.status());
  result.index_ = *std::move(index);
  result.files_.push_back(std::move(file));
  return result;
}

absl::StatusOr<TensorFile> TensorFile::OpenDir(const std::string& path,
                                               const OpenOptions& options) {
  QUANTD_ASSIGN_OR_RETURN(const Container* const npy, FindContainer("npy"));
  if ((!options.container.empty() && options.container != npy->name) || options.dtype.has_value() ||
      options.shape.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": is a directory, which is npy and says itself what it holds"));
  }
  const std::string index_path = absl::StrCat(path, "/", kNpyIndexFile);
  QUANTD_ASSIGN_OR_RETURN(const MappedFile index_file, MappedFile::Open(index_path));
  const std::span<const std::byte> json = index_file.bytes();
  if (json.size() > static_cast<size_t>(kMaxSafetensorsHeaderBytes)) {
    return absl::InvalidArgumentError(absl::StrCat(index_path, ": has ", json.size(),
                                                   " bytes; at most ", kMaxSafetensorsHeaderBytes,
                                                   " are allowed"));
  }
  absl::StatusOr<ContainerIndex> index =
      ParseSafetensorsHeader({reinterpret_cast<const char*>(json.data()), json.size()});
  if (!index.ok()) return InFile(index_path, index.status());
  TensorFile result;
  result.container_ = npy;
  result.index_ = *std::move(index);
  for (TensorEntry& entry : result.index_.tensors) {
    const std::string file_path = absl::StrCat(path, "/", NpyFileName(entry.desc.name));
    QUANTD_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(file_path));
    OpenOptions known;
    known.dtype = entry.desc.dtype;
    absl::StatusOr<ContainerIndex> one = npy->read_index(file.bytes(), entry.desc.name, known);
    if (!one.ok()) return InFile(file_path, one.status());
    if (one->tensors[0].desc != entry.desc) {
      return absl::InvalidArgumentError(
          absl::StrCat(file_path, ": has shape ", one->tensors[0].desc.shape.Text(), "; ",
                       kNpyIndexFile, " says ", entry.desc.shape.Text()));
    }
    entry = std::move(one->tensors[0]);
    result.files_.push_back(std::move(file));
  }
  return result;
}

std::span<const std::byte> TensorFile::Values(size_t tensor) const {
  const TensorEntry& entry = index_.tensors[tensor];
  const MappedFile& file = files_.size() == 1 ? files_[0] : files_[tensor];
  return file.bytes().subspan(static_cast<size_t>(entry.offset_bytes),
                              static_cast<size_t>(entry.size_bytes));
}

}  // namespace quantd
