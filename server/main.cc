// The program: flags, one server, and signals until it ends.
//
//   SIGTERM, SIGINT   drain for --drain seconds; a second one ends the process at once
//   SIGHUP            read the tokens again
//   each second       give free memory back (Trimmer)
//
// What has to be set before gRPC or a thread begins is set first in Main. Exit codes: 0 stopped as
// asked, 1 could not serve, 2 usage. Tested by tests/e2e/test_operation.py and test_faults.py.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spdlog/logger.h>
#include <sys/resource.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "core/base/mutex.h"
#include "core/exec/allocator.h"
#include "core/io/machine_memory.h"
#include "core/simd/targets.h"
#include "proto/grpc_switches.h"
#include "server/config_file.h"
#include "server/flags.h"
#include "server/observe/log.h"
#include "server/observe/process_status.h"
#include "server/resolved_options.h"
#include "server/server.h"

namespace quantd {
namespace {

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;

// Gives free memory back to the system, and the buffers that are kept too while there are no calls;
// time and again, since peers that make none use memory as well (a flood of pings).
class Trimmer {
 public:
  static constexpr int kEveryMs = 1000;
  explicit Trimmer(QuantdServer& server) : server_(server) {}
  void Tick() {
    const int64_t started = server_.started_calls();
    const bool idle = started == started_at_last_tick_ && server_.active_calls() == 0;
    started_at_last_tick_ = started;
    if (idle) server_.TrimMemory();
    GiveMemoryBack();
  }

 private:
  QuantdServer& server_;
  int64_t started_at_last_tick_ = 0;
};

// Where the signal handler says which signal came; a handler can reach nothing but a global.
// Waiting for blocked signals will not do: libraries start threads before main, and one of those,
// which do not block them, would end the process.
std::atomic<int> signal_fd = -1;
static_assert(std::atomic<int>::is_always_lock_free);

void HandleSignal(int signal) {
  const int saved_errno = errno;
  const char number = static_cast<char>(signal);
  // Where this does not work there is nothing left to do.
  [[maybe_unused]] const ssize_t written = write(signal_fd.load(), &number, 1);
  errno = saved_errno;
}

// Returns the end of a pipe that gives each SIGTERM, SIGINT and SIGHUP as a byte; -1 if there is no
// pipe.
int CatchSignals() {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return -1;
  signal_fd = fds[1];
  struct sigaction action = {};
  action.sa_handler = &HandleSignal;
  action.sa_flags = SA_RESTART;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGHUP, &action, nullptr);
  return fds[0];
}

void ReloadTokens(QuantdServer& server, spdlog::logger& logger) {
  const absl::Status status = server.ReloadTokens();
  if (status.ok()) {
    logger.info("SIGHUP: the tokens are up to date");
  } else {
    logger.error("SIGHUP: {}; the tokens stay as they were", std::string(status.message()));
  }
}

// Waits for a signal that ends the server from `fd`, and looks after memory meanwhile.
int WaitForSignal(int fd, QuantdServer& server, spdlog::logger& logger) {
  Trimmer trimmer(server);
  for (;;) {
    pollfd ready = {.fd = fd, .events = POLLIN, .revents = 0};
    char number;
    if (poll(&ready, 1, Trimmer::kEveryMs) > 0 && read(fd, &number, 1) == 1) {
      if (number != SIGHUP) return number;
      ReloadTokens(server, logger);
      continue;
    }
    trimmer.Tick();
  }
}

// Writes the file whole or not at all, so that whoever waits for it never reads a part.
bool WritePortFile(const std::string& path, const std::string& address) {
  const std::string temporary = path + ".tmp";
  std::ofstream file(temporary, std::ios::trunc);
  file << address << "\n";
  file.close();
  return file.good() && std::rename(temporary.c_str(), path.c_str()) == 0;
}

std::vector<std::string> Warnings(const ServerOptions& resolved) {
  return WarningsOf(resolved, MachineMemoryBytes(), ReadProcessStatus().max_descriptors);
}

int Serve(const Flags& flags, int signals) {
  ServerOptions options = OptionsOf(flags);
  options.logger = MakeLogger(flags.log_level, options.json_log);
  const std::shared_ptr<spdlog::logger> logger = options.logger;
  absl::StatusOr<std::unique_ptr<QuantdServer>> started = QuantdServer::Start(options);
  if (!started.ok()) {
    logger->error("{}", std::string(started.status().message()));
    return kExitFailure;
  }
  QuantdServer& server = **started;
  for (const std::string& warning : Warnings(WithDefaults(options))) logger->warn("{}", warning);
  logger->info("quantd {} listens on {}; simd {}, {} threads, {} bytes of memory", Version().data(),
               absl::StrJoin(server.addresses(), ", "), ChosenSimdTarget(), server.worker_threads(),
               server.budget().limit_bytes());
  if (!server.metrics_address().empty()) {
    logger->info("metrics on http://{}/metrics", server.metrics_address());
  }
  if (!flags.port_file.empty() && !WritePortFile(flags.port_file, server.addresses().front())) {
    logger->error("cannot write {}", flags.port_file);
    return kExitFailure;
  }
  const int signal_number = WaitForSignal(signals, server, *logger);
  logger->info("stops on signal {}; running calls: {}", signal_number, server.active_calls());
  // A second signal ends the process at once.
  signal(SIGTERM, SIG_DFL);
  signal(SIGINT, SIG_DFL);
  server.Shutdown(absl::Seconds(flags.drain_seconds));
  logger->info("stopped");
  return EXIT_SUCCESS;
}

// Says on stdout what is in effect, or on stderr why it cannot be.
int CheckConfig(const CLI::App& app, const Flags& flags) {
  if (const absl::Status status = CheckOptions(OptionsOf(flags)); !status.ok()) {
    std::fprintf(stderr, "quantd: %s\n", std::string(status.message()).c_str());
    return kExitUsage;
  }
  const ServerOptions options = WithDefaults(OptionsOf(flags));
  for (const std::string& warning : Warnings(options)) {
    std::fprintf(stderr, "quantd: warning: %s\n", warning.c_str());
  }
  std::printf("%s# What the values above come to here, as KEY=VALUE:\n%s",
              EffectiveConfig(app).c_str(), ResolvedText(options).c_str());
  return EXIT_SUCCESS;
}

// A shell gives 1024 descriptors, and lets programs that know what they do have more.
void RaiseDescriptorLimit() {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);  // what comes of it, WarningsOf sees
}

int Main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);  // of a log that is redirected to a file
  RaiseDescriptorLimit();
  TuneAllocator();
  SetGrpcSwitches();
  SkipDeadlockSearch();

  CLI::App app("quantd, a quantization service", "quantd");
  Flags flags;
  AddFlags(app, flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {  // CLI11's way to answer; nothing of ours throws
    return app.exit(error) == 0 ? EXIT_SUCCESS : kExitUsage;
  }
  if (const absl::Status status = ChooseSimdTarget(flags.simd); !status.ok()) {
    std::fprintf(stderr, "quantd: --simd: %s\n", std::string(status.message()).c_str());
    return kExitUsage;
  }
  if (flags.check_config) return CheckConfig(app, flags);
  const int signals = CatchSignals();
  if (signals < 0) {
    std::fprintf(stderr, "quantd: no pipe for signals: %s\n", std::strerror(errno));
    return kExitFailure;
  }
  return Serve(flags, signals);
}

}  // namespace
}  // namespace quantd

int main(int argc, char** argv) { return quantd::Main(argc, argv); }
