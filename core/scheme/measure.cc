#include "core/scheme/measure.h"

namespace quantd {
namespace {

template <typename T>
void Measure(const GroupMap& groups, int64_t first_elem, int64_t num_elems, const T* x, const T* y,
             MeterLanes<T>& lanes) {
  ForEachRun(groups, first_elem, num_elems, [&](int64_t begin, int64_t count) {
    MeasureSegment(x + begin, y + begin, count, lanes);
  });
}

}  // namespace

void MeasureDecoded(const Resolved& resolved, decltype(Scheme::decode) decode,
                    const Segment& segment, std::span<const std::byte> codes, Meter& meter) {
  const GroupMap& groups = resolved.layout.groups;
  const int64_t num_elems = segment.values.num_elems;
  if (segment.values.f32 != nullptr) {
    float y[kTileElems];
    decode(resolved, codes, segment.params, segment.first_elem, {y, nullptr, num_elems});
    Measure(groups, segment.first_elem, num_elems, segment.values.f32, y, meter.lanes<float>());
  } else {
    double y[kTileElems];
    decode(resolved, codes, segment.params, segment.first_elem, {nullptr, y, num_elems});
    Measure(groups, segment.first_elem, num_elems, segment.values.f64, y, meter.lanes<double>());
  }
}

}  // namespace quantd
