#include "tests/support/golden_file.h"

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/base/status_macros.h"

namespace quantd {
namespace {

using Json = nlohmann::json;

// The file as it lies on the disk: a safetensors file.
struct RawFile {
  Json header;
  std::string data;
};

absl::StatusOr<RawFile> ReadRaw(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(stream), {}};
  uint64_t header_bytes = 0;
  if (bytes.size() < sizeof(header_bytes)) {
    return absl::NotFoundError(absl::StrCat(path, " is absent or too short"));
  }
  std::memcpy(&header_bytes, bytes.data(), sizeof(header_bytes));
  if (header_bytes > bytes.size() - sizeof(header_bytes)) {
    return absl::DataLossError(absl::StrCat(path, " ends within its header"));
  }
  RawFile raw;
  raw.header = Json::parse(bytes.substr(sizeof(header_bytes), header_bytes), nullptr, false);
  raw.data = bytes.substr(sizeof(header_bytes) + header_bytes);
  if (raw.header.is_discarded() || !raw.header.contains("__metadata__")) {
    return absl::DataLossError(absl::StrCat(path, " has no header of JSON with __metadata__"));
  }
  return raw;
}

std::vector<std::byte> TensorBytes(const RawFile& raw, const std::string& key) {
  const Json& offsets = raw.header[key]["data_offsets"];
  const size_t begin = offsets[0], end = offsets[1];
  std::vector<std::byte> bytes(end - begin);
  if (!bytes.empty()) std::memcpy(bytes.data(), raw.data.data() + begin, bytes.size());
  return bytes;
}

absl::StatusOr<DType> ReadDType(const std::string& name) {
  static constexpr std::pair<const char*, DType> kNames[] = {{"F64", DType::kF64},
                                                             {"F32", DType::kF32},
                                                             {"F16", DType::kF16},
                                                             {"BF16", DType::kBf16}};
  for (const auto& [known, dtype] : kNames) {
    if (name == known) return dtype;
  }
  return absl::InvalidArgumentError(absl::StrCat("an input of ", name));
}

absl::StatusOr<GoldenCase> ReadCase(const RawFile& raw, absl::string_view name, const Json& info) {
  GoldenCase result;
  result.name = std::string(name);
  result.spec = info["spec"];
  result.tensor.name = result.name;
  QUANTD_ASSIGN_OR_RETURN(result.tensor.shape,
                          Shape::Make(info["shape"].get<std::vector<int64_t>>()));
  result.values_sha256 = info.value("values_sha256", "");
  if (info.contains("input")) {
    const std::string key = info["input"];
    result.input = TensorBytes(raw, key);
    QUANTD_ASSIGN_OR_RETURN(result.tensor.dtype, ReadDType(raw.header[key]["dtype"]));
  }
  const std::string prefix = absl::StrCat(name, "/");
  for (const auto& [key, unused] : raw.header.items()) {
    if (!absl::StartsWith(key, prefix)) continue;
    const std::string part(absl::StripPrefix(key, prefix));
    if (part == "input") continue;
    std::vector<std::byte> bytes = TensorBytes(raw, key);
    if (part == "values") {
      result.values = std::move(bytes);
    } else if (part == "importance") {
      result.importance.resize(bytes.size() / sizeof(float));
      std::memcpy(result.importance.data(), bytes.data(), bytes.size());
    } else {
      result.planes[part] = std::move(bytes);
    }
  }
  return result;
}

}  // namespace

absl::StatusOr<GoldenFile> ReadGoldenFile(const std::string& path) {
  QUANTD_ASSIGN_OR_RETURN(const RawFile raw, ReadRaw(path));
  GoldenFile file;
  for (const auto& [key, text] : raw.header["__metadata__"].items()) {
    if (key == "command") file.command = text;
    if (key == "source") file.source = text;
    if (!absl::StartsWith(key, "case:")) continue;
    const Json info = Json::parse(text.get<std::string>());
    QUANTD_ASSIGN_OR_RETURN(GoldenCase golden,
                            ReadCase(raw, absl::StripPrefix(key, "case:"), info));
    file.cases.push_back(std::move(golden));
  }
  return file;
}

}  // namespace quantd
