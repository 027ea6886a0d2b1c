#ifndef QUANTD_CLIENT_CLI_COMMANDS_H_
#define QUANTD_CLIENT_CLI_COMMANDS_H_

#include <CLI/CLI.hpp>
#include <functional>

#include "absl/status/statusor.h"
#include "client/cli/connection.h"
#include "client/cli/exit_code.h"

namespace quantd::cli {

// One command of the program. `run` is called after the command line has been read.
struct Command {
  CLI::App* app;
  std::function<absl::StatusOr<ExitCode>()> run;
};

// Each adds its command to `app`. `globals` outlives the command.
Command AddQuantize(CLI::App& app, const Globals& globals);
Command AddDequantize(CLI::App& app, const Globals& globals);
Command AddInspect(CLI::App& app, const Globals& globals);
Command AddVerify(CLI::App& app, const Globals& globals);
Command AddPlan(CLI::App& app, const Globals& globals);
Command AddCalibrate(CLI::App& app, const Globals& globals);
Command AddSchemes(CLI::App& app, const Globals& globals);
Command AddInfo(CLI::App& app, const Globals& globals);
Command AddToken(CLI::App& app, const Globals& globals);

}  // namespace quantd::cli

#endif  // QUANTD_CLIENT_CLI_COMMANDS_H_
