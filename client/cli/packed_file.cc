#include "client/cli/packed_file.h"

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cli/exit_code.h"
#include "core/base/status_macros.h"

namespace quantd::cli {
namespace {

absl::StatusOr<PackedFile> Sort(std::unique_ptr<Input> input) {
  QUANTD_ASSIGN_OR_RETURN(auto entries, ReadEntries(input->metadata()));
  if (entries.empty()) {
    return absl::InvalidArgumentError("no tensor in it was quantized by quantctl");
  }
  std::map<std::string, size_t> places;
  for (size_t i = 0; i < input->size(); ++i) places[input->tensor(i).name] = i;
  std::map<size_t, PackedTensor> by_codes;
  std::vector<bool> is_plane(input->size(), false);
  for (auto& [name, entry] : entries) {
    PackedTensor tensor;
    for (size_t k = 0; k < entry.planes.size(); ++k) {
      const auto found = places.find(entry.names[k]);
      if (found == places.end()) {
        return absl::InvalidArgumentError(absl::StrCat(
            name, ": tensor ", entry.names[k], " (its plane ", entry.planes[k], ") is missing"));
      }
      if (input->stored(found->second).is_foreign()) {
        return absl::InvalidArgumentError(absl::StrCat(name, ": its plane ", entry.planes[k],
                                                       " has the type ",
                                                       TypeName(input->stored(found->second))));
      }
      if (is_plane[found->second]) {
        return absl::InvalidArgumentError(
            absl::StrCat(name, ": tensor ", found->first, " is a plane of two tensors"));
      }
      is_plane[found->second] = true;
      tensor.planes.push_back(found->second);
    }
    tensor.entry = std::move(entry);
    by_codes.emplace(tensor.planes[0], std::move(tensor));
  }
  PackedFile file;
  for (auto& [place, tensor] : by_codes) file.packed.push_back(std::move(tensor));
  for (size_t i = 0; i < input->size(); ++i) {
    if (!is_plane[i]) file.kept.push_back(i);
  }
  file.input = std::move(input);
  return file;
}

}  // namespace

absl::StatusOr<PackedFile> OpenPacked(const std::string& path) {
  InputOptions options;
  options.path = path;
  if (path == "-") {
    return absl::InvalidArgumentError("a packed file cannot come from standard input");
  }
  QUANTD_ASSIGN_OR_RETURN(Input input, Input::Open(options));
  absl::StatusOr<PackedFile> file = Sort(std::make_unique<Input>(std::move(input)));
  if (!file.ok()) return Named(path, file.status());
  return file;
}

}  // namespace quantd::cli
