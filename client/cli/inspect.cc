#include <map>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/commands.h"
#include "client/cli/input.h"
#include "client/cli/metadata.h"
#include "client/cli/planning.h"
#include "client/cli/report_view.h"
#include "client/cli/text.h"
#include "core/base/status_macros.h"

namespace quantd::cli {
namespace {

constexpr size_t kMetadataColumns = 400;  // --json has all of it

// Returns for each tensor that is a plane what it is a plane of.
std::map<std::string, std::string> PlaneNotes(const std::map<std::string, PackedEntry>& entries) {
  std::map<std::string, std::string> notes;
  for (const auto& [name, entry] : entries) {
    for (size_t k = 0; k < entry.planes.size(); ++k) {
      const std::string& plane = entry.planes[k];
      notes[entry.names[k]] =
          plane == "codes" ? absl::StrCat(ShortSpec(entry.spec), " of ", NameOf(entry.tensor.dtype),
                                          " ", ShapeText(entry.tensor.shape))
                           : absl::StrCat(plane, " of ", name);
    }
  }
  return notes;
}

Json EntryJson(const PackedEntry& entry) {
  Json json;
  json["name"] = entry.tensor.name;
  json["dtype"] = std::string(NameOf(entry.tensor.dtype));
  json["shape"] = ToJson(entry.tensor.shape);
  json["spec"] = entry.spec;
  json["digests"] = Json::object();
  for (size_t i = 0; i < entry.planes.size(); ++i) {
    json["digests"][entry.planes[i]] = entry.digests[i];
  }
  return json;
}

void PrintAsJson(const std::string& path, const Input& input,
                 const std::map<std::string, PackedEntry>& entries) {
  Json json;
  json["command"] = "inspect";
  json["input"] = path;
  json["tensors"] = Json::array();
  for (size_t i = 0; i < input.size(); ++i) {
    json["tensors"].push_back({{"name", input.tensor(i).name},
                               {"dtype", TypeName(input.stored(i))},
                               {"shape", ToJson(input.tensor(i).shape)},
                               {"size_bytes", input.size_bytes(i)}});
  }
  json["quantized"] = Json::array();
  for (const auto& [name, entry] : entries) json["quantized"].push_back(EntryJson(entry));
  json["metadata"] = Json::object();
  for (const auto& [key, text] : input.metadata()) json["metadata"][key] = text;
  PrintJson(json, stdout);
}

absl::StatusOr<ExitCode> Run(const Globals& globals, const InputOptions& options) {
  QUANTD_ASSIGN_OR_RETURN(const Input input, Input::Open(options));
  const auto entries = ReadEntries(input.metadata());
  if (!entries.ok()) return Named(options.path, entries.status());
  if (globals.json) {
    PrintAsJson(options.path, input, *entries);
    return kOk;
  }
  const std::map<std::string, std::string> notes = PlaneNotes(*entries);
  using enum Table::Align;
  using enum Table::Fit;
  Table table({{"tensor", kLeft, kShrink},
               {"shape", kLeft, kDrop},
               {"type"},
               {"size", kRight},
               {"quantd", kLeft, kWrap}});
  int64_t total_bytes = 0, total_elems = 0;
  for (size_t i = 0; i < input.size(); ++i) {
    const TensorDesc& tensor = input.tensor(i);
    const auto note = notes.find(tensor.name);
    table.AddRow({Printable(tensor.name), ShapeText(tensor.shape),
                  TypeName(input.stored(i)), HumanBytes(input.size_bytes(i)),
                  note == notes.end() ? "" : Printable(note->second)});
    total_bytes += input.size_bytes(i);
    total_elems += tensor.shape.num_elems();
  }
  if (input.size() > 1) {
    table.AddRule();
    table.AddRow({absl::StrCat(input.size(), " tensors"),
                  absl::StrCat(WithCommas(total_elems), " values"), "", HumanBytes(total_bytes)});
  }
  absl::PrintF("%s", table.Text(globals.columns()));
  bool first = true;
  for (const auto& [key, text] : input.metadata()) {
    if (absl::StartsWith(key, "quantd.")) continue;
    if (first) absl::PrintF("\nmetadata:\n");
    first = false;
    absl::PrintF("  %s: %s\n", ShownName(key), Shortened(Printable(text), kMetadataColumns));
  }
  return kOk;
}

}  // namespace

Command AddInspect(CLI::App& app, const Globals& globals) {
  CLI::App* const command =
      app.add_subcommand("inspect", "List what a file holds, and what quantize said of it");
  auto options = std::make_shared<InputOptions>();
  options->AddTo(*command);
  return {command, [options, &globals] { return Run(globals, *options); }};
}

}  // namespace quantd::cli
