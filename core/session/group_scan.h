#ifndef QUANTD_CORE_SESSION_GROUP_SCAN_H_
#define QUANTD_CORE_SESSION_GROUP_SCAN_H_

#include <cstdint>
#include <span>

#include "core/calibrate/calibrator.h"
#include "core/exec/executor.h"
#include "core/scheme/group_map.h"
#include "core/session/window.h"

namespace quantd {

// Returns the last place in (begin, end] at which statistics may be cut without changing them: the
// end of a run, or a whole number of tiles after a run's start; `end` itself if there is none.
int64_t StatsCut(const GroupMap& groups, int64_t begin, int64_t end);

// True where each element of a row has a group of its own, the same in all rows.
bool AreColumns(const GroupMap& groups);

// Returns the most runs that a window of `window_elems` can touch.
int64_t MaxRuns(const GroupMap& groups, int64_t window_elems);

// Returns the most memory that ScanGroups takes for a window of `window_elems`, beside `stats`.
int64_t ScanScratchBytes(const GroupMap& groups, int64_t window_elems);

// Merges the statistics of the window's values into `stats`, by group; stats[0] is group
// `first_group`. The window begins and ends at cuts. With `moments`, tiles are counted from the
// start of each run and merge in order; without, mean and m2 stay 0. Results do not depend on the
// executor nor, at cuts, on the windows. Values that are not finite are left out.
void ScanGroups(const Window& window, const GroupMap& groups, bool moments, int64_t first_group,
                std::span<GroupStats> stats, Executor& executor);

// The same on the calling thread, without memory of its own; for windows that the cache holds, and
// not for columns, where it would be slow.
void ScanHere(const Window& window, const GroupMap& groups, bool moments, int64_t first_group,
              std::span<GroupStats> stats);

}  // namespace quantd

#endif  // QUANTD_CORE_SESSION_GROUP_SCAN_H_
