#include <google/protobuf/reflection.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/cli/commands.h"
#include "client/cli/report_view.h"
#include "client/cli/text.h"
#include "core/base/similar.h"
#include "core/base/status_macros.h"
#include "core/scheme/definitions.h"
#include "core/scheme/spec_keys.h"

namespace quantd::cli {
namespace {

struct Options {
  std::string name;
  bool keys = false;
  bool definitions = false;
  bool markdown = false;
};

// Every field under its name.
Json SchemeJson(const v1::SchemeDescription& scheme) {
  Json json;
  const auto& type = *v1::SchemeDescription::descriptor();
  const auto& reflection = *v1::SchemeDescription::GetReflection();
  for (int i = 0; i < type.field_count(); ++i) {
    const auto* field = type.field(i);
    if (field->is_repeated()) {
      const auto list = reflection.GetRepeatedFieldRef<std::string>(scheme, field);
      json[field->name()] = std::vector<std::string>(list.begin(), list.end());
    } else if (field->cpp_type() == field->CPPTYPE_DOUBLE) {
      json[field->name()] = reflection.GetDouble(scheme, field);
    } else {
      json[field->name()] = reflection.GetString(scheme, field);
    }
  }
  return json;
}

// What a spec can say, from the table of its keys.
ExitCode PrintKeys(bool as_json, bool as_markdown, size_t columns) {
  using enum Table::Align;
  using enum Table::Fit;
  Json json;
  json["command"] = "schemes";
  Table table({{"key"}, {"values", kLeft, kWrap}, {"what it says", kLeft, kWrap}});
  for (const SpecKey& key : SpecKeys()) {
    const std::string name(key.name);
    table.AddRow({name, key.Values(), std::string(key.help)});
    Json& row = json["keys"].emplace_back();
    row["key"] = name;
    row["values"] = key.Values();
    row["help"] = std::string(key.help);
    for (const absl::string_view value : key.names) {
      row["settings"].push_back(absl::StrCat(name, "=", value));
    }
    if (key.names.empty()) row["settings"].push_back(name + "=");
  }
  if (as_json) {
    PrintJson(json, stdout);
  } else {
    absl::PrintF("%s", as_markdown ? table.Markdown() : table.Text(columns));
  }
  return kOk;
}

// Returns the kinds, each once: a scheme may list several sizes of one.
std::string Kinds(const v1::SchemeDescription& scheme) {
  std::vector<std::string> kinds;
  for (const std::string& kind : scheme.granularities()) {
    if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) kinds.push_back(kind);
  }
  return absl::StrJoin(kinds, ", ");
}

Table SchemeTable(const std::vector<v1::SchemeDescription>& schemes, bool with_source) {
  using enum Table::Align;
  using enum Table::Fit;
  Table table({{"scheme"},
               {"bits", kRight},
               {"what it is", kLeft, kWrap},
               {"granularity"},
               {"bytes as in"}});
  for (const v1::SchemeDescription& scheme : schemes) {
    table.AddRow({scheme.name(), absl::StrFormat("%g", scheme.bits_per_code()), scheme.summary(),
                  Kinds(scheme), with_source ? scheme.source() : ""});
  }
  return table;
}

// The page of this program's own schemes.
ExitCode PrintDefinitions(bool as_json) {
  if (as_json) {
    Json json;
    json["command"] = "schemes";
    json["definitions"] = DefinitionsPage();
    PrintJson(json, stdout);
  } else {
    absl::PrintF("%s", DefinitionsPage());
  }
  return kOk;
}

// Leaves the scheme of this name alone.
absl::Status KeepScheme(const std::string& name, std::vector<v1::SchemeDescription>& schemes) {
  std::vector<std::string> names;
  for (v1::SchemeDescription& scheme : schemes) {
    names.push_back(scheme.name());
    if (scheme.name() != name) continue;
    schemes = {v1::SchemeDescription(scheme)};
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown scheme \"", name, "\"",
                                                 DidYouMean(name, names), "; known: ",
                                                 absl::StrJoin(names, ", ")));
}

void PrintScheme(const v1::SchemeDescription& scheme) {
  absl::PrintF("%s: %s\n\n", Printable(scheme.name()), Printable(scheme.summary()));
  absl::PrintF("Bytes as in: %s\nWith every default: %s\n\n", Printable(scheme.source()),
               Printable(scheme.default_spec()));
  for (const absl::string_view line : absl::StrSplit(scheme.definition(), '\n')) {
    absl::PrintF("%s\n", Printable(line));
  }
  absl::PrintF("What holds for all schemes: quantctl schemes --definitions\n");
}

absl::StatusOr<ExitCode> Run(const Globals& globals, const Options& options) {
  if (options.keys) return PrintKeys(globals.json, options.markdown, globals.columns());
  if (options.definitions) return PrintDefinitions(globals.json);
  QUANTD_ASSIGN_OR_RETURN(const auto connection, Connection::Open(globals));
  QUANTD_ASSIGN_OR_RETURN(auto schemes,
                          connection->client().ListSchemes(connection->call_options()));
  if (!options.name.empty()) QUANTD_RETURN_IF_ERROR(KeepScheme(options.name, schemes));
  if (globals.json) {
    Json json;
    json["command"] = "schemes";
    json["schemes"] = Json::array();
    for (const v1::SchemeDescription& scheme : schemes) {
      json["schemes"].push_back(SchemeJson(scheme));
    }
    PrintJson(json, stdout);
    return kOk;
  }
  if (!options.name.empty() && !options.markdown) {
    PrintScheme(schemes.front());
    return kOk;
  }
  if (options.markdown) {
    absl::PrintF("%s", SchemeTable(schemes, /*with_source=*/true).Markdown());
    return kOk;
  }
  absl::PrintF("%s\nAs specs, with every default:\n",
               SchemeTable(schemes, false).Text(globals.columns()));
  for (const v1::SchemeDescription& scheme : schemes) {
    absl::PrintF("  %s\n", scheme.default_spec());
  }
  return kOk;
}

}  // namespace

Command AddSchemes(CLI::App& app, const Globals& globals) {
  CLI::App* const command = app.add_subcommand("schemes", "List what tensors can be quantized to");
  auto options = std::make_shared<Options>();
  command->add_option("NAME", options->name, "how the bytes of this scheme follow from the values");
  command->add_flag("--keys", options->keys, "list what a spec can say instead");
  command->add_flag("--definitions", options->definitions,
                    "print how the bytes of all schemes follow, as Markdown");
  command->add_flag("--markdown", options->markdown, "print the table as Markdown");
  return {command, [options, &globals] { return Run(globals, *options); }};
}

}  // namespace quantd::cli
