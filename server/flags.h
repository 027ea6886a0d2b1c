#ifndef QUANTD_SERVER_FLAGS_H_
#define QUANTD_SERVER_FLAGS_H_

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "server/server.h"

namespace quantd {

// What a person can set of the program `quantd`, with the defaults. Sizes are in bytes.
struct Flags {
  std::vector<std::string> listen = {"127.0.0.1:7717"};
  uint64_t memory_bytes = 0;
  uint64_t tensor_memory_bytes = 0;
  uint64_t max_message_bytes = uint64_t{16} << 20;
  uint64_t caller_memory_bytes = 0;
  uint64_t shared_memory_bytes = uint64_t{64} << 20;
  int caller_streams = 512;
  int max_waiting = 1024;
  double max_wait_seconds = 30;
  int threads = 0;
  double drain_seconds = 25;  // Kubernetes kills after 30
  double max_connection_age_seconds = 0;
  double max_connection_age_grace_seconds = 30;
  bool insecure = false;
  AccessOptions access;
  double idle_timeout_seconds = 120;
  std::string metrics;
  std::string port_file;
  std::string log_level = "info";
  std::string log_format = "text";
  std::string simd;
  bool check_config = false;
};

// Lets `app` read each of `flags` from its flag, its environment variable or a file. `flags`
// outlives it.
void AddFlags(CLI::App& app, Flags& flags);

// Returns the options that a server takes of `flags`.
ServerOptions OptionsOf(const Flags& flags);

}  // namespace quantd

#endif  // QUANTD_SERVER_FLAGS_H_
