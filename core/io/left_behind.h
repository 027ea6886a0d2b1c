#ifndef QUANTD_CORE_IO_LEFT_BEHIND_H_
#define QUANTD_CORE_IO_LEFT_BEHIND_H_

#include <string>
#include <vector>

// What a process that was killed has left of an output: a file or folder under a temporary name
// (TemporaryNameFor), which nobody writes any more. Whoever writes one holds a lock on it, which
// the system takes back however the process ends.
namespace quantd {

// Marks the file or folder `fd` as being written until `fd` is closed.
void MarkAsInUse(int fd);

// Returns the paths, sorted, of what was left beside `path` by processes that wrote an output of
// that name. What cannot be looked into, or locked, is left out.
std::vector<std::string> LeftBehind(const std::string& path);

}  // namespace quantd

#endif  // QUANTD_CORE_IO_LEFT_BEHIND_H_
