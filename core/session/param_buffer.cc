// Entry: ParamBuffer. Tested with all that sessions write, by
// tests/core/session/quantize_session_test.cc.
#include "core/session/param_buffer.h"

namespace quantd {

void ParamBuffer::Reset(const PackedLayout& layout, GroupSpan groups) {
  groups_ = groups;
  for (size_t plane = 1; plane < layout.planes.size(); ++plane) {
    const PlaneDesc& desc = layout.planes[plane];
    if (desc.role != PlaneRole::kPerGroup) continue;
    const int64_t entries = CeilDiv(groups.count, desc.groups_per_entry);
    planes_[plane].resize(static_cast<size_t>(entries * layout.EntryBytes(plane)));
  }
  working_.resize(static_cast<size_t>(groups.count * layout.working_bytes));
}

ParamPlanes ParamBuffer::PlanesFrom(const PackedLayout& layout, const ParamPlanes& constants,
                                    int64_t first_group) {
  ParamPlanes planes = constants;
  planes.first_group = first_group;
  const int64_t from = first_group - groups_.first;
  for (size_t plane = 1; plane < layout.planes.size(); ++plane) {
    const PlaneDesc& desc = layout.planes[plane];
    if (desc.role != PlaneRole::kPerGroup) continue;
    planes.planes[plane] = std::span(planes_[plane])
                               .subspan(static_cast<size_t>(from / desc.groups_per_entry *
                                                            layout.EntryBytes(plane)));
  }
  planes.working = std::span(working_).subspan(static_cast<size_t>(from * layout.working_bytes));
  return planes;
}

}  // namespace quantd
