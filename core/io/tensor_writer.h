#ifndef QUANTD_CORE_IO_TENSOR_WRITER_H_
#define QUANTD_CORE_IO_TENSOR_WRITER_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "core/io/container_index.h"

namespace quantd {

// Writes tensors whose descriptors are known and whose bytes arrive in any order. Nothing is under
// the final name before Finish; destroying an unfinished writer removes what it wrote.
//
// WriteAt may be called from several threads at once; everything else is not thread-safe.
class TensorWriter {
 public:
  virtual ~TensorWriter() = default;

  // Writes bytes of tensor `tensor` (its place in the list given at creation) from `offset_bytes`
  // of its values on. Writing a byte again replaces it, so that a tensor can be sent again.
  // kOutOfRange past the tensor's end, kResourceExhausted if the disk is full.
  virtual absl::Status WriteAt(size_t tensor, int64_t offset_bytes,
                               std::span<const std::byte> bytes) = 0;

  // Writes `metadata` and brings the result under its name. To be called once, as the last call.
  // kInvalidArgument if `metadata` takes more room than what was announced at creation,
  // kFailedPrecondition naming a tensor that was given fewer bytes than it has.
  virtual absl::Status Finish(const Metadata& metadata) = 0;
};

}  // namespace quantd

#endif  // QUANTD_CORE_IO_TENSOR_WRITER_H_
