#ifndef QUANTD_SERVER_CONFIG_FILE_H_
#define QUANTD_SERVER_CONFIG_FILE_H_

#include <CLI/CLI.hpp>
#include <string>

namespace quantd {

// Lets `app`, which has all its options, read them from a TOML file as well: --config FILE, or
// QUANTD_CONFIG. Keys are the long names of flags; others are errors. A flag goes before the
// environment, the environment before the file, the file before the default.
void AddConfigFile(CLI::App& app);

// Returns what is in effect after `app` was parsed, as such a file.
std::string EffectiveConfig(const CLI::App& app);

}  // namespace quantd

#endif  // QUANTD_SERVER_CONFIG_FILE_H_
