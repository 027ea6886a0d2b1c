#include "core/io/machine_memory.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace quantd {
namespace {

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

// Returns the number that the file holds; "max", or no such file: no limit.
int64_t LimitIn(const std::string& path) {
  std::ifstream file(path);
  std::string text;
  int64_t bytes = 0;
  if (!(file >> text) || !absl::SimpleAtoi(text, &bytes) || bytes <= 0) return kNoLimit;
  return bytes;
}

// Returns the least limit of the group at `path` below `mount` and of those above it.
int64_t LeastLimit(const std::string& mount, std::string path, const char* file) {
  int64_t least = LimitIn(absl::StrCat(mount, "/", file));
  while (path.size() > 1) {
    least = std::min(least, LimitIn(absl::StrCat(mount, path, "/", file)));
    path.resize(path.rfind('/'));
  }
  return least;
}

}  // namespace

int64_t CgroupLimitBytes(const std::string& root) {
  std::ifstream groups(absl::StrCat(root, "/proc/self/cgroup"));
  int64_t least = kNoLimit;
  for (std::string line; std::getline(groups, line);) {
    // | hierarchy id | : | controllers, none in version 2 | : | path |; cgroups(7)
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3 || !absl::StartsWith(parts[2], "/")) continue;
    if (parts[1].empty()) {
      least =
          std::min(least, LeastLimit(absl::StrCat(root, "/sys/fs/cgroup"), parts[2], "memory.max"));
    } else if (parts[1] == "memory") {
      least = std::min(least, LeastLimit(absl::StrCat(root, "/sys/fs/cgroup/memory"), parts[2],
                                         "memory.limit_in_bytes"));
    }
  }
  return least;
}

int64_t MachineMemoryBytes() {
  const int64_t machine_bytes =
      static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  return std::min(machine_bytes, CgroupLimitBytes(""));
}

}  // namespace quantd
