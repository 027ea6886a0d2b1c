#ifndef QUANTD_CLIENT_CLI_METADATA_H_
#define QUANTD_CLIENT_CLI_METADATA_H_

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/types.h"
#include "core/io/container_index.h"
#include "core/tensor/shape.h"

namespace quantd::cli {

// What a file says of one packed tensor, under the key "quantd.NAME" as JSON:
//   {"spec": "int8:...", "dtype": "f32", "shape": [2, 3], "digests": {"codes": "xxh3_4k:..."}}
// Its planes are the tensors NAME (codes) and NAME.PLANE. Where a tensor of the file already has
// such a name, the plane has another, and "tensors": {"PLANE": NAME} says which. "quantd.version"
// is "1".
struct PackedEntry {
  TensorDesc tensor;                 // the original
  std::string spec;                  // resolved
  std::vector<std::string> planes;   // codes first
  std::vector<std::string> names;    // of the tensors that the planes are, likewise
  std::vector<std::string> digests;  // one a plane
};

inline constexpr char kVersionKey[] = "quantd.version";

// Returns the name that plane `plane` of tensor `tensor` has in a file unless it is taken.
std::string PlaneTensorName(const std::string& tensor, const std::string& plane);

// Returns the entry of a planned tensor, with digests of the right length and no meaning.
// `names` are those of its planes.
PackedEntry AnnouncedEntry(const TensorDesc& tensor, const TensorPlan& plan,
                           std::vector<std::string> names);

// Adds the entry, and the version, to `metadata`.
void AddEntry(const PackedEntry& entry, Metadata& metadata);

// Returns the entries of a file by the original's name, none if it is not one of ours.
// kInvalidArgument: an entry that is damaged.
absl::StatusOr<std::map<std::string, PackedEntry>> ReadEntries(const Metadata& metadata);

// Returns what is to be said of plane `plane` of `entry`, whose digest is not that of the file:
// kDataLoss; kUnimplemented where the file has the form of digests that version 0.1 began with.
absl::Status DigestDiffers(const PackedEntry& entry, size_t plane, const std::string& found);

}  // namespace quantd::cli

#endif  // QUANTD_CLIENT_CLI_METADATA_H_
