#ifndef QUANTD_CORE_SCHEME_ELEM_SCALES_H_
#define QUANTD_CORE_SCHEME_ELEM_SCALES_H_

#include <algorithm>
#include <cstdint>

#include "core/scheme/params.h"

namespace quantd {

// The f32 entries of plane `plane` for a segment, one for each element whatever the runs: kernels
// that do little else with them than to read them need no loop over runs.
class ElemScales {
 public:
  ElemScales(const Resolved& resolved, size_t plane, const ParamView& params, int64_t first_elem,
             int64_t num_elems) {
    const ParamMap map(resolved.layout.groups, first_elem, num_elems);
    scales_ = ReadScales(resolved.layout.planes[plane], params.planes[plane], params.first_group,
                         map, own_);
    if (map.per_elem()) return;
    int32_t ends[kMaxRuns];
    const int64_t num_runs = map.RunEnds(ends);
    int64_t begin = 0;
    for (int64_t run = 0; run < num_runs; ++run) {
      std::fill(spread_ + begin, spread_ + ends[run], LoadAt(scales_, run));
      begin = ends[run];
    }
    scales_ = spread_;
  }
  ElemScales(const ElemScales&) = delete;
  ElemScales& operator=(const ElemScales&) = delete;

  // At any alignment.
  const float* data() const { return scales_; }

 private:
  const float* scales_;
  float own_[kTileElems], spread_[kTileElems];
};

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_ELEM_SCALES_H_
