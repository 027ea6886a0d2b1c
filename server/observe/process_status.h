#ifndef QUANTD_SERVER_OBSERVE_PROCESS_STATUS_H_
#define QUANTD_SERVER_OBSERVE_PROCESS_STATUS_H_

#include <cstdint>

namespace quantd {

// What the system says of this process; 0 where it does not say.
struct ProcessStatus {
  int64_t resident_bytes = 0;
  int64_t open_descriptors = 0;
  int64_t max_descriptors = 0;
};

// Takes time that grows with the number of descriptors.
ProcessStatus ReadProcessStatus();

}  // namespace quantd

#endif  // QUANTD_SERVER_OBSERVE_PROCESS_STATUS_H_
