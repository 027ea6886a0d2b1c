#ifndef QUANTD_CORE_IO_SAFETENSORS_HEADER_H_
#define QUANTD_CORE_IO_SAFETENSORS_HEADER_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/io/container_index.h"

namespace quantd {

// The header of a safetensors file (huggingface/safetensors, safetensors/src/tensor.rs):
// {"__metadata__":{KEY:TEXT},NAME:{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}
// Offsets count from the end of the header. As there, the metadata may be null, and a tensor may
// have more keys, which are kept as StoredTensor::extra.
inline constexpr int64_t kMaxSafetensorsHeaderBytes = 100'000'000;  // MAX_HEADER_SIZE there

// Returns the place of the tensor's type in the format's list of types, 0 for one that is not in
// it. Files hold tensors from the highest to the lowest, so that each is aligned.
int SafetensorsRank(const StoredTensor& tensor);

// Returns what `json` says, each entry checked by itself (its shape, its size, no name twice), but
// not against the others or the file. A type that is none of ours is taken as it is, if its name is
// of A-Z, 0-9 and _; where the format's list has it, its size is checked. Needs memory in
// proportion to `json`, whatever its depth. kInvalidArgument for anything that is not as above,
// naming the tensor or the byte.
absl::StatusOr<ContainerIndex> ParseSafetensorsHeader(absl::string_view json);

// Returns the header's JSON, in the order of `index`. kInvalidArgument if a text is not UTF-8, a
// tensor is called "__metadata__", or it is longer than `max_bytes`.
absl::StatusOr<std::string> FormatSafetensorsHeader(const ContainerIndex& index,
                                                    int64_t max_bytes = kMaxSafetensorsHeaderBytes);

}  // namespace quantd

#endif  // QUANTD_CORE_IO_SAFETENSORS_HEADER_H_
