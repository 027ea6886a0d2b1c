#ifndef QUANTD_CLIENT_MODEL_FILE_H_
#define QUANTD_CLIENT_MODEL_FILE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/byte_source.h"
#include "client/plane_sink.h"
#include "core/io/container_index.h"

// Files of tensors as `quantctl` reads and writes them, for programs that quantize whole models.
namespace quantd {

class TensorFile;
class TensorWriter;

// A file of tensors that is read: .safetensors, .npy (as numpy writes it, of either byte order and
// in C or Fortran order), a folder of .npy files, raw bytes. Files are read and not mapped: one that
// shrinks meanwhile, or a disk that fails, is an error. Thread-safe.
class ModelReader {
 public:
  // Opens the file or folder at `path`. Its format is that of its name, or else of its first bytes;
  // raw bytes need options.dtype and options.shape. Errors name the path. kNotFound,
  // kPermissionDenied: as the system says. kInvalidArgument: the file breaks its format, or is a
  // pipe. kDataLoss: it is cut short. kUnimplemented: a format, or what one allows, that is not
  // read (.gguf, .pt ...), with what to do.
  static absl::StatusOr<ModelReader> Open(const std::string& path, const OpenOptions& options = {});

  size_t size() const;
  // Returns the name, the type and the shape of tensor `i`, in the order of the file, the name of a
  // .npy's being the file's. Of types that are none of ours (is_foreign()) the values can only be
  // carried on.
  const StoredTensor& tensor(size_t i) const;
  int64_t size_bytes(size_t i) const;  // of its values
  const Metadata& metadata() const;    // text that safetensors has beside the tensors

  // Returns the values of tensor `i`, little-endian and in C order (the last dimension is the
  // innermost) however they lie in the file. Rewinds; may outlive this object. Its errors name the
  // path; kDataLoss: the file has become shorter.
  std::unique_ptr<ByteSource> MakeSource(size_t i) const;

  // kDataLoss, naming the path, if a file has changed since it was opened: what was read is then
  // partly the one and partly the other. To be asked when all has been read.
  absl::Status CheckUnchanged() const;

 private:
  explicit ModelReader(TensorFile file);
  std::shared_ptr<const TensorFile> file_;
};

// A file of tensors that is written, whose bytes may come in any order. It is under its name once
// Finish has succeeded, complete and on the disk, and not before; an unfinished one is removed.
// WriteAt and different sinks may be used by several threads at once; all else is not thread-safe.
class ModelWriter {
 public:
  // Starts the file at `path` with `tensors`, whose names differ. `container` is "safetensors" or
  // "npy", which is a folder of .npy files unless `path` ends in .npy; empty: by the extension of
  // `path`. `metadata` is what Finish will write, or takes at least as much room: the same keys,
  // with values of the final length. kInvalidArgument: no format that is written, a name twice, a
  // type that the format has not. kResourceExhausted: the disk has no room for all. Else as the
  // system says.
  static absl::StatusOr<ModelWriter> Create(const std::string& path,
                                            std::vector<StoredTensor> tensors,
                                            const Metadata& metadata = {},
                                            const std::string& container = "");
  ~ModelWriter();
  ModelWriter(ModelWriter&&) noexcept;
  ModelWriter& operator=(ModelWriter&&) noexcept;

  // Writes bytes of tensor `tensor`, its place in the list, from `offset_bytes` of its values on,
  // over what was there. kOutOfRange: past the tensor's end, or no such tensor. kResourceExhausted: the disk is full.
  absl::Status WriteAt(size_t tensor, int64_t offset_bytes, std::span<const std::byte> bytes);

  // Writes all that `source` gives. Errors are those of the source and of WriteAt.
  absl::Status Copy(ByteSource& source, size_t tensor);

  // Returns where the planes of a result go: tensors `first` and following, one each.
  // kInvalidArgument as a call's error: a plane has another size than its tensor. This object
  // outlives the sink.
  std::unique_ptr<PlaneSink> MakeSink(size_t first);

  // Writes `metadata` and brings the file under its name; the last call. kFailedPrecondition: a
  // tensor was given fewer bytes than it has, which is named. kInvalidArgument: `metadata` takes
  // more room than what was announced.
  absl::Status Finish(const Metadata& metadata = {});

 private:
  ModelWriter(std::vector<StoredTensor> tensors, std::unique_ptr<TensorWriter> writer);
  std::vector<StoredTensor> tensors_;
  std::unique_ptr<TensorWriter> writer_;
};

}  // namespace quantd

#endif  // QUANTD_CLIENT_MODEL_FILE_H_
