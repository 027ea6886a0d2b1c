#ifndef QUANTD_CORE_EXEC_ALLOCATOR_H_
#define QUANTD_CORE_EXEC_ALLOCATOR_H_

namespace quantd {

// Tunes malloc for a process through which received messages flow: pages that are freed and wanted
// again at once stay mapped, and yet what a burst has taken can go back (GiveMemoryBack). To be
// called at the beginning of main.
void TuneAllocator();

// Gives what is free to the system.
void GiveMemoryBack();

}  // namespace quantd

#endif  // QUANTD_CORE_EXEC_ALLOCATOR_H_
