#ifndef QUANTD_CLIENT_FILE_SOURCE_H_
#define QUANTD_CLIENT_FILE_SOURCE_H_

#include <cstdint>
#include <utility>

#include "client/byte_source.h"
#include "core/io/tensor_reader.h"

namespace quantd {

// The values of a tensor of a file (TensorFile::MakeReader). Not thread-safe.
class FileSource final : public ByteSource {
 public:
  explicit FileSource(TensorReader reader) : reader_(std::move(reader)) {}

  int64_t size_bytes() const override { return reader_.size_bytes(); }
  absl::StatusOr<SourcePiece> Next(int64_t max_bytes) override;
  absl::StatusOr<size_t> Read(std::span<std::byte> out) override { return reader_.Read(out); }
  bool can_rewind() const override { return true; }
  absl::Status Rewind() override;

 private:
  TensorReader reader_;
};

}  // namespace quantd

#endif  // QUANTD_CLIENT_FILE_SOURCE_H_
