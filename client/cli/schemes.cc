#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/cli/commands.h"
#include "client/cli/report_view.h"
#include "client/cli/text.h"
#include "core/base/status_macros.h"

namespace quantd::cli {
namespace {

struct Options {
  bool markdown = false;
};

Json SchemeJson(const v1::SchemeDescription& scheme) {
  const auto list = [](const auto& names) {
    return std::vector<std::string>(names.begin(), names.end());
  };
  Json json;
  json["name"] = scheme.name();
  json["summary"] = scheme.summary();
  json["source"] = scheme.source();
  json["bits_per_code"] = scheme.bits_per_code();
  json["default_spec"] = scheme.default_spec();
  json["granularities"] = list(scheme.granularities());
  json["modes"] = list(scheme.modes());
  json["roundings"] = list(scheme.roundings());
  json["scale_types"] = list(scheme.scale_types());
  json["dialects"] = list(scheme.dialects());
  json["layouts"] = list(scheme.layouts());
  json["non_finite"] = list(scheme.non_finite());
  json["tails"] = list(scheme.tails());
  return json;
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
  Table table({{"scheme"}, {"bits", kRight}, {"what it is"}, {"granularity"}, {"bytes as in"}});
  for (const v1::SchemeDescription& scheme : schemes) {
    table.AddRow({scheme.name(), absl::StrFormat("%g", scheme.bits_per_code()), scheme.summary(),
                  Kinds(scheme), with_source ? scheme.source() : ""});
  }
  return table;
}

absl::StatusOr<ExitCode> Run(const Globals& globals, const Options& options) {
  QUANTD_ASSIGN_OR_RETURN(const auto connection, Connection::Open(globals));
  QUANTD_ASSIGN_OR_RETURN(const auto schemes,
                          connection->client().ListSchemes(connection->call_options()));
  if (globals.json) {
    Json json;
    json["schemes"] = Json::array();
    for (const v1::SchemeDescription& scheme : schemes) {
      json["schemes"].push_back(SchemeJson(scheme));
    }
    PrintJson(json);
    return kOk;
  }
  if (options.markdown) {
    absl::PrintF("%s", SchemeTable(schemes, /*with_source=*/true).Markdown());
    return kOk;
  }
  absl::PrintF("%s\nAs specs, with every default:\n", SchemeTable(schemes, false).Text());
  for (const v1::SchemeDescription& scheme : schemes) {
    absl::PrintF("  %s\n", scheme.default_spec());
  }
  return kOk;
}

}  // namespace

Command AddSchemes(CLI::App& app, const Globals& globals) {
  CLI::App* const command = app.add_subcommand("schemes", "List what tensors can be quantized to");
  auto options = std::make_shared<Options>();
  command->add_flag("--markdown", options->markdown, "print the table as the README has it");
  return {command, [options, &globals] { return Run(globals, *options); }};
}

}  // namespace quantd::cli
