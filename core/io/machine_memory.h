#ifndef QUANTD_CORE_IO_MACHINE_MEMORY_H_
#define QUANTD_CORE_IO_MACHINE_MEMORY_H_

#include <cstdint>
#include <string>

namespace quantd {

// Returns how many bytes of memory this process may use: the least of the machine's and of the
// limits of its cgroup (version 2 or 1) and those above.
int64_t MachineMemoryBytes();

// The same, with the file systems that are under `root` instead of "/": for tests.
int64_t CgroupLimitBytes(const std::string& root);

}  // namespace quantd

#endif  // QUANTD_CORE_IO_MACHINE_MEMORY_H_
