// The table of containers, and which of them a file is: the one that is named; else, if the
// extension says nothing, raw where a shape is given; else by extension; else by its first bytes. A
// directory is npy. What is known to be something else is refused before, with what to do.
//
// Entry: TensorFile::Open. Tested by tests/core/io/container_test.cc.
#include "core/io/container.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/status_macros.h"
#include "core/io/foreign_format.h"
#include "core/io/npy_dir.h"
#include "core/io/quote.h"

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

// Returns the container of the file at `path`, which begins with `head`.
absl::StatusOr<const Container*> ChooseContainer(const std::string& path,
                                                 std::span<const std::byte> head,
                                                 const OpenOptions& options) {
  if (!options.container.empty()) return FindContainer(options.container);
  const bool is_raw = options.shape.has_value() && options.dtype.has_value();
  const Container* const by_name = FindByExtension(path);
  if (!is_raw || by_name != nullptr) {
    const std::string foreign = DescribeForeignFormat(path, head, by_name != nullptr || is_raw);
    if (!foreign.empty() && !(is_raw && by_name->matches == nullptr)) {
      return absl::UnimplementedError(absl::StrCat(path, ": is ", foreign));
    }
  }
  if (options.shape.has_value() && by_name == nullptr) return FindContainer("raw");
  return DetectContainer(path, head.first(std::min<size_t>(head.size(), 16)));
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
  TensorFile result;
  if (stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) {
    QUANTD_ASSIGN_OR_RETURN(result.container_, FindContainer("npy"));
    QUANTD_ASSIGN_OR_RETURN(NpyDir dir, OpenNpyDir(path, options));
    result.index_ = std::move(dir.index);
    result.files_ = std::move(dir.files);
    return result;
  }
  QUANTD_ASSIGN_OR_RETURN(std::shared_ptr<const InputFile> file, InputFile::Open(path));
  std::array<std::byte, kForeignHeadBytes> buffer;
  const std::span<std::byte> head(buffer.data(),
                                  std::min(buffer.size(), static_cast<size_t>(file->size_bytes())));
  QUANTD_RETURN_IF_ERROR(file->ReadAt(0, head));
  QUANTD_ASSIGN_OR_RETURN(result.container_, ChooseContainer(path, head, options));
  absl::StatusOr<ContainerIndex> index = result.container_->read_index(*file, Stem(path), options);
  if (!index.ok()) return InFile(path, index.status());
  result.index_ = *std::move(index);
  result.files_.push_back(std::move(file));
  return result;
}

TensorReader TensorFile::MakeReader(size_t tensor) const {
  return TensorReader(files_.size() == 1 ? files_[0] : files_[tensor], index_.tensors[tensor]);
}

bool TensorFile::Reads(const FileId& file) const {
  return std::any_of(files_.begin(), files_.end(),
                     [&file](const auto& own) { return own->id() == file; });
}

absl::Status TensorFile::CheckUnchanged() const {
  for (const auto& file : files_) QUANTD_RETURN_IF_ERROR(file->CheckUnchanged());
  return absl::OkStatus();
}

absl::StatusOr<int64_t> SizeBytes(const StoredTensor& tensor) {
  return tensor.is_foreign() ? tensor.foreign_bytes : SizeBytes(tensor.desc);
}

std::string TypeName(const StoredTensor& tensor) {
  return tensor.is_foreign() ? tensor.foreign_type : std::string(NameOf(tensor.desc.dtype));
}

}  // namespace quantd
