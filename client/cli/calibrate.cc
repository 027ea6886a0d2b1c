#include <algorithm>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/commands.h"
#include "client/cli/input.h"
#include "client/cli/interrupts.h"
#include "client/cli/output_access.h"
#include "client/cli/planning.h"
#include "client/cli/progress.h"
#include "client/cli/ranges_file.h"
#include "client/cli/text.h"
#include "core/base/status_macros.h"

namespace quantd::cli {
namespace {

struct Options {
  InputOptions input;
  SelectOptions select;
  std::string spec, output;
  bool force = false;
};

struct Calibrated {
  TensorDesc tensor;
  CalibrationInfo info;
};

absl::StatusOr<std::vector<Calibrated>> CalibrateAll(const Globals& globals,
                                                     const Options& options) {
  QUANTD_ASSIGN_OR_RETURN(const QuantSpec spec, ParseSpec(options.spec));
  QUANTD_ASSIGN_OR_RETURN(const Input input, Input::Open(options.input));
  QUANTD_RETURN_IF_ERROR(CheckOverwrites(options.output, input, "", options.force));
  QUANTD_ASSIGN_OR_RETURN(const auto why_kept, input.Select(options.select));
  QUANTD_RETURN_IF_ERROR(CheckAnySelected(input, why_kept));
  QUANTD_ASSIGN_OR_RETURN(const auto connection, Connection::Open(globals));
  int64_t total_bytes = 0;
  for (size_t i = 0; i < input.size(); ++i) {
    if (why_kept[i].empty()) total_bytes += input.size_bytes(i);
  }
  Progress progress("calibrating", total_bytes, globals.quiet);
  const CallOptions call_options = connection->call_options(progress);
  std::vector<Calibrated> calibrated;
  for (size_t i = 0; i < input.size(); ++i) {
    if (!why_kept[i].empty()) continue;
    const std::unique_ptr<ByteSource> source = input.MakeSource(i);
    absl::StatusOr<CalibrationInfo> info =
        connection->client().Calibrate(input.tensor(i), spec, *source, {}, call_options);
    if (!info.ok()) return connection->ErrorOf(input.tensor(i).name, info.status());
    calibrated.push_back({input.tensor(i), *std::move(info)});
  }
  QUANTD_RETURN_IF_ERROR(input.CheckUnchanged());
  return calibrated;
}

std::string Real(double value) { return absl::StrFormat("%.6g", value); }

std::string TableOf(const std::vector<Calibrated>& all, size_t columns) {
  using enum Table::Align;
  using enum Table::Fit;
  Table table({{"tensor", kLeft, kShrink},
               {"shape", kLeft, kDrop},
               {"groups", kRight},
               {"min", kRight},
               {"max", kRight},
               {"narrowest", kRight, kDrop},
               {"widest", kRight, kDrop},
               {"not finite", kRight},
               {"spec", kLeft, kWrap}});
  for (const Calibrated& one : all) {
    const std::vector<Range>& groups = one.info.ranges.groups;
    const auto narrower = [](const Range& a, const Range& b) {
      return a.max - a.min < b.max - b.min;
    };
    const auto [narrowest, widest] = std::minmax_element(groups.begin(), groups.end(), narrower);
    const auto width = [&](auto range) {
      return groups.size() < 2 ? std::string() : Real(range->max - range->min);
    };
    const auto end = [&](double value) {
      return one.info.state.tensor.count == 0 ? std::string() : Real(value);
    };
    table.AddRow({Printable(one.tensor.name), ShapeText(one.tensor.shape),
                  WithCommas(static_cast<int64_t>(groups.size())), end(one.info.ranges.tensor.min),
                  end(one.info.ranges.tensor.max), width(narrowest), width(widest),
                  one.info.state.non_finite == 0 ? "" : WithCommas(one.info.state.non_finite),
                  ShortSpec(one.info.resolved_spec)});
  }
  return table.Text(columns);
}

// `ranges` has those of each tensor under its name, as the file of ranges has them.
Json ReportJson(const Options& options, const std::vector<Calibrated>& all, const Json& ranges) {
  Json json;
  json["command"] = "calibrate";
  json["input"] = options.input.path;
  json["output"] = options.output;
  json["spec"] = options.spec;
  json["tensors"] = Json::array();
  for (const Calibrated& one : all) {
    const CalibrationState::Group& tensor = one.info.state.tensor;
    Json& row = json["tensors"].emplace_back();
    row["name"] = one.tensor.name;
    row["dtype"] = std::string(NameOf(one.tensor.dtype));
    row["shape"] = ToJson(one.tensor.shape);
    row.update(ranges[one.tensor.name]);
    Json& statistics = row["statistics"];
    statistics = {{"count", tensor.count}, {"non_finite", one.info.state.non_finite}};
    if (tensor.count == 0) continue;
    statistics.update(
        {{"min", tensor.min}, {"max", tensor.max}, {"mean", tensor.mean}, {"m2", tensor.m2}});
  }
  return json;
}

absl::StatusOr<ExitCode> Run(const Globals& globals, const Options& options) {
  QUANTD_ASSIGN_OR_RETURN(const std::vector<Calibrated> all, CalibrateAll(globals, options));
  NamedRanges ranges;
  for (const Calibrated& one : all) {
    CalibratedRanges& named = ranges[one.tensor.name] = one.info.ranges;
    named.source = one.tensor;
    named.spec = one.info.resolved_spec;
  }
  Json json = RangesToJson(ranges);
  if (!options.output.empty()) {
    NarrowOutputs(options.input.path, options.output);
    QUANTD_RETURN_IF_ERROR(WriteTextFile(options.output, json.dump(1) + "\n", *globals.interrupts));
  }
  if (globals.json) {
    PrintJson(ReportJson(options, all, json["tensors"]), globals.out());
    return kOk;
  }
  absl::FPrintF(globals.out(), "%s", TableOf(all, globals.columns()));
  if (!options.output.empty()) {
    absl::FPrintF(globals.out(), "\nranges are in %s; use them with quantctl quantize --ranges\n",
                  ShownOutput(options.output));
  }
  return kOk;
}

}  // namespace

Command AddCalibrate(CLI::App& app, const Globals& globals) {
  CLI::App* const command =
      app.add_subcommand("calibrate", "Find the ranges of tensors, for quantize --ranges");
  auto options = std::make_shared<Options>();
  options->input.AddTo(*command);
  command->add_option("--to", options->spec, "SCHEME[:key=value,...] whose groups and range count")
      ->required();
  options->select.AddTo(*command);
  command->add_option("-o,--output", options->output, "JSON file to write");
  AddForce(*command, options->force);
  return {command, [options, &globals] { return Run(globals, *options); }};
}

}  // namespace quantd::cli
