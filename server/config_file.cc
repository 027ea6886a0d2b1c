#include "server/config_file.h"

#include <cstdlib>
#include <istream>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"

namespace quantd {
namespace {

bool IsInEnvironment(const std::string& variable) {
  const char* const value = variable.empty() ? nullptr : std::getenv(variable.c_str());
  return value != nullptr && *value != '\0';
}

// CLI11 lets the file go before the environment; so this leaves out of the file what the
// environment gives.
class FileBelowEnvironment final : public CLI::ConfigTOML {
 public:
  explicit FileBelowEnvironment(const CLI::App& app) : app_(app) {}

  std::vector<CLI::ConfigItem> from_config(std::istream& in) const override {
    std::vector<CLI::ConfigItem> items = CLI::ConfigTOML::from_config(in);
    std::vector<CLI::ConfigItem> kept;
    for (CLI::ConfigItem& item : items) {
      const CLI::Option* const option =
          item.parents.empty() ? app_.get_option_no_throw("--" + item.name) : nullptr;
      if (option == nullptr || !option->get_configurable()) {  // CLI11's way to say so
        throw CLI::ConfigError(absl::StrCat("configuration file: unknown key \"", item.fullname(),
                                            "\"; the keys are the names of the flags"),
                               CLI::ExitCodes::ConfigError);
      }
      if (!IsInEnvironment(option->get_envname())) kept.push_back(std::move(item));
    }
    return kept;
  }

 private:
  const CLI::App& app_;
};

}  // namespace

void AddConfigFile(CLI::App& app) {
  // CLI11 opens the file before it looks at the environment.
  const char* const variable = std::getenv("QUANTD_CONFIG");
  const std::string file = variable == nullptr ? "" : variable;
  app.set_config("--config", file, "Read flags from this TOML file; also QUANTD_CONFIG",
                 /*config_required=*/!file.empty());
  app.config_formatter(std::make_shared<FileBelowEnvironment>(app));
}

std::string EffectiveConfig(const CLI::App& app) {
  return app.config_to_str(/*default_also=*/true, /*write_description=*/false);
}

}  // namespace quantd
