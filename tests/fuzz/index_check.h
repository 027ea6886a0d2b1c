#ifndef QUANTD_TESTS_FUZZ_INDEX_CHECK_H_
#define QUANTD_TESTS_FUZZ_INDEX_CHECK_H_

#include <cstdint>
#include <span>

#include "core/io/container_index.h"
#include "tests/fuzz/fuzz_input.h"

namespace quantd::fuzz {

// Requires what ContainerIndex promises of the entries' places.
inline void RequireWithin(const ContainerIndex& index, std::span<const std::byte> file) {
  const int64_t file_bytes = static_cast<int64_t>(file.size());
  int64_t end = 0;
  for (const TensorEntry& entry : index.tensors) {
    Require(entry.offset_bytes >= end && entry.size_bytes >= 0 &&
                entry.size_bytes <= file_bytes - entry.offset_bytes,
            "an entry overlaps another one or leaves the file");
    const absl::StatusOr<int64_t> size_bytes = SizeBytes(entry);
    Require(size_bytes.ok() && *size_bytes == entry.size_bytes, "an entry has another size");
    end = entry.offset_bytes + entry.size_bytes;
  }
}

inline void RequireEqual(const ContainerIndex& a, const ContainerIndex& b) {
  Require(a.metadata == b.metadata && a.tensors.size() == b.tensors.size(), "another index");
  for (size_t i = 0; i < a.tensors.size(); ++i) {
    const StoredTensor &tensor_a = a.tensors[i], &tensor_b = b.tensors[i];
    Require(tensor_a == tensor_b && a.tensors[i].size_bytes == b.tensors[i].size_bytes,
            "another tensor");
  }
}

}  // namespace quantd::fuzz

#endif  // QUANTD_TESTS_FUZZ_INDEX_CHECK_H_
