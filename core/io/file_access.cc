// Who may read what is made of a file. A new file belongs to this process's user and group (in a
// folder with the setgid bit, and on some mounts, to the folder's group), so that the bits of a
// file of another group cannot be copied: -rw-r----- of group `secret` says that members of
// `secret` may read; with our group's bit set others might.
//
//   group's bit    if the other file has it, and is of our group or readable by others as well
//   others' bit    if the other file has it, and does not keep a group of its own out
//
// Entry: NoWiderThan. Tested by tests/core/io/file_access_test.cc.
#include "core/io/file_access.h"

#include <unistd.h>

#include "core/io/output_file.h"

namespace quantd {
namespace {

// Returns the group that a new file in the folder of `path` will have, as far as can be known.
gid_t GroupOfNewFile(const std::string& path) {
  struct stat info;
  const bool inherits = stat(FolderOf(path).c_str(), &info) == 0 && (info.st_mode & S_ISGID) != 0;
  return inherits ? info.st_gid : getegid();
}

}  // namespace

mode_t NoWiderThan(const struct stat& other, const std::string& path) {
  const bool same_group = other.st_gid == GroupOfNewFile(path);
  mode_t mode = S_IRUSR | S_IWUSR;
  for (const mode_t bit : {S_IROTH, S_IWOTH}) {
    const mode_t group_bit = bit << 3;
    const bool group = (other.st_mode & group_bit) != 0, others = (other.st_mode & bit) != 0;
    if (group && (same_group || others)) mode |= group_bit;
    if (others && (same_group || group)) mode |= bit;
  }
  return mode;
}

}  // namespace quantd
