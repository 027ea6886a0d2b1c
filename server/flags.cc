#include "server/flags.h"

#include <limits>

namespace quantd {

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

ServerOptions OptionsOf(const Flags& flags) {
  ServerOptions options;
  options.listen = flags.listen;
  options.allow_insecure = flags.insecure;
  options.threads = flags.threads;
  options.memory_budget_bytes = static_cast<int64_t>(flags.memory_bytes);
  options.session_budget_bytes = static_cast<int64_t>(flags.tensor_memory_bytes);
  options.max_message_bytes = static_cast<int64_t>(flags.max_message_bytes);
  return options;
}

}  // namespace quantd
