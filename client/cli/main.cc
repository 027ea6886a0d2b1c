#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/commands.h"
#include "client/cli/grpc_log.h"
#include "client/cli/interrupts.h"
#include "client/cli/report_view.h"
#include "client/cli/text.h"
#include "core/base/similar.h"
#include "core/base/mutex.h"
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
  app.add_flag("--json", globals.json,
               "print one JSON document to stdout, of errors as well (with -o -: to stderr)");
  app.add_flag("-q,--quiet", globals.quiet, "show no progress");
  app.add_option("--timeout", globals.timeout_s, "seconds after which the command gives up")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--memory", globals.in_process.memory_budget_bytes,
                 "memory budget of the service in this process: 512MiB, 4GiB")
      ->transform(CLI::AsSizeValue(false));
  app.add_option("--threads", globals.in_process.worker_threads,
                 "worker threads of the service in this process")
      ->check(CLI::Range(0, 1024));
  app.add_option(
         "--simd", simd,
         "SIMD target of the service in this process (default: the best); same bytes by all")
      ->envname("QUANTD_SIMD");
}

// True if stdout is a pipe that nobody reads any more.
bool StdoutIsLeft() {
  struct pollfd out = {STDOUT_FILENO, POLLOUT, 0};
  return poll(&out, 1, 0) == 1 && (out.revents & POLLERR) != 0;
}

// Ends the process as programs end whose reader has gone (`quantctl inspect m | head`): by SIGPIPE,
// without a word.
ExitCode EndBySigpipe() {
  signal(SIGPIPE, SIG_DFL);
  raise(SIGPIPE);
  return kIoError;  // the signal was blocked
}

// Says what went wrong, and returns the exit code for it.
ExitCode Refuse(const Globals& globals, const std::string& command, const absl::Status& error) {
  const absl::Status status = WithTlsReason(error);
  const ExitCode code = CodeOf(status);
  if (globals.data_to_stdout && code == kIoError && StdoutIsLeft()) return EndBySigpipe();
  fputs(absl::StrCat("quantctl: ", ShownMessage(status.message()), "\n").c_str(), stderr);
  if (!globals.json) return code;
  Json json;
  json["command"] = command;
  json["error"] = {{"code", absl::StatusCodeToString(status.code())},
                   {"exit_code", static_cast<int>(code)},
                   {"message", std::string(status.message())}};
  PrintJson(json, globals.out());
  return code;
}

// Returns what is wrong with a command line that CLI11 refuses.
std::string UsageError(const CLI::App& app, const CLI::ParseError& error) {
  std::vector<std::string> commands, options;
  const auto add_options = [&options](const CLI::App& of) {
    for (const CLI::Option* option : of.get_options()) {
      for (const std::string& name : option->get_lnames()) options.push_back("--" + name);
    }
  };
  add_options(app);
  for (const CLI::App* command : app.get_subcommands()) add_options(*command);
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    commands.push_back(command->get_name());
  }
  for (const std::string& word : app.remaining(/*recurse=*/true)) {
    if (absl::StartsWith(word, "--")) {
      const std::string name = word.substr(0, word.find('='));
      return absl::StrCat("unknown option ", name, DidYouMean(name, options));
    }
    if (absl::StartsWith(word, "-") || !app.get_subcommands().empty()) continue;
    return absl::StrCat("unknown command ", word, DidYouMean(word, commands), "; commands: ",
                        absl::StrJoin(commands, ", "));
  }
  return error.what();
}

// Where and how the mistake is to be said: what follows it was not parsed.
void ReadAheadOfMistake(int argc, char** argv, Globals& globals) {
  const std::vector<std::string> words(argv, argv + argc);
  for (size_t i = 1; i < words.size(); ++i) {
    if (words[i] == "--json") globals.json = true;
    const bool is_output = words[i - 1] == "-o" || words[i - 1] == "--output";
    if (is_output ? words[i] == "-" : words[i] == "--output=-") globals.data_to_stdout = true;
  }
}

int Main(int argc, char** argv) {
  TuneAllocator();
  SkipDeadlockSearch();
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
    ReadAheadOfMistake(argc, argv, globals);
    const auto parsed = app.get_subcommands();
    return Refuse(globals, parsed.empty() ? "" : parsed[0]->get_name(),
                  absl::InvalidArgumentError(
                      absl::StrCat(UsageError(app, error), " (see quantctl --help)")));
  }
  for (const Command& command : commands) {
    if (!command.app->parsed()) continue;
    const CLI::Option* const output = command.app->get_option_no_throw("--output");
    globals.data_to_stdout = output != nullptr && *output && output->as<std::string>() == "-";
    absl::Status status = ChooseSimdTarget(simd);
    absl::StatusOr<ExitCode> code = kOther;
    if (status.ok()) {
      code = command.run();
      status = code.status();
    }
    if (!status.ok()) return Refuse(globals, command.app->get_name(), status);
    if (fflush(stdout) != 0 || ferror(stdout) != 0) {
      if (StdoutIsLeft()) return EndBySigpipe();
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
