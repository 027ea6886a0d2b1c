#include "client/cli/ranges_file.h"

#include <stdio.h>

#include <cmath>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/exit_code.h"
#include "core/base/status_macros.h"
#include "core/io/output_file.h"
#include "core/io/small_file.h"

namespace quantd::cli {
namespace {

constexpr char kFormatKey[] = "quantd_ranges";
constexpr size_t kMaxBytes = size_t{4} << 30;
constexpr size_t kMaxPipeBytes = size_t{256} << 20;  // which says nothing of its size

Json ToJson(const Range& range) { return Json::array({range.min, range.max}); }

absl::StatusOr<Range> ReadRange(const Json& json, absl::string_view where) {
  if (!json.is_array() || json.size() != 2 || !json[0].is_number() || !json[1].is_number()) {
    return absl::InvalidArgumentError(absl::StrCat(where, " is no [min, max]"));
  }
  const Range range{json[0].get<double>(), json[1].get<double>()};
  if (!std::isfinite(range.min) || !std::isfinite(range.max) || range.min > range.max) {
    return absl::InvalidArgumentError(absl::StrCat(where, "=", json.dump(), " is no range"));
  }
  return range;
}

// Pairs of the buckets that have values: their upper 16 bits, and how many.
Json ToJson(const Histogram& histogram) {
  Json pairs = Json::array();
  const std::span<const int64_t> counts = histogram.counts();
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] > 0) pairs.push_back(Json::array({i, counts[i]}));
  }
  return pairs;
}

absl::StatusOr<Histogram> ReadHistogram(const Json& json, const std::string& where) {
  std::vector<int64_t> counts(Histogram::kNumBuckets);
  if (!json.is_array()) return absl::InvalidArgumentError(absl::StrCat(where, " is no list"));
  for (const Json& pair : json) {
    if (!pair.is_array() || pair.size() != 2 || !pair[0].is_number_unsigned() ||
        !pair[1].is_number_unsigned() || pair[0].get<uint64_t>() >= counts.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, " has ", pair.dump(), ", which is no [bucket, count]"));
    }
    counts[pair[0].get<size_t>()] = pair[1].get<int64_t>();
  }
  absl::StatusOr<Histogram> histogram = Histogram::FromCounts(counts);
  if (histogram.ok()) return histogram;
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", histogram.status().message()));
}

// What the ranges are for.
absl::Status ReadSource(const std::string& name, const Json& json, CalibratedRanges& ranges) {
  if (!json.contains("dtype") || !json["dtype"].is_string() || !json.contains("shape") ||
      !json["shape"].is_array()) {
    return absl::InvalidArgumentError(absl::StrCat(
        name, " lacks dtype or shape, which say what its ranges are for; calibrate again"));
  }
  ranges.source.name = name;
  QUANTD_ASSIGN_OR_RETURN(ranges.source.dtype, ParseDType(json["dtype"].get<std::string>()));
  std::vector<int64_t> dims;
  for (const Json& dim : json["shape"]) {
    if (!dim.is_number_integer()) {
      return absl::InvalidArgumentError(absl::StrCat(name, ".shape is no list of whole numbers"));
    }
    dims.push_back(dim.get<int64_t>());
  }
  QUANTD_ASSIGN_OR_RETURN(ranges.source.shape, Shape::Make(std::move(dims)));
  return absl::OkStatus();
}

absl::StatusOr<CalibratedRanges> ReadTensor(const std::string& name, const Json& json) {
  if (!json.is_object() || !json.contains("spec") || !json["spec"].is_string() ||
      !json.contains("tensor") || !json.contains("groups") || !json["groups"].is_array()) {
    return absl::InvalidArgumentError(absl::StrCat(name, " lacks spec, tensor or groups"));
  }
  CalibratedRanges ranges;
  ranges.spec = json["spec"].get<std::string>();
  QUANTD_RETURN_IF_ERROR(ReadSource(name, json, ranges));
  QUANTD_ASSIGN_OR_RETURN(ranges.tensor, ReadRange(json["tensor"], absl::StrCat(name, ".tensor")));
  for (const Json& group : json["groups"]) {
    QUANTD_ASSIGN_OR_RETURN(
        const Range range,
        ReadRange(group, absl::StrCat(name, ".groups[", ranges.groups.size(), "]")));
    ranges.groups.push_back(range);
  }
  if (json.contains("histogram")) {
    QUANTD_ASSIGN_OR_RETURN(ranges.histogram,
                            ReadHistogram(json["histogram"], absl::StrCat(name, ".histogram")));
  }
  return ranges;
}

absl::StatusOr<NamedRanges> ReadRanges(const Json& json) {
  if (!json.is_object() || json.value(kFormatKey, Json()) != 1 || !json.contains("tensors") ||
      !json["tensors"].is_object()) {
    return absl::InvalidArgumentError("not a file of ranges, as quantctl calibrate -o writes it");
  }
  NamedRanges tensors;
  for (const auto& [name, ranges] : json["tensors"].items()) {
    QUANTD_ASSIGN_OR_RETURN(tensors[name], ReadTensor(name, ranges));
  }
  return tensors;
}

}  // namespace

Json RangesToJson(const NamedRanges& tensors) {
  Json list = Json::object();
  for (const auto& [name, ranges] : tensors) {
    Json groups = Json::array();
    for (const Range& range : ranges.groups) groups.push_back(ToJson(range));
    list[name] = {{"spec", ranges.spec},
                  {"dtype", std::string(NameOf(ranges.source.dtype))},
                  {"shape", ToJson(ranges.source.shape)},
                  {"tensor", ToJson(ranges.tensor)},
                  {"groups", std::move(groups)}};
    if (ranges.histogram.has_value()) list[name]["histogram"] = ToJson(*ranges.histogram);
  }
  return {{kFormatKey, 1}, {"tensors", std::move(list)}};
}

absl::StatusOr<NamedRanges> ReadRangesFile(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadSmallFile(path, kMaxBytes, kMaxPipeBytes);
  if (!text.ok()) return Named(path, FileError(text.status()));
  // The parser recurses on nesting; ranges have five levels.
  constexpr int kMaxDepth = 8;
  const auto limit_depth = [](int depth, Json::parse_event_t, Json&) { return depth <= kMaxDepth; };
  const Json json = Json::parse(text->begin(), text->end(), limit_depth, false);
  auto ranges = ReadRanges(json);
  if (!ranges.ok()) return Named(path, ranges.status());
  return ranges;
}

absl::Status WriteTextFile(const std::string& path, const std::string& text,
                           Interrupts& interrupts) {
  if (path == "-") {
    fwrite(text.data(), 1, text.size(), stdout);  // main says where this fails
    return absl::OkStatus();
  }
  SayWhatIsLeftBehind(path);
  MutexLock lock(&interrupts.mutex());
  absl::StatusOr<OutputFile> file = OutputFile::Create(path, static_cast<int64_t>(text.size()));
  if (!file.ok()) return Named(path, FileError(file.status()));
  absl::Status status = file->WriteAt(0, std::as_bytes(std::span(text)));
  if (status.ok()) status = file->Commit();
  return Named(path, FileError(status));
}

}  // namespace quantd::cli
