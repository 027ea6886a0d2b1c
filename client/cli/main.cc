#include <stdio.h>

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "client/cli/commands.h"
#include "client/cli/grpc_log.h"
#include "client/cli/interrupts.h"
#include "client/cli/text.h"
#include "core/exec/allocator.h"
#include "core/simd/targets.h"

namespace quantd::cli {
namespace {

void AddGlobals(CLI::App& app, Globals& globals, std::string& simd) {
  app.add_option("--server", globals.server,
                 "HOST:PORT or unix:PATH of a quantd server; without it the service runs in this "
                 "process and gives the same bytes")
      ->envname("QUANTD_SERVER");
  app.add_option("--transport", globals.transport,
                 "auto, in_process, shared_memory, unix or tcp (default: auto, the best that there "
                 "is); same bytes by all")
      ->envname("QUANTCTL_TRANSPORT");
  AddCredentials(app, globals.credentials);
  app.add_flag("--json", globals.json, "print one JSON document to stdout");
  app.add_flag("-q,--quiet", globals.quiet, "show no progress");
  app.add_option("--timeout", globals.timeout_s, "seconds after which the command gives up")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--memory", globals.embedded.memory_budget_bytes,
                 "memory budget of the service in this process: 512MiB, 4GiB")
      ->transform(CLI::AsSizeValue(false));
  app.add_option("--threads", globals.embedded.worker_threads,
                 "worker threads of the service in this process")
      ->check(CLI::Range(0, 1024));
  app.add_option(
         "--simd", simd,
         "SIMD target of the service in this process (default: the best); same bytes by all")
      ->envname("QUANTD_SIMD");
}

int PrintError(const absl::Status& status) {
  const std::string text = "quantctl: " + Printable(WithTlsReason(status).message()) + "\n";
  fputs(text.c_str(), stderr);
  return CodeOf(status);
}

int Main(int argc, char** argv) {
  TuneAllocator();
  TakeGrpcLog();
  Interrupts interrupts;
  Globals globals;
  globals.interrupts = &interrupts;

  CLI::App app("Quantizes tensors: int8, fp16 and other packed forms, with figures and checksums.",
               "quantctl");
  app.set_version_flag("--version", "quantctl " QUANTD_VERSION);
  app.footer(kExitCodesHelp);
  app.require_subcommand(1);
  app.fallthrough();
  std::string simd;
  AddGlobals(app, globals, simd);
  const std::vector<Command> commands = {
      AddQuantize(app, globals), AddDequantize(app, globals), AddInspect(app, globals),
      AddVerify(app, globals),   AddPlan(app, globals),       AddCalibrate(app, globals),
      AddSchemes(app, globals),  AddInfo(app, globals),       AddToken(app, globals)};
  for (const Command& command : commands) command.app->fallthrough();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    fprintf(stderr, "quantctl: %s (see quantctl --help)\n", Printable(error.what()).c_str());
    return kBadInput;
  }
  if (const absl::Status status = ChooseSimdTarget(simd); !status.ok()) return PrintError(status);
  for (const Command& command : commands) {
    if (!command.app->parsed()) continue;
    const absl::StatusOr<ExitCode> code = command.run();
    if (!code.ok()) return PrintError(code.status());
    if (fflush(stdout) != 0 || ferror(stdout) != 0) {
      fputs("quantctl: stdout cannot be written\n", stderr);
      return kIoError;
    }
    return *code;
  }
  return kBadInput;
}

}  // namespace
}  // namespace quantd::cli

int main(int argc, char** argv) { return quantd::cli::Main(argc, argv); }
