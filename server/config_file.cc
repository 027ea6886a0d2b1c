#include "server/config_file.h"

#include <spdlog/fmt/fmt.h>
#include <toml++/toml.h>

#include <cstdlib>
#include <istream>
#include <iterator>
#include <memory>
#include <sstream>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace quantd {
namespace {

bool IsInEnvironment(const std::string& variable) {
  const char* const value = variable.empty() ? nullptr : std::getenv(variable.c_str());
  return value != nullptr && *value != '\0';
}

// CLI11's way to refuse a file.
CLI::ConfigError Refusal(absl::string_view what) {
  return CLI::ConfigError(absl::StrCat("configuration file: ", what), CLI::ExitCodes::ConfigError);
}

toml::table ParseToml(const std::string& text) {
  try {
    return toml::parse(text);
  } catch (const toml::parse_error& error) {  // the library's way
    const uint32_t number = error.source().begin.line;
    const std::vector<absl::string_view> lines = absl::StrSplit(text, '\n');
    throw Refusal(absl::StrCat("line ", number, ", ",
                               number >= 1 && number <= lines.size() ? lines[number - 1] : "", ": ",
                               std::string(error.description())));
  }
}

// Returns what a flag would be given for `node`, the value of `key` or one of its list.
std::string FlagText(absl::string_view key, const toml::node& node) {
  if (const auto* value = node.as_string()) return value->get();
  if (const auto* value = node.as_integer()) return absl::StrCat(value->get());
  if (const auto* value = node.as_floating_point()) return fmt::format("{}", value->get());
  if (const auto* value = node.as_boolean()) return value->get() ? "true" : "false";
  throw Refusal(
      absl::StrCat("\"", key, "\" is neither a text, number, true, false nor a list of them"));
}

// Whether `option` is a list that has nothing by default.
bool IsEmptyByDefault(const CLI::Option& option) {
  return option.get_expected_max() > 1 && option.get_default_str().empty();
}

// A list that is empty is one of no inputs.
CLI::ConfigItem ItemOf(const std::string& key, const toml::node& node) {
  CLI::ConfigItem item;
  item.name = key;
  const toml::array* const list = node.as_array();
  if (list == nullptr) {
    item.inputs.push_back(FlagText(key, node));
    return item;
  }
  for (const toml::node& element : *list) item.inputs.push_back(FlagText(key, element));
  return item;
}

// Refuses what CLI11 would take for something else: it reads a number of no text as 0.
void CheckItem(const CLI::Option& option, const CLI::ConfigItem& item) {
  if (item.inputs.empty() && !IsEmptyByDefault(option)) {
    throw Refusal(absl::StrCat("\"", item.name, "\" is an empty list"));
  }
  if (!absl::StartsWith(option.get_type_name(), "TEXT") && absl::c_linear_search(item.inputs, "")) {
    throw Refusal(absl::StrCat("\"", item.name, "\" is an empty text, but needs ",
                               option.get_expected_min() == 0 ? "true or false" : "a number"));
  }
}

// Returns `text` as TOML has it: numbers, true and false are bare.
std::string TomlValue(const std::string& text) {
  int64_t integer;
  double number;
  if (text == "true" || text == "false" ||
      (absl::SimpleAtoi(text, &integer) && absl::StrCat(integer) == text) ||
      (absl::SimpleAtod(text, &number) && fmt::format("{}", number) == text)) {
    return text;
  }
  std::ostringstream out;
  out << toml::toml_formatter(toml::value<std::string>(text), toml::format_flags::none);
  return out.str();
}

// Files by a TOML library: CLI11's own reader knows neither escapes nor a # within quotes.
class TomlFile final : public CLI::Config {
 public:
  explicit TomlFile(const CLI::App& app) : app_(app) {}

  // CLI11 lets the file go before the environment; so this leaves out of the file what the
  // environment gives.
  std::vector<CLI::ConfigItem> from_config(std::istream& in) const override {
    const toml::table table = ParseToml(std::string(std::istreambuf_iterator<char>(in), {}));
    std::vector<CLI::ConfigItem> items;
    for (const auto& [name, node] : table) {
      const std::string key(name.str());
      const CLI::Option* const option = app_.get_option_no_throw("--" + key);
      if (option == nullptr || !option->get_configurable()) {
        throw Refusal(
            absl::StrCat("unknown key \"", key, "\"; the keys are the names of the flags"));
      }
      CLI::ConfigItem item = ItemOf(key, node);
      CheckItem(*option, item);
      if (!item.inputs.empty() && !IsInEnvironment(option->get_envname())) {
        items.push_back(std::move(item));
      }
    }
    return items;
  }

  // All options, whether set or not.
  std::string to_config(const CLI::App* app, bool /*default_also*/, bool /*write_description*/,
                        std::string /*prefix*/) const override {
    std::string text;
    for (const CLI::Option* const option : app->get_options({})) {
      if (!option->get_configurable()) continue;
      std::vector<std::string> values = option->reduced_results();
      if (values.empty()) {
        const bool is_flag = option->get_expected_min() == 0;
        if (!IsEmptyByDefault(*option)) {
          values.push_back(is_flag ? "false" : option->get_default_str());
        }
      }
      const std::string value = absl::StrJoin(
          values, ", ",
          [](std::string* out, const std::string& v) { absl::StrAppend(out, TomlValue(v)); });
      absl::StrAppend(&text, option->get_single_name(), "=",
                      values.size() == 1 ? value : absl::StrCat("[", value, "]"), "\n");
    }
    return text;
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
  app.config_formatter(std::make_shared<TomlFile>(app));
}

std::string EffectiveConfig(const CLI::App& app) {
  return app.config_to_str(/*default_also=*/true, /*write_description=*/false);
}

}  // namespace quantd
