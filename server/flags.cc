// What a person can set, in three places of one meaning each; what comes first in this list wins:
//
//   --max-wait 5        QUANTD_MAX_WAIT=5        max-wait = 5   (the TOML file, config_file.h)
//
// A flag with its variable, its check and its help is one call below. Here stands what is wrong
// with a value by itself; what does not go together CheckOptions says, and what a 0 stands for
// WithDefaults.
//
// Entries: AddFlags, OptionsOf. Tested by tests/e2e/test_operation.py and config_file_fuzz.
#include "server/flags.h"

#include <cmath>
#include <limits>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/time/time.h"
#include "core/io/machine_memory.h"
#include "server/config_file.h"

namespace quantd {

namespace {

// Takes seconds from `min` to `max`, which CLI::Range would add NaN to.
CLI::Validator SecondsWithin(double min, double max) {
  return CLI::Range(min, max) & CLI::Validator(
                                    [](const std::string& text) {
                                      double seconds;
                                      const bool is_number =
                                          absl::SimpleAtod(text, &seconds) && !std::isnan(seconds);
                                      return is_number ? std::string() : "a time is a number";
                                    },
                                    "");
}

void AddAccessFlags(CLI::App& app, Flags& flags) {
  AccessOptions& access = flags.access;
  const auto add_file = [&app](const char* name, std::string& path, const char* text,
                               const char* variable) {
    app.add_option(name, path, text)->envname(variable);
  };
  add_file("--tls-cert", access.tls.certificate,
           "Certificate chain in PEM for all TCP addresses; files that change are read again",
           "QUANTD_TLS_CERT");
  add_file("--tls-key", access.tls.key, "Its private key", "QUANTD_TLS_KEY");
  add_file("--tls-client-ca", access.tls.client_ca,
           "Demand client certificates that one of these authorities has signed",
           "QUANTD_TLS_CLIENT_CA");
  add_file("--tokens", access.tokens_path,
           "Demand tokens: lines of NAME SHA256 [streams=N] [in_flight=SIZE]; read again on SIGHUP",
           "QUANTD_TOKENS");
  app.add_option("--allow-uid", access.allowed_uids,
                 "Let only these user ids use the UNIX sockets (default: all that may open them)")
      ->envname("QUANTD_ALLOW_UID")
      ->check([](const std::string& text) {  // which CLI11 would take for 0
        return std::string(text.empty() ? "a user id is a number" : "");
      })
      ->delimiter(',');
  app.add_option("--socket-mode", access.socket_mode, "Permissions of the UNIX sockets, in octal")
      ->envname("QUANTD_SOCKET_MODE")
      ->check([](const std::string& text) {
        return text[0] == '0' ? std::string() : "an octal mode begins with 0, such as 0660";
      })
      ->check(CLI::Range(0u, 0777u))
      ->default_str("0660");
  app.add_option("--max-connections", access.max_connections,
                 "Connections at once; beyond, those go first that have made no call yet")
      ->envname("QUANTD_MAX_CONNECTIONS")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--address-connections", access.max_per_address,
                 "Of these, what one address or user of UNIX sockets may have; 0: any number")
      ->envname("QUANTD_ADDRESS_CONNECTIONS")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  app.add_option("--max-metadata", access.max_metadata_bytes, "Largest headers of a call in bytes")
      ->envname("QUANTD_MAX_METADATA")
      ->check(CLI::Range(1024, 1 << 20))
      ->capture_default_str();
  app.add_option("--idle-timeout", flags.idle_timeout_seconds,
                 "Seconds that a stream waits for its peer to send or take a frame; 0: for ever")
      ->envname("QUANTD_IDLE_TIMEOUT")
      ->check(SecondsWithin(1.0, 86400.0) | CLI::IsMember({"0"}))
      ->capture_default_str();
}

}  // namespace

void AddFlags(CLI::App& app, Flags& flags) {
  app.set_version_flag("--version", std::string("quantd ") + std::string(Version()));
  app.add_option("--listen", flags.listen, "HOST:PORT or unix:PATH; may be given several times")
      ->envname("QUANTD_LISTEN")
      ->delimiter(',')
      ->default_str(flags.listen.front());
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
  add_size("--memory", flags.memory_bytes,
           "Memory budget, such as 512MiB; 0: half of what the machine or the cgroup has",
           "QUANTD_MEMORY");
  add_size("--tensor-memory", flags.tensor_memory_bytes,
           "What one tensor may hold of it; 0: a quarter", "QUANTD_TENSOR_MEMORY");
  add_size("--caller-memory", flags.caller_memory_bytes,
           "What one caller may hold of it; 0: three quarters", "QUANTD_CALLER_MEMORY");
  add_size("--shared-memory", flags.shared_memory_bytes,
           "What a client may share of its memory beside a UNIX socket, per connection; 0: nothing",
           "QUANTD_SHARED_MEMORY");
  app.add_option("--caller-streams", flags.caller_streams,
                 "Streams that one caller may have at once")
      ->envname("QUANTD_CALLER_STREAMS")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option(
         "--max-waiting", flags.max_waiting,
         "Calls that may wait for memory at once; a stream takes 320 KiB of at most half of it")
      ->envname("QUANTD_MAX_WAITING")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  app.add_option("--max-wait", flags.max_wait_seconds, "Seconds that a call may wait for memory")
      ->envname("QUANTD_MAX_WAIT")
      ->check(SecondsWithin(0.0, 86400.0))
      ->capture_default_str();
  add_size("--max-message", flags.max_message_bytes, "Largest request message",
           "QUANTD_MAX_MESSAGE");
  app.add_option("--drain", flags.drain_seconds, "Seconds that running calls get on SIGTERM")
      ->envname("QUANTD_DRAIN")
      ->check(SecondsWithin(0.0, 86400.0))
      ->capture_default_str();
  app.add_option("--max-connection-age", flags.max_connection_age_seconds,
                 "Seconds after which a connection is asked to make place for a new one; 0: never")
      ->envname("QUANTD_MAX_CONNECTION_AGE")
      ->check(SecondsWithin(0.0, 86400.0 * 365))
      ->capture_default_str();
  app.add_option("--max-connection-age-grace", flags.max_connection_age_grace_seconds,
                 "Seconds that its calls then still get")
      ->envname("QUANTD_MAX_CONNECTION_AGE_GRACE")
      ->check(SecondsWithin(0.0, 86400.0 * 365))
      ->capture_default_str();
  app.add_option("--metrics", flags.metrics,
                 "Serve Prometheus metrics on HOST:PORT, or on PORT of loopback; empty: do not")
      ->envname("QUANTD_METRICS");
  app.add_flag("--insecure", flags.insecure,
               "Allow plain TCP on addresses that other machines reach")
      ->envname("QUANTD_INSECURE");
  AddAccessFlags(app, flags);
  app.add_option("--port-file", flags.port_file, "Write the address here once the server is ready")
      ->envname("QUANTD_PORT_FILE");
  app.add_option("--log-level", flags.log_level, "Least severe of what is logged")
      ->envname("QUANTD_LOG_LEVEL")
      ->check(CLI::IsMember({"debug", "info", "warn", "error", "off"}))
      ->capture_default_str();
  app.add_option("--log-format", flags.log_format, "Lines for people, or one JSON object a line")
      ->envname("QUANTD_LOG_FORMAT")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  app.add_option("--simd", flags.simd, "SIMD target to use (default: the best); same bytes by all")
      ->envname("QUANTD_SIMD");
  app.add_flag("--check-config", flags.check_config,
               "Check everything, print what is in effect as a configuration file, and end")
      ->configurable(false);
  AddConfigFile(app);
}

ServerOptions OptionsOf(const Flags& flags) {
  ServerOptions options;
  options.listen = flags.listen;
  options.allow_insecure = flags.insecure;
  options.access = flags.access;
  options.access.idle_timeout = flags.idle_timeout_seconds > 0
                                    ? absl::Seconds(flags.idle_timeout_seconds)
                                    : absl::InfiniteDuration();
  options.threads = flags.threads;
  options.memory_budget_bytes =
      flags.memory_bytes != 0 ? static_cast<int64_t>(flags.memory_bytes) : MachineMemoryBytes() / 2;
  options.session_budget_bytes = static_cast<int64_t>(flags.tensor_memory_bytes);
  options.caller_budget_bytes = static_cast<int64_t>(flags.caller_memory_bytes);
  options.access.shared_memory_bytes = static_cast<int64_t>(flags.shared_memory_bytes);
  options.max_caller_streams = flags.caller_streams;
  options.max_waiting_calls = flags.max_waiting;
  options.max_wait = absl::Seconds(flags.max_wait_seconds);
  options.max_message_bytes = static_cast<int64_t>(flags.max_message_bytes);
  options.max_connection_age = absl::Seconds(flags.max_connection_age_seconds);
  options.max_connection_age_grace = absl::Seconds(flags.max_connection_age_grace_seconds);
  options.metrics = flags.metrics;
  options.json_log = flags.log_format == "json";
  return options;
}

}  // namespace quantd
