#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/commands.h"
#include "client/cli/input.h"
#include "client/cli/planning.h"
#include "client/cli/report_view.h"
#include "client/cli/text.h"
#include "core/base/status_macros.h"

namespace quantd::cli {
namespace {

struct Options {
  InputOptions input;
  SelectOptions select;
  std::string spec;
};

Json PlanJson(const TensorDesc& tensor, const TensorPlan& plan) {
  Json json;
  json["name"] = tensor.name;
  json["dtype"] = std::string(NameOf(tensor.dtype));
  json["shape"] = ToJson(tensor.shape);
  json["quantized"] = true;
  json["spec"] = plan.resolved_spec;
  json["pass"] = std::string(NameOf(plan.pass));
  json["before_bytes"] = plan.input_bytes;
  json["after_bytes"] = plan.output_bytes;
  json["resident_bytes"] = plan.resident_bytes;
  json["groups"] = plan.num_groups;
  json["fallback_reason"] = plan.fallback_reason;
  json["planes"] = Json::array();
  for (const PlaneDesc& plane : plan.planes) {
    json["planes"].push_back({{"name", plane.name},
                              {"dtype", std::string(NameOf(plane.dtype))},
                              {"shape", ToJson(plane.shape)},
                              {"size_bytes", plane.size_bytes}});
  }
  return json;
}

Json KeptJson(const StoredTensor& stored, int64_t size_bytes, const std::string& why) {
  const TensorDesc& tensor = stored.desc;
  Json json;
  json["name"] = tensor.name;
  json["dtype"] = TypeName(stored);
  json["shape"] = ToJson(tensor.shape);
  json["quantized"] = false;
  json["before_bytes"] = size_bytes;
  json["after_bytes"] = size_bytes;
  json["note"] = absl::StrCat("kept: ", why);
  return json;
}

absl::StatusOr<ExitCode> Run(const Globals& globals, const Options& options) {
  QUANTD_ASSIGN_OR_RETURN(const QuantSpec spec, ParseSpec(options.spec));
  QUANTD_ASSIGN_OR_RETURN(const Input input, Input::Open(options.input));
  QUANTD_ASSIGN_OR_RETURN(auto why_kept, input.Select(options.select));
  QUANTD_ASSIGN_OR_RETURN(const auto connection, Connection::Open(globals));
  QUANTD_ASSIGN_OR_RETURN(const auto plans, PlanSelected(*connection, input, spec, why_kept));

  using enum Table::Align;
  using enum Table::Fit;
  Table table({{"tensor", kLeft, kShrink},
               {"shape", kLeft, kDrop},
               {"type", kLeft, kDrop},
               {"before", kRight, kDrop},
               {"after", kRight},
               {"pass"},
               {"server holds", kRight},
               {"spec", kLeft, kWrap}});
  KeptTensors kept;
  Json list = Json::array();
  int64_t before_bytes = 0, after_bytes = 0;
  for (size_t i = 0; i < input.size(); ++i) {
    const TensorDesc& tensor = input.tensor(i);
    const std::string name = Printable(tensor.name), shape = ShapeText(tensor.shape),
                      type = TypeName(input.stored(i)), before = HumanBytes(input.size_bytes(i));
    before_bytes += input.size_bytes(i);
    if (!plans[i].has_value()) {
      after_bytes += input.size_bytes(i);
      kept.Add(tensor.name, why_kept[i], input.size_bytes(i));
      list.push_back(KeptJson(input.stored(i), input.size_bytes(i), why_kept[i]));
      continue;
    }
    const std::optional<TensorPlan>& plan = plans[i];
    after_bytes += plan->output_bytes;
    std::string note = ShortSpec(plan->resolved_spec);
    if (!plan->fallback_reason.empty()) absl::StrAppend(&note, " (", plan->fallback_reason, ")");
    table.AddRow({name, shape, type, before, HumanBytes(plan->output_bytes),
                  std::string(NameOf(plan->pass)), HumanBytes(plan->resident_bytes),
                  Printable(note)});
    list.push_back(PlanJson(tensor, *plan));
  }
  if (globals.json) {
    Json json;
    json["command"] = "plan";
    json["input"] = options.input.path;
    json["spec"] = options.spec;
    json["server"] = connection->where();
    json["transport"] = connection->transport();
    json["tensors"] = std::move(list);
    json["totals"] = {{"tensors", input.size()},
                      {"before_bytes", before_bytes},
                      {"after_bytes", after_bytes}};
    PrintJson(json, globals.out());
    return kOk;
  }
  for (const KeptTensors::Line& line : kept.Lines()) {
    const std::string size = HumanBytes(line.size_bytes);
    table.AddRow({line.name, "", "", size, size, "", "", line.note});
  }
  if (input.size() > 1) {
    table.AddRule();
    table.AddRow({absl::StrCat(input.size(), " tensors"), "", "", HumanBytes(before_bytes),
                  HumanBytes(after_bytes)});
  }
  absl::PrintF("%s", table.Text(globals.columns()));
  return kOk;
}

}  // namespace

Command AddPlan(CLI::App& app, const Globals& globals) {
  CLI::App* const command = app.add_subcommand(
      "plan", "Say what quantize would give, and how, without sending the values");
  auto options = std::make_shared<Options>();
  options->input.AddTo(*command);
  command->add_option("--to", options->spec, "SCHEME[:key=value,...]")->required();
  options->select.AddTo(*command);
  return {command, [options, &globals] { return Run(globals, *options); }};
}

}  // namespace quantd::cli
