#ifndef QUANTD_CORE_SCHEME_GROUP_ENTRIES_H_
#define QUANTD_CORE_SCHEME_GROUP_ENTRIES_H_

#include <cstdint>

#include "core/scheme/group_map.h"
#include "core/scheme/scheme.h"

namespace quantd {

// Calls fn(entry, begin, count) for the runs of elements [first_elem, + num_elems), counted from
// there, with the entry of `params` that they have: for kernels that take a run at a time.
template <typename Fn>
void ForEachEntry(const GroupMap& groups, const ParamView& params, int64_t first_elem,
                  int64_t num_elems, Fn fn) {
  if (groups.num_groups <= 1) return fn(int64_t{0}, int64_t{0}, num_elems);
  for (RunWalker run(groups, first_elem, first_elem + num_elems); !run.done(); run.Next()) {
    fn(run.group() - params.first_group, run.elem() - first_elem, run.num_elems());
  }
}

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_GROUP_ENTRIES_H_
