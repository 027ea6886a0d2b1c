#include "server/observe/process_status.h"

#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>

namespace quantd {

ProcessStatus ReadProcessStatus() {
  ProcessStatus status;
  int64_t total_pages = 0, resident_pages = 0;
  std::ifstream("/proc/self/statm") >> total_pages >> resident_pages;  // proc(5)
  status.resident_bytes = resident_pages * sysconf(_SC_PAGESIZE);
  std::error_code error;
  const std::filesystem::directory_iterator begin("/proc/self/fd", error), end;
  // The descriptor by which the folder is read is one of them.
  if (!error) status.open_descriptors = std::distance(begin, end) - 1;
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    status.max_descriptors = static_cast<int64_t>(limit.rlim_cur);
  }
  return status;
}

}  // namespace quantd
