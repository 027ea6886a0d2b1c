#ifndef QUANTD_CORE_IO_CONTAINER_H_
#define QUANTD_CORE_IO_CONTAINER_H_

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/io/container_index.h"
#include "core/io/input_file.h"
#include "core/io/tensor_reader.h"
#include "core/io/tensor_writer.h"

namespace quantd {

// One row of containers.def: a file format that holds tensors. Every function is thread-safe.
struct Container {
  absl::string_view name;                         // [a-z0-9_]+, as --format takes it
  absl::string_view summary;                      // one line
  std::span<const absl::string_view> extensions;  // with the dot

  // True if a file that begins with `head` (16 bytes, or the whole file if it is shorter) looks
  // like this format. Null where the content does not tell.
  bool (*matches)(std::span<const std::byte> head);

  // Returns what the file holds; checks everything but the values. `stem` is the file's name
  // without folder and extension: it names the tensor where the format does not. kInvalidArgument
  // for a file that breaks the format, kDataLoss for one that is cut short, kUnimplemented for what
  // the format allows and this reader does not.
  absl::StatusOr<ContainerIndex> (*read_index)(const FileBytes& file, absl::string_view stem,
                                               const OpenOptions& options);

  // Starts a file (npy: a directory, unless `path` ends in .npy) for `tensors`, whose names must
  // differ. `announced` is metadata that takes at least as much room as what Finish will get: the
  // same keys, with values of the final length. Null where the format is read only.
  absl::StatusOr<std::unique_ptr<TensorWriter>> (*create)(const std::string& path,
                                                          std::vector<StoredTensor> tensors,
                                                          const Metadata& announced);
};

// Returns the rows of containers.def, in its order. Thread-safe.
std::span<const Container* const> AllContainers();

// Returns the container called `name`, or kNotFound that lists the known names. Thread-safe.
absl::StatusOr<const Container*> FindContainer(absl::string_view name);

// Returns the container of the file: the one that has `path`'s extension, else the one whose
// `matches` takes `head`, else kInvalidArgument that lists what is known. Thread-safe.
absl::StatusOr<const Container*> DetectContainer(absl::string_view path,
                                                 std::span<const std::byte> head);

// A file of tensors, or a folder of .npy files. Thread-safe.
class TensorFile {
 public:
  // Opens a file, or a folder of .npy files. Without `options.container`, a file whose extension
  // says nothing is raw if `options.shape` is given, and otherwise detected. Errors name the path;
  // codes are those of InputFile::Open, OpenNpyDir and Container::read_index, and kUnimplemented
  // with what to do for formats that are known but not read (DescribeForeignFormat).
  static absl::StatusOr<TensorFile> Open(const std::string& path, const OpenOptions& options);

  const std::vector<TensorEntry>& tensors() const { return index_.tensors; }
  const Metadata& metadata() const { return index_.metadata; }
  const Container& container() const { return *container_; }

  // Returns a reader of the values of tensor `tensor`, which may outlive this object.
  TensorReader MakeReader(size_t tensor) const;

  // True if `file` is one of those that are read.
  bool Reads(const FileId& file) const;

  // kDataLoss, naming the path, if a file has changed since it was opened.
  absl::Status CheckUnchanged() const;

 private:
  TensorFile() = default;

  const Container* container_ = nullptr;
  std::vector<std::shared_ptr<const InputFile>> files_;  // one, or as many as tensors
  ContainerIndex index_;
};

}  // namespace quantd

#endif  // QUANTD_CORE_IO_CONTAINER_H_
