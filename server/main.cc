#include <errno.h>
#include <fcntl.h>
#include <grpc/support/log.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "core/simd/targets.h"
#include "server/server.h"

namespace quantd {
namespace {

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;

struct Flags {
  std::vector<std::string> listen = {"127.0.0.1:7717"};
  uint64_t memory_bytes = uint64_t{1} << 30;
  uint64_t tensor_memory_bytes = 0;
  uint64_t max_message_bytes = uint64_t{16} << 20;
  int threads = 0;
  double drain_seconds = 30;
  bool insecure = false;
  std::string port_file;
  std::string log_level = "info";
  std::string simd;
};

void AddFlags(CLI::App& app, Flags& flags) {
  app.set_version_flag("--version", std::string("quantd ") + std::string(Version()));
  app.add_option("--listen", flags.listen, "HOST:PORT or unix:PATH; may be given several times")
      ->envname("QUANTD_LISTEN")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--threads", flags.threads, "Threads that work; 0: one for each CPU")
      ->envname("QUANTD_THREADS")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  const auto add_size = [&app](const char* name, uint64_t& value, const char* text,
                               const char* variable) {
    app.add_option(name, value, text)
        ->envname(variable)
        ->transform(CLI::AsSizeValue(false))
        ->check(CLI::Range(uint64_t{0}, static_cast<uint64_t>(std::numeric_limits<int64_t>::max())))
        ->capture_default_str();
  };
  add_size("--memory", flags.memory_bytes, "Memory budget, such as 512MiB", "QUANTD_MEMORY");
  add_size("--tensor-memory", flags.tensor_memory_bytes,
           "What one tensor may hold of it; 0: a quarter", "QUANTD_TENSOR_MEMORY");
  add_size("--max-message", flags.max_message_bytes, "Largest request message",
           "QUANTD_MAX_MESSAGE");
  app.add_option("--drain", flags.drain_seconds, "Seconds that running calls get on SIGTERM")
      ->envname("QUANTD_DRAIN")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str();
  app.add_flag("--insecure", flags.insecure,
               "Allow plain TCP on addresses that other machines reach")
      ->envname("QUANTD_INSECURE");
  app.add_option("--port-file", flags.port_file, "Write the address here once the server is ready")
      ->envname("QUANTD_PORT_FILE");
  app.add_option("--log-level", flags.log_level, "Least severe of what is logged")
      ->envname("QUANTD_LOG_LEVEL")
      ->check(CLI::IsMember({"debug", "info", "warn", "error", "off"}))
      ->capture_default_str();
  app.add_option("--simd", flags.simd, "SIMD target to use (default: the best); same bytes by all")
      ->envname("QUANTD_SIMD");
}

// Keeps pages that gRPC's read slices would else map and unmap all the time; see TrimIfIdle.
void TuneAllocator() {
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
  mallopt(M_TOP_PAD, 64 << 20);
}

// Gives kept memory back to the system after a while without calls.
class IdleTrimmer {
 public:
  explicit IdleTrimmer(QuantdServer& server) : server_(server) {}
  // To be called every few seconds.
  void Tick() {
    const int64_t started = server_.started_calls();
    const bool idle = started == started_at_last_tick_ && server_.active_calls() == 0;
    started_at_last_tick_ = started;
    if (!idle || started == trimmed_at_) return;
    server_.TrimMemory();
    malloc_trim(0);
    trimmed_at_ = started;
  }

 private:
  QuantdServer& server_;
  int64_t started_at_last_tick_ = 0;
  int64_t trimmed_at_ = 0;
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

// Returns the end of a pipe that gives each SIGTERM and SIGINT as a byte; -1 if there is no pipe.
int CatchSignals() {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return -1;
  signal_fd = fds[1];
  struct sigaction action = {};
  action.sa_handler = &HandleSignal;
  action.sa_flags = SA_RESTART;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
  return fds[0];
}

// Waits for a signal from `fd`, and looks after memory meanwhile.
int WaitForSignal(int fd, QuantdServer& server) {
  IdleTrimmer trimmer(server);
  for (;;) {
    pollfd ready = {.fd = fd, .events = POLLIN, .revents = 0};
    char number;
    if (poll(&ready, 1, /*timeout=*/5000) > 0 && read(fd, &number, 1) == 1) return number;
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

std::shared_ptr<spdlog::logger> MakeLogger(const std::string& level) {
  std::shared_ptr<spdlog::logger> logger = spdlog::stderr_logger_mt("quantd");
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %l %v");
  logger->set_level(spdlog::level::from_str(level));
  logger->flush_on(spdlog::level::info);
  // What gRPC has to say of its insides is for whoever debugs.
  gpr_set_log_function([](gpr_log_func_args* args) {
    if (const auto log = spdlog::get("quantd")) {
      log->debug("grpc: {}:{}: {}", args->file, args->line, args->message);
    }
  });
  return logger;
}

int Serve(const Flags& flags, int signals) {
  const std::shared_ptr<spdlog::logger> logger = MakeLogger(flags.log_level);
  ServerOptions options;
  options.listen = flags.listen;
  options.allow_insecure = flags.insecure;
  options.threads = flags.threads;
  options.memory_budget_bytes = static_cast<int64_t>(flags.memory_bytes);
  options.session_budget_bytes = static_cast<int64_t>(flags.tensor_memory_bytes);
  options.max_message_bytes = static_cast<int64_t>(flags.max_message_bytes);
  options.logger = logger;
  absl::StatusOr<std::unique_ptr<QuantdServer>> started = QuantdServer::Start(options);
  if (!started.ok()) {
    logger->error("{}", std::string(started.status().message()));
    return kExitFailure;
  }
  QuantdServer& server = **started;
  logger->info("quantd {} listens on {}; simd {}, {} threads, {} bytes of memory", Version().data(),
               absl::StrJoin(server.addresses(), ", "), ChosenSimdTarget(), server.worker_threads(),
               server.budget().limit_bytes());
  if (!flags.port_file.empty() && !WritePortFile(flags.port_file, server.addresses().front())) {
    logger->error("cannot write {}", flags.port_file);
    return kExitFailure;
  }
  const int signal_number = WaitForSignal(signals, server);
  logger->info("stops on signal {}; running calls: {}", signal_number, server.active_calls());
  // A second signal ends the process at once.
  signal(SIGTERM, SIG_DFL);
  signal(SIGINT, SIG_DFL);
  server.Shutdown(absl::Seconds(flags.drain_seconds));
  logger->info("stopped");
  return EXIT_SUCCESS;
}

int Main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  TuneAllocator();

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
