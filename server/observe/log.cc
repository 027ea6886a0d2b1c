#include "server/observe/log.h"

#include <grpc/support/log.h>
#include <spdlog/formatter.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

namespace quantd {
namespace {

// RFC 3339, in milliseconds.
constexpr char kTimeFormat[] = "%Y-%m-%dT%H:%M:%E3S%Ez";

class JsonFormatter final : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) override {
    const auto level = spdlog::level::to_string_view(message.level);
    std::string line = absl::StrCat(
        R"({"time":")",
        absl::FormatTime(kTimeFormat, absl::FromChrono(message.time), absl::LocalTimeZone()),
        R"(","level":")", absl::string_view(level.data(), level.size()), R"(",)");
    const absl::string_view payload(message.payload.data(), message.payload.size());
    const absl::string_view name(message.logger_name.data(), message.logger_name.size());
    if (name == kCallLoggerName) {
      absl::StrAppend(&line, payload);
    } else {
      const nlohmann::json text = std::string(payload);
      absl::StrAppend(&line, R"("message":)",
                      text.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace));
    }
    absl::StrAppend(&line, "}\n");
    out.append(line.data(), line.data() + line.size());
  }
  std::unique_ptr<spdlog::formatter> clone() const override {
    return std::make_unique<JsonFormatter>();
  }
};

}  // namespace

std::shared_ptr<spdlog::logger> MakeLogger(absl::string_view level, bool json) {
  std::shared_ptr<spdlog::logger> logger = spdlog::stderr_logger_mt("quantd");
  if (json) {
    logger->set_formatter(std::make_unique<JsonFormatter>());
  } else {
    logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %l %v");
  }
  logger->set_level(spdlog::level::from_str(std::string(level)));
  logger->flush_on(spdlog::level::info);
  // What gRPC has to say of its insides is for whoever debugs.
  gpr_set_log_function([](gpr_log_func_args* args) {
    if (const auto log = spdlog::get("quantd")) {
      log->debug("grpc: {}:{}: {}", args->file, args->line, args->message);
    }
  });
  return logger;
}

}  // namespace quantd
