#include "client/cli/metadata.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/base/digest.h"
#include "core/base/status_macros.h"

namespace quantd::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kPrefix[] = "quantd.";
constexpr char kVersion[] = "1";

absl::Status Damaged(absl::string_view key, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("metadata ", key, ": ", what));
}

// Takes over the names of planes that have another one than PlaneTensorName.
absl::Status ReadNames(const std::string& key, const Json& json, PackedEntry& entry) {
  if (!json.contains("tensors")) return absl::OkStatus();
  if (!json["tensors"].is_object()) return Damaged(key, "tensors is no object");
  for (const auto& [plane, name] : json["tensors"].items()) {
    const auto found = std::find(entry.planes.begin(), entry.planes.end(), plane);
    if (found == entry.planes.end() || !name.is_string()) {
      return Damaged(key, absl::StrCat("tensors has ", plane, ", which is no plane with a name"));
    }
    entry.names[static_cast<size_t>(found - entry.planes.begin())] = name.get<std::string>();
  }
  return absl::OkStatus();
}

absl::StatusOr<PackedEntry> ReadEntry(const std::string& key, const std::string& text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return Damaged(key, "no JSON object");
  for (const char* field : {"spec", "dtype", "shape", "digests"}) {
    if (!json.contains(field)) return Damaged(key, absl::StrCat("no ", field));
  }
  if (!json["spec"].is_string() || !json["dtype"].is_string() || !json["shape"].is_array() ||
      !json["digests"].is_object()) {
    return Damaged(key, "a field has the wrong type");
  }
  PackedEntry entry;
  entry.tensor.name = std::string(absl::StripPrefix(key, kPrefix));
  entry.spec = json["spec"].get<std::string>();
  QUANTD_ASSIGN_OR_RETURN(entry.tensor.dtype, ParseDType(json["dtype"].get<std::string>()));
  std::vector<int64_t> dims;
  for (const Json& dim : json["shape"]) {
    if (!dim.is_number_integer()) return Damaged(key, "shape is no list of integers");
    dims.push_back(dim.get<int64_t>());
  }
  QUANTD_ASSIGN_OR_RETURN(entry.tensor.shape, Shape::Make(std::move(dims)));
  for (const auto& [plane, digest] : json["digests"].items()) {
    if (!digest.is_string()) return Damaged(key, "a digest is no text");
    entry.planes.push_back(plane);
    entry.digests.push_back(digest.get<std::string>());
    entry.names.push_back(PlaneTensorName(entry.tensor.name, plane));
  }
  QUANTD_RETURN_IF_ERROR(ReadNames(key, json, entry));
  if (entry.planes.empty() || entry.planes[0] != "codes") {
    return Damaged(key, "the first digest is not that of codes");
  }
  return entry;
}

}  // namespace

std::string PlaneTensorName(const std::string& tensor, const std::string& plane) {
  return plane == "codes" ? tensor : absl::StrCat(tensor, ".", plane);
}

PackedEntry AnnouncedEntry(const TensorDesc& tensor, const TensorPlan& plan,
                           std::vector<std::string> names) {
  PackedEntry entry;
  entry.tensor = tensor;
  entry.names = std::move(names);
  entry.spec = plan.resolved_spec;
  for (const PlaneDesc& plane : plan.planes) {
    entry.planes.push_back(plane.name);
    entry.digests.push_back(DigestOf({}));
  }
  return entry;
}

void AddEntry(const PackedEntry& entry, Metadata& metadata) {
  Json digests = Json::object();
  for (size_t i = 0; i < entry.planes.size(); ++i) digests[entry.planes[i]] = entry.digests[i];
  Json json = {{"spec", entry.spec}, {"dtype", std::string(NameOf(entry.tensor.dtype))}};
  json["shape"] =
      std::vector<int64_t>(entry.tensor.shape.dims().begin(), entry.tensor.shape.dims().end());
  json["digests"] = std::move(digests);
  for (size_t i = 0; i < entry.planes.size(); ++i) {
    if (entry.names[i] == PlaneTensorName(entry.tensor.name, entry.planes[i])) continue;
    json["tensors"][entry.planes[i]] = entry.names[i];
  }
  metadata[kVersionKey] = kVersion;
  metadata[absl::StrCat(kPrefix, entry.tensor.name)] =
      json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

absl::StatusOr<std::map<std::string, PackedEntry>> ReadEntries(const Metadata& metadata) {
  std::map<std::string, PackedEntry> entries;
  const auto version = metadata.find(kVersionKey);
  if (version == metadata.end()) return entries;
  if (version->second != kVersion) {
    return Damaged(kVersionKey,
                   absl::StrCat(version->second, ", and this program reads ", kVersion));
  }
  for (const auto& [key, text] : metadata) {
    if (key == kVersionKey || !absl::StartsWith(key, kPrefix)) continue;
    QUANTD_ASSIGN_OR_RETURN(PackedEntry entry, ReadEntry(key, text));
    entries.emplace(entry.tensor.name, std::move(entry));
  }
  return entries;
}

absl::Status DigestDiffers(const PackedEntry& entry, size_t plane, const std::string& found) {
  const std::string& kept = entry.digests[plane];
  const std::string what = absl::StrCat(entry.tensor.name, ": plane ", entry.planes[plane]);
  if (absl::StartsWith(kept, PlaneDigest::kFormerForm)) {
    return absl::UnimplementedError(
        absl::StrCat(what, " has a digest in the former form ", kept,
                     ", over leaves of 1 MiB, which can no longer be checked; "
                     "quantize the original again"));
  }
  return absl::DataLossError(
      absl::StrCat(what, " has digest ", found, ", the file says ", kept));
}

}  // namespace quantd::cli
