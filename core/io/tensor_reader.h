#ifndef QUANTD_CORE_IO_TENSOR_READER_H_
#define QUANTD_CORE_IO_TENSOR_READER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/io/container_index.h"
#include "core/io/input_file.h"

namespace quantd {

// Returns what readers may hold of a tensor whose values lie in Fortran order: a sixteenth of the
// memory that this process may use, 4 MiB to 512 MiB.
int64_t DefaultBlockBytes();

// Reads the values of one tensor from front to back, as they are meant: little-endian, in C order,
// however they lie in the file. Holds at most `max_block_bytes` and 1 MiB, and nothing where they
// lie so. Not thread-safe.
class TensorReader {
 public:
  // `entry` lies within the file. `max_block_bytes` 0: DefaultBlockBytes().
  TensorReader(std::shared_ptr<const FileBytes> file, TensorEntry entry,
               int64_t max_block_bytes = 0);

  int64_t size_bytes() const { return entry_.size_bytes; }
  int64_t left_bytes() const { return entry_.size_bytes - position_bytes_; }

  // Fills `out` with the next bytes, and returns how many: fewer only at the end, where it is 0.
  // Errors are those of FileBytes::ReadAt.
  absl::StatusOr<size_t> Read(std::span<std::byte> out);

  // Goes back to the first byte.
  void Rewind();

 private:
  absl::Status FillBlock();
  absl::Status Transpose(int64_t begin_elem, int64_t max_elems);

  const std::shared_ptr<const FileBytes> file_;
  const TensorEntry entry_;
  const int64_t elem_bytes_;
  const int64_t max_block_bytes_;
  int64_t position_bytes_ = 0;
  std::vector<std::byte> block_;  // bytes as they are meant, the next ones at block_begin_bytes_
  int64_t block_begin_bytes_ = 0;
};

}  // namespace quantd

#endif  // QUANTD_CORE_IO_TENSOR_READER_H_
