#include <stdio.h>

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "client/cli/commands.h"
#include "client/cli/report_view.h"
#include "client/cli/text.h"
#include "core/base/status_macros.h"
#include "proto/convert.h"

namespace quantd::cli {
namespace {

struct Options {
  bool health = false;
};

absl::StatusOr<ExitCode> RunHealth(const Globals& globals, const Connection& connection) {
  const absl::Status health = connection.client().CheckHealth("", connection.call_options());
  if (globals.json) {
    PrintJson({{"command", "info"},
               {"server", connection.where()},
               {"serving", health.ok()},
               {"message", std::string(health.message())}},
              stdout);
  } else if (health.ok()) {
    absl::PrintF("%s: serving\n", connection.where());
  } else {
    absl::FPrintF(stderr, "quantctl: %s: %s\n", connection.where(),
                  ShownMessage(health.message()));
  }
  return health.ok() ? kOk : kCheckFailed;
}

std::vector<std::string> InputTypes(const v1::GetServerInfoResponse& info) {
  std::vector<std::string> types;
  for (const int type : info.input_data_types()) {
    const auto dtype = FromProto(static_cast<v1::DataType>(type), "input_data_types");
    if (dtype.ok()) types.emplace_back(NameOf(*dtype));
  }
  return types;
}

Json InfoJson(const Connection& connection, const v1::GetServerInfoResponse& info) {
  Json json;
  json["command"] = "info";
  json["server"] = connection.where();
  json["transport"] = connection.transport();
  json["version"] = info.version();
  json["build"] = info.build();
  json["simd_target"] = info.simd_target();
  json["blas_core"] = info.blas_core();
  json["worker_threads"] = info.worker_threads();
  json["memory_budget_bytes"] = info.memory_budget_bytes();
  json["memory_used_bytes"] = info.memory_used_bytes();
  json["max_message_bytes"] = info.max_message_bytes();
  json["max_unary_bytes"] = info.max_unary_bytes();
  json["max_tensor_memory_bytes"] = info.max_tensor_memory_bytes();
  json["max_open_tensors"] = info.max_open_tensors();
  json["max_dimensions"] = info.max_dimensions();
  json["max_name_bytes"] = info.max_name_bytes();
  json["uptime_seconds"] = absl::ToDoubleSeconds(FromProto(info.uptime()));
  json["input_data_types"] = InputTypes(info);
  return json;
}

absl::StatusOr<ExitCode> Run(const Globals& globals, const Options& options) {
  QUANTD_ASSIGN_OR_RETURN(const auto connection, Connection::Open(globals));
  if (options.health) return RunHealth(globals, *connection);
  QUANTD_ASSIGN_OR_RETURN(const auto info,
                          connection->client().GetServerInfo(connection->call_options()));
  if (globals.json) {
    PrintJson(InfoJson(*connection, info), stdout);
    return kOk;
  }
  const auto line = [](absl::string_view name, const std::string& value) {
    absl::PrintF("%-15s %s\n", name, Printable(value));
  };
  line("server", connection->where());
  line("transport", connection->transport());
  line("version", info.version());
  line("build", info.build());
  line("SIMD", info.simd_target());
  line("BLAS", info.blas_core());
  line("worker threads", absl::StrCat(info.worker_threads()));
  line("memory budget", absl::StrCat(HumanBytes(info.memory_budget_bytes()), ", ",
                                     HumanBytes(info.memory_used_bytes()), " in use"));
  line("tensor memory", HumanBytes(info.max_tensor_memory_bytes()));
  line("message limit", HumanBytes(info.max_message_bytes()));
  line("unary limit", HumanBytes(info.max_unary_bytes()));
  line("tensor limits",
       absl::StrCat(info.max_open_tensors(), " open on a stream, ", info.max_dimensions(),
                    " dimensions, names of ", info.max_name_bytes(), " bytes"));
  line("uptime", absl::FormatDuration(absl::Trunc(FromProto(info.uptime()), absl::Seconds(1))));
  line("input types", absl::StrJoin(InputTypes(info), ", "));
  return kOk;
}

}  // namespace

Command AddInfo(CLI::App& app, const Globals& globals) {
  CLI::App* const command = app.add_subcommand("info", "Describe the server");
  auto options = std::make_shared<Options>();
  command->add_flag("--health", options->health,
                    "only ask whether it serves: exit code 0 if so, else 1");
  return {command, [options, &globals] { return Run(globals, *options); }};
}

}  // namespace quantd::cli
