#include "client/model_file.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "client/file_source.h"
#include "core/base/status_macros.h"
#include "core/io/container.h"

namespace quantd {
namespace {

constexpr int64_t kCopyBytes = int64_t{1} << 20;

// Writes planes as tensors of a file.
class ModelSink final : public PlaneSink {
 public:
  ModelSink(std::span<const StoredTensor> tensors, TensorWriter& writer, size_t first)
      : tensors_(tensors), writer_(writer), first_(first) {}

  absl::Status Begin(std::span<const PlaneDesc> planes) override {
    if (first_ > tensors_.size() || planes.size() > tensors_.size() - first_) {
      return absl::InvalidArgumentError(absl::StrCat("the file has ", tensors_.size(),
                                                     " tensors, no place for ", planes.size(),
                                                     " planes from tensor ", first_, " on"));
    }
    for (size_t i = 0; i < planes.size(); ++i) {
      const StoredTensor& tensor = tensors_[first_ + i];
      QUANTD_ASSIGN_OR_RETURN(const int64_t size_bytes, SizeBytes(tensor));
      if (size_bytes == planes[i].size_bytes) continue;
      return absl::InvalidArgumentError(
          absl::StrCat(tensor.desc.name, ": the file has ", size_bytes, " bytes for it, but plane ",
                       planes[i].name, " has ", planes[i].size_bytes));
    }
    return absl::OkStatus();
  }
  absl::Status Write(int plane, int64_t offset_bytes, std::span<const std::byte> piece) override {
    return writer_.WriteAt(first_ + static_cast<size_t>(plane), offset_bytes, piece);
  }
  absl::Status Restart() override { return absl::OkStatus(); }  // bytes are written over

 private:
  const std::span<const StoredTensor> tensors_;
  TensorWriter& writer_;
  const size_t first_;
};

}  // namespace

ModelReader::ModelReader(TensorFile file)
    : file_(std::make_shared<const TensorFile>(std::move(file))) {}

absl::StatusOr<ModelReader> ModelReader::Open(const std::string& path,
                                              const OpenOptions& options) {
  QUANTD_ASSIGN_OR_RETURN(TensorFile file, TensorFile::Open(path, options));
  return ModelReader(std::move(file));
}

size_t ModelReader::size() const { return file_->tensors().size(); }
const StoredTensor& ModelReader::tensor(size_t i) const { return file_->tensors()[i]; }
int64_t ModelReader::size_bytes(size_t i) const { return file_->tensors()[i].size_bytes; }
const Metadata& ModelReader::metadata() const { return file_->metadata(); }

std::unique_ptr<ByteSource> ModelReader::MakeSource(size_t i) const {
  return std::make_unique<FileSource>(file_->MakeReader(i));
}

absl::Status ModelReader::CheckUnchanged() const { return file_->CheckUnchanged(); }

ModelWriter::ModelWriter(std::vector<StoredTensor> tensors, std::unique_ptr<TensorWriter> writer)
    : tensors_(std::move(tensors)), writer_(std::move(writer)) {}
ModelWriter::~ModelWriter() = default;
ModelWriter::ModelWriter(ModelWriter&&) noexcept = default;
ModelWriter& ModelWriter::operator=(ModelWriter&&) noexcept = default;

absl::StatusOr<ModelWriter> ModelWriter::Create(const std::string& path,
                                                std::vector<StoredTensor> tensors,
                                                const Metadata& metadata,
                                                const std::string& container) {
  QUANTD_ASSIGN_OR_RETURN(const Container* const row, container.empty()
                                                          ? DetectContainer(path, {})
                                                          : FindContainer(container));
  if (row->create == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": ", row->name, " is read only; use safetensors or npy"));
  }
  QUANTD_ASSIGN_OR_RETURN(std::unique_ptr<TensorWriter> writer,
                          row->create(path, tensors, metadata));
  return ModelWriter(std::move(tensors), std::move(writer));
}

absl::Status ModelWriter::WriteAt(size_t tensor, int64_t offset_bytes,
                                  std::span<const std::byte> bytes) {
  if (tensor >= tensors_.size()) {
    return absl::OutOfRangeError(
        absl::StrCat("tensor ", tensor, " of a file that has ", tensors_.size()));
  }
  return writer_->WriteAt(tensor, offset_bytes, bytes);
}

absl::Status ModelWriter::Copy(ByteSource& source, size_t tensor) {
  for (int64_t offset_bytes = 0;;) {
    QUANTD_ASSIGN_OR_RETURN(const SourcePiece piece, source.Next(kCopyBytes));
    if (piece.bytes.empty()) return absl::OkStatus();
    QUANTD_RETURN_IF_ERROR(WriteAt(tensor, offset_bytes, piece.bytes));
    offset_bytes += std::ssize(piece.bytes);
  }
}

std::unique_ptr<PlaneSink> ModelWriter::MakeSink(size_t first) {
  return std::make_unique<ModelSink>(tensors_, *writer_, first);
}

absl::Status ModelWriter::Finish(const Metadata& metadata) { return writer_->Finish(metadata); }

}  // namespace quantd
