// Tested by tests/e2e/test_output_access.py.
#include "client/cli/output_access.h"

#include <sys/stat.h>

#include <filesystem>
#include <system_error>

#include "core/io/file_access.h"

namespace quantd::cli {
namespace {

// Narrows the umask to what `info` allows. Who may not read may not enter a folder either.
void Narrow(const struct stat& info, const std::string& output) {
  const mode_t allowed = NoWiderThan(info, output);
  mode_t denied = 0;
  if ((allowed & S_IRGRP) == 0) denied |= S_IRWXG;
  if ((allowed & S_IROTH) == 0) denied |= S_IRWXO;
  umask(umask(0777) | denied);
}

}  // namespace

void NarrowOutputs(const std::string& input, const std::string& output) {
  struct stat info;
  if (stat(input.c_str(), &info) != 0) return;
  if (S_ISREG(info.st_mode)) Narrow(info, output);
  if (!S_ISDIR(info.st_mode)) return;  // a pipe does not say who may read what comes through it
  // What is in a folder is read by whom it lets enter.
  info.st_mode = (info.st_mode & S_IFMT) | ((info.st_mode & (S_IXGRP | S_IXOTH)) << 2);
  Narrow(info, output);
  std::error_code error;
  for (std::filesystem::directory_iterator entry(input, error), end; !error && entry != end;
       entry.increment(error)) {
    if (stat(entry->path().c_str(), &info) == 0 && S_ISREG(info.st_mode)) Narrow(info, output);
  }
}

}  // namespace quantd::cli
