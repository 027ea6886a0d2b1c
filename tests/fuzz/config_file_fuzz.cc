// Configuration files of quantd. Input: the file.
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/config_file.h"
#include "server/flags.h"
#include "tests/fuzz/fuzz_input.h"

namespace quantd::fuzz {
namespace {

// Flags as the program has them, read from `text`.
struct Config {
  explicit Config(const std::string& text) : app("quantd", "quantd") {
    AddFlags(app, flags);
    std::istringstream in(text);
    try {
      app.parse_from_stream(in);
      effective = EffectiveConfig(app);
    } catch (const CLI::ParseError& error) {  // all that the program catches
      message = absl::StrCat(error.get_name(), ": ", error.what());
    }
  }

  Flags flags;
  CLI::App app;
  std::string effective;
  std::string message;  // of the error
};

// The ranges that --help tells, whatever way a number is written.
void RequireWithinRanges(const Flags& flags) {
  const auto within = [](auto value, auto min, auto max) { return value >= min && value <= max; };
  constexpr uint64_t kMaxSize = uint64_t{1} << 63;
  Require(flags.memory_bytes < kMaxSize && flags.tensor_memory_bytes < kMaxSize &&
              flags.caller_memory_bytes < kMaxSize && flags.max_message_bytes < kMaxSize,
          "a size that is negative as an int64");
  Require(within(flags.threads, 0, 1024) && within(flags.caller_streams, 1, 1 << 20) &&
              within(flags.max_waiting, 0, 1 << 20) &&
              within(flags.access.max_connections, 1, 1 << 20) &&
              within(flags.access.max_metadata_bytes, 1024, 1 << 20) &&
              flags.access.socket_mode <= 0777u,
          "a number out of its range");
  Require(within(flags.max_wait_seconds, 0.0, 86400.0) &&
              within(flags.drain_seconds, 0.0, 86400.0) &&
              within(flags.idle_timeout_seconds, 0.0, 86400.0) &&
              within(flags.max_connection_age_seconds, 0.0, 86400.0 * 365) &&
              within(flags.max_connection_age_grace_seconds, 0.0, 86400.0 * 365),
          "a time out of its range");
  Require(!flags.listen.empty(), "nothing to listen on");
  Require(!flags.check_config, "a file asks for itself to be checked");
}

void Run(const std::string& text) {
  const Config config(text);
  if (!config.message.empty()) return;
  RequireWithinRanges(config.flags);
  OptionsOf(config.flags);
  const Config again(config.effective);
  Require(again.message.empty(),
          absl::StrCat("what is in effect does not read back: ", again.message));
  Require(again.effective == config.effective, "what is in effect reads back as something else");
}

}  // namespace
}  // namespace quantd::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size_bytes) {
  quantd::fuzz::Run(std::string(quantd::fuzz::FuzzInput(data, size_bytes).RestText()));
  return 0;
}
