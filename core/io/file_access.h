#ifndef QUANTD_CORE_IO_FILE_ACCESS_H_
#define QUANTD_CORE_IO_FILE_ACCESS_H_

#include <sys/stat.h>
#include <sys/types.h>

#include <string>

namespace quantd {

// Returns which of the permissions rw-rw-rw- a new file at `path` may have without being readable,
// or writable, by more people than `other`: a file that it replaces, or that it comes from. The
// owner's are always among them. Group and others count only as far as they are the same people.
mode_t NoWiderThan(const struct stat& other, const std::string& path);

}  // namespace quantd

#endif  // QUANTD_CORE_IO_FILE_ACCESS_H_
