#ifndef QUANTD_CORE_IO_CONTAINER_INDEX_H_
#define QUANTD_CORE_IO_CONTAINER_INDEX_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"

namespace quantd {

// Free text beside the tensors. Ordered, so that equal metadata gives equal files.
using Metadata = std::map<std::string, std::string>;

// A tensor as files have it: of one of our types, or of one that is only carried on.
struct StoredTensor {
  StoredTensor() = default;
  StoredTensor(TensorDesc of_our_types) : desc(std::move(of_our_types)) {}  // NOLINT: converts

  TensorDesc desc;
  // The format's name of a type that is none of ours, such as "C64", and how many bytes the values
  // take; desc.dtype is then kBool, as nothing computes with that. Empty: desc.dtype is the type.
  std::string foreign_type;
  int64_t foreign_bytes = 0;
  // What else the file's header says of it, as members of a JSON object: "\"a\":1,\"b\":[]".
  std::string extra;

  bool operator==(const StoredTensor&) const = default;

  bool is_foreign() const { return !foreign_type.empty(); }
};

// Returns the size of the tensor's values, or kInvalidArgument where it leaves int64.
absl::StatusOr<int64_t> SizeBytes(const StoredTensor& tensor);

// Returns the name of the tensor's type: "f32", or the format's own, "C64".
std::string TypeName(const StoredTensor& tensor);

// How values lie where it is not little-endian and in C order.
struct ValueOrder {
  bool fortran = false;     // the first dimension is the innermost
  bool big_endian = false;  // of elements wider than a byte
  bool operator==(const ValueOrder&) const = default;
};

// A tensor and where its values lie in a file, at any alignment.
struct TensorEntry : StoredTensor {
  TensorEntry() = default;
  TensorEntry(StoredTensor tensor, int64_t offset, int64_t size)
      : StoredTensor(std::move(tensor)), offset_bytes(offset), size_bytes(size) {}

  int64_t offset_bytes = 0;
  int64_t size_bytes = 0;  // SizeBytes of it
  ValueOrder order;
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
