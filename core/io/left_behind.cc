// Entry: LeftBehind. Tested by tests/core/io/left_behind_test.cc.
#include "core/io/left_behind.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "absl/strings/string_view.h"
#include "core/io/output_file.h"

namespace quantd {
namespace {

constexpr absl::string_view kEnd = ".tmp";
constexpr size_t kNonceChars = 16;

// True if `name` is `prefix`, a nonce and the end, as TemporaryNameFor makes them.
bool IsTemporary(absl::string_view name, absl::string_view prefix) {
  if (!absl::ConsumePrefix(&name, prefix) || !absl::ConsumeSuffix(&name, kEnd)) return false;
  return name.size() == kNonceChars && std::all_of(name.begin(), name.end(), [](unsigned char c) {
           return absl::ascii_isxdigit(c);
         });
}

bool IsInUse(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0) return true;
  const bool locked = flock(fd, LOCK_EX | LOCK_NB) != 0;
  close(fd);
  return locked;
}

}  // namespace

void MarkAsInUse(int fd) {
  // Where the file system has no locks, nothing is ever taken for left behind.
  (void)flock(fd, LOCK_EX | LOCK_NB);
}

std::vector<std::string> LeftBehind(const std::string& path) {
  std::string target = path;
  while (target.size() > 1 && target.back() == '/') target.pop_back();
  // Temporary files lie beside what a link points to.
  const std::unique_ptr<char, decltype(&free)> real(realpath(target.c_str(), nullptr), free);
  if (real != nullptr) target = real.get();
  const std::string example = TemporaryNameFor(target);
  const size_t base = example.rfind('/') + 1;  // npos + 1 is 0
  const absl::string_view prefix = absl::string_view(example).substr(
      base, example.size() - base - kNonceChars - kEnd.size());
  const std::string folder = example.substr(0, base);

  std::vector<std::string> found;
  const std::unique_ptr<DIR, decltype(&closedir)> dir(
      opendir(folder.empty() ? "." : folder.c_str()), closedir);
  if (dir == nullptr) return found;
  while (const dirent* entry = readdir(dir.get())) {
    if (!IsTemporary(entry->d_name, prefix)) continue;
    std::string candidate = folder + entry->d_name;
    if (!IsInUse(candidate)) found.push_back(std::move(candidate));
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace quantd
