#ifndef QUANTD_CORE_IO_CONTAINER_INDEX_H_
#define QUANTD_CORE_IO_CONTAINER_INDEX_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"

namespace quantd {

// Free text beside the tensors. Ordered, so that equal metadata gives equal files.
using Metadata = std::map<std::string, std::string>;

// A tensor and where its values lie in a file: little-endian, C order, at any alignment.
struct TensorEntry {
  TensorDesc desc;
  int64_t offset_bytes = 0;
  int64_t size_bytes = 0;  // SizeBytes(desc)
};

// What a file holds. Entries lie within the file and do not overlap, names differ; in the order of
// the file.
struct ContainerIndex {
  std::vector<TensorEntry> tensors;
  Metadata metadata;
};

// What the caller knows about a file.
struct OpenOptions {
  std::string container;       // a name of containers.def; empty: found out from the file
  std::optional<DType> dtype;  // raw: needed; npy: names a type that npy cannot (bf16, fp8)
  std::optional<Shape> shape;  // raw: needed
};

}  // namespace quantd

#endif  // QUANTD_CORE_IO_CONTAINER_INDEX_H_
