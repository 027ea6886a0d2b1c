// How stripes share out what they find, which follows from the layout and from what is wanted:
//
//   kOwn        int8:group=128         a group lies in one stripe, which writes to its place
//   kByThread   int8:axis=-1           columns recur in all stripes: who scans takes a set of
//                                      ranges, widens it and puts it back; sets merge at the end
//   kInOrder    int8, int8:axis=-1,    each stripe returns its own, which merge in stripe order
//               range=3sigma
//
// Ranges and counts are the same in any order; sums of floats are not (0.1 + (0.2 + 0.3) is 0.6,
// (0.1 + 0.2) + 0.3 is not), so moments and magnitudes are never by thread. Ranges cost a pass of
// ScanRuns or ScanColumns, moments one of MeasureTile, magnitudes one of SumMagnitudes; sums of
// columns go value by value, the slowest way.
//
// Source: Welford, "Note on a method for calculating corrected sums of squares and products", 1962;
// GroupStats::Merge has that of merging.
//
// Entry: EvidenceCollector; ScanTile for groups of a tile. Tested by
// tests/core/session/evidence_test.cc and, against what quantizing finds by itself,
// calibration_test.cc and quantize_session_test.cc.
#include "core/session/evidence.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "core/base/checked_math.h"
#include "core/session/outliers.h"
#include "core/simd/meter.h"
#include "core/simd/scan.h"

namespace quantd {
namespace {

template <typename T>
GroupStats FromRange(const RunRange<T>& range) {
  GroupStats stats;
  if (!(range.min <= range.max)) return stats;
  stats.count = 1;  // "some"
  stats.min = range.min;
  stats.max = range.max;
  return stats;
}

template <typename T>
int64_t CountNonFinite(const T* values, int64_t num_elems) {
  if (AllFinite(values, num_elems)) return 0;
  int64_t count = 0;
  for (int64_t i = 0; i < num_elems; ++i) count += !std::isfinite(LoadAt(values, i));
  return count;
}

template <typename T>
GroupStats MomentsOf(const T* values, int64_t num_elems) {
  const TileFigures figures = MeasureTile(values, values, num_elems);
  GroupStats stats;
  stats.count = figures.count;
  if (figures.count == 0) return stats;
  stats.min = figures.min;
  stats.max = figures.max;
  stats.mean = figures.sum / static_cast<double>(figures.count);
  stats.m2 = figures.m2;
  return stats;
}

template <typename T>
GroupStats StatsOf(const T* values, int64_t num_elems, const EvidenceWants& wants) {
  GroupStats stats;
  if (wants.moments) {
    stats = MomentsOf(values, num_elems);
  } else {
    RunRange<T> range;
    ScanRuns(values, num_elems, 1, &range);
    stats = FromRange(range);
  }
  if (!wants.magnitudes || stats.count == 0) return stats;
  stats.count = num_elems - CountNonFinite(values, num_elems);
  stats.magnitudes = SumMagnitudes(values, num_elems);
  return stats;
}

void AddValue(double value, const EvidenceWants& wants, GroupStats& stats) {
  if (!std::isfinite(value)) return;
  value += 0.0;  // -0 is +0
  if (stats.count == 0) stats.min = stats.max = value;
  stats.min = std::min(stats.min, value);
  stats.max = std::max(stats.max, value);
  ++stats.count;
  if (wants.magnitudes) {
    stats.magnitudes += std::min<double>(std::fabs(value), std::numeric_limits<float>::max());
  }
  if (!wants.moments) return;
  const double delta = value - stats.mean;  // Welford
  stats.mean += delta / static_cast<double>(stats.count);
  stats.m2 += delta * (value - stats.mean);
}

// Each element of a row has a group of its own, the same in all rows.
bool AreColumns(const GroupMap& groups) {
  return groups.run_elems == 1 && groups.row_elems > 1 && groups.batches_share;
}

// Calls fn(values, count, column) for the parts of rows that lie in elements [begin, + num_elems).
template <typename T, typename Fn>
void ForEachRowPart(const T* values, int64_t begin, int64_t num_elems, int64_t row_elems, Fn fn) {
  for (int64_t done = 0; done < num_elems;) {
    const int64_t column = (begin + done) % row_elems;
    const int64_t count = std::min(row_elems - column, num_elems - done);
    fn(values + done, count, column);
    done += count;
  }
}

// Widens the ranges of columns, or of runs that recur.
template <typename T>
void WidenRanges(const T* values, int64_t begin, int64_t num_elems, const GroupMap& groups,
                 T* mins, T* maxs) {
  if (AreColumns(groups)) {
    ForEachRowPart(values, begin, num_elems, groups.row_elems,
                   [&](const T* part, int64_t count, int64_t column) {
                     ScanColumns(part, count, mins + column, maxs + column);
                   });
    return;
  }
  for (RunWalker run(groups, begin, begin + num_elems); !run.done(); run.Next()) {
    RunRange<T> range;
    ScanRuns(values + (run.elem() - begin), run.num_elems(), 1, &range);
    T& min = mins[run.group()];
    T& max = maxs[run.group()];
    min = std::min(min, range.min);
    max = std::max(max, range.max);
  }
}

// Makes room in `part` for the statistics of elements [begin, end).
void PlaceStats(const GroupMap& groups, int64_t begin, int64_t end,
                EvidenceCollector::Part& part) {
  const int64_t first_row = begin / groups.row_elems, last_row = (end - 1) / groups.row_elems;
  const int64_t first = groups.RunAt(begin).group, last = groups.RunAt(end - 1).group;
  part.first_group = first;
  part.period = groups.num_groups;
  int64_t count = MaxGroups(groups, end - begin);
  if (groups.band_rows > 1) {
    const int64_t base = groups.RowGroup(first_row), last_base = groups.RowGroup(last_row);
    if (base == last_base) {  // within one band of rows, round its groups at most once
      part.period = groups.runs_per_row;
    } else {  // all groups of a band that has more than one row here
      if (groups.RowGroup(first_row + 1) == base) part.first_group = base;
      const bool more = groups.RowGroup(last_row - 1) == last_base;
      count = (more ? last_base + groups.runs_per_row : last + 1) - part.first_group;
    }
  }
  part.stats.resize(static_cast<size_t>(std::min(part.period, count)));
}

template <typename T>
void AddToHistogram(const T* values, int64_t num_elems, Histogram& histogram) {
  if constexpr (sizeof(T) == sizeof(float)) {
    const bool is_aligned = reinterpret_cast<uintptr_t>(values) % alignof(float) == 0;
    if (is_aligned) return histogram.Add({values, static_cast<size_t>(num_elems)});
  }
  float narrow[kTileElems];
  NarrowToF32(values, num_elems, narrow);
  histogram.Add({narrow, static_cast<size_t>(num_elems)});
}

}  // namespace

GroupMap WholeTensor(int64_t num_elems) {
  GroupMap whole;
  whole.row_elems = whole.run_elems = std::max<int64_t>(num_elems, 1);
  return whole;
}

template <typename T>
void ScanTile(const T* values, int64_t begin, int64_t num_elems, const GroupMap& groups,
              const EvidenceWants& wants, int64_t first_group, std::span<GroupStats> stats) {
  // Groups before the first one come again: in a band of rows with the next row, else with the next
  // batch.
  const int64_t period = groups.band_rows > 1 ? groups.runs_per_row : groups.num_groups;
  const auto group_at = [&](int64_t group) -> GroupStats& {
    const int64_t i = group - first_group;
    return stats[static_cast<size_t>(i < 0 ? i + period : i)];
  };
  if (AreColumns(groups) && wants.sums()) {
    ForEachRowPart(values, begin, num_elems, groups.row_elems,
                   [&](const T* part, int64_t count, int64_t column) {
                     for (int64_t i = 0; i < count; ++i) {
                       AddValue(LoadAt(part, i), wants, group_at(column + i));
                     }
                   });
    return;
  }
  RunWalker run(groups, begin, begin + num_elems);
  while (!run.done()) {
    const T* at = values + (run.elem() - begin);
    // Whole runs of one length that are a group each: many to a kernel call.
    const int64_t run_elems = groups.run_elems;
    if (!wants.sums() && groups.band_rows == 1 && !groups.batches_share && run_elems < kTileElems / 2 &&
        groups.row_elems % run_elems == 0 && run.num_elems() == run_elems) {
      const int64_t num_runs = (begin + num_elems - run.elem()) / run_elems;
      RunRange<T> ranges[kTileElems];
      ScanRuns(at, run_elems, num_runs, ranges);
      for (int64_t i = 0; i < num_runs; ++i) group_at(run.group() + i).Merge(FromRange(ranges[i]));
      const int64_t next = run.elem() + num_runs * run_elems;
      if (next == begin + num_elems) return;
      group_at(run.group() + num_runs)
          .Merge(StatsOf(values + (next - begin), begin + num_elems - next, wants));
      return;
    }
    group_at(run.group()).Merge(StatsOf(at, run.num_elems(), wants));
    run.Next();
  }
}

template void ScanTile<float>(const float*, int64_t, int64_t, const GroupMap&, const EvidenceWants&,
                              int64_t, std::span<GroupStats>);
template void ScanTile<double>(const double*, int64_t, int64_t, const GroupMap&,
                               const EvidenceWants&, int64_t, std::span<GroupStats>);

EvidenceCollector::Kind EvidenceCollector::KindOf(const PackedLayout& layout,
                                                  const GroupMap& groups, int64_t num_elems,
                                                  const EvidenceWants& wants) {
  const bool of_layout = groups.num_groups == layout.groups.num_groups;
  if (of_layout && groups.IsLocal(num_elems) &&
      MaxBandElems(layout, num_elems) <= kStripeElems) {
    return Kind::kOwn;
  }
  const bool recur = groups.num_groups > 1 && !groups.IsLocal(num_elems);
  return recur && !wants.sums() ? Kind::kByThread : Kind::kInOrder;
}

EvidenceCollector::EvidenceCollector(const PackedLayout& layout, const GroupMap& groups,
                                     int64_t num_elems, DType dtype, const EvidenceWants& wants,
                                     int64_t begin, int64_t end)
    : layout_(layout),
      groups_(groups),
      dtype_(dtype),
      wants_(wants),
      kind_(KindOf(layout, groups, num_elems, wants)) {
  if (wants.sketches) sketches_ = std::make_unique<GroupSketches>(groups);
  if (begin == 0 && end == num_elems) {
    stats_.resize(static_cast<size_t>(groups.num_groups));
  } else {  // a band
    const GroupSpan span = GroupsOf(layout, begin, end);
    first_group_ = span.first;
    stats_.resize(static_cast<size_t>(span.count));
  }
}

int64_t EvidenceCollector::ResidentBytes(const PackedLayout& layout, const GroupMap& groups,
                                         int64_t num_elems, DType dtype,
                                         const EvidenceWants& wants, int64_t band_elems,
                                         int threads, int64_t stripes_in_flight) {
  const bool whole = band_elems >= num_elems;
  const GroupMap& map = groups;
  const int64_t band_groups = whole ? map.num_groups : MaxGroups(map, band_elems);
  int64_t bytes = SaturatingMul(band_groups, sizeof(GroupStats));
  const auto add = [&bytes](int64_t more) { bytes = SaturatingAdd(bytes, more); };
  const int64_t elem_bytes = WorksAsF32(dtype) ? sizeof(float) : sizeof(double);
  switch (KindOf(layout, groups, num_elems, wants)) {
    case Kind::kOwn:
      break;
    case Kind::kByThread:
      add(SaturatingMul(threads, SaturatingMul(map.num_groups, 2 * elem_bytes)));
      break;
    case Kind::kInOrder: {
      const int64_t stripe_groups =
          std::min(band_groups, MaxGroups(map, std::min(num_elems, kStripeElems)));
      add(SaturatingMul(stripes_in_flight, stripe_groups * int64_t{sizeof(GroupStats)}));
      break;
    }
  }
  const int64_t stripe_elems = std::min(num_elems, kStripeElems);
  add(SaturatingMul(stripes_in_flight, FindOutliersBytes(layout, stripe_elems)));
  if (wants.histogram) {
    add(SaturatingMul(threads + 1, Histogram::kNumBuckets * int64_t{sizeof(int64_t)}));
  }
  if (wants.sketches) add(GroupSketches::ResidentBytes(map.num_groups));
  return bytes;
}

std::unique_ptr<EvidenceCollector::Slot> EvidenceCollector::TakeSlot() {
  {
    MutexLock lock(&mutex_);
    if (!slots_.empty()) {
      std::unique_ptr<Slot> slot = std::move(slots_.back());
      slots_.pop_back();
      return slot;
    }
  }
  auto slot = std::make_unique<Slot>();
  if (wants_.histogram) slot->histogram = std::make_unique<Histogram>();
  if (kind_ == Kind::kByThread) {
    const size_t groups = static_cast<size_t>(groups_.num_groups);
    if (WorksAsF32(dtype_)) {
      slot->mins32.assign(groups, std::numeric_limits<float>::infinity());
      slot->maxs32.assign(groups, -std::numeric_limits<float>::infinity());
    } else {
      slot->mins64.assign(groups, std::numeric_limits<double>::infinity());
      slot->maxs64.assign(groups, -std::numeric_limits<double>::infinity());
    }
  }
  return slot;
}

EvidenceCollector::Part EvidenceCollector::Scan(const Stripe& stripe, const ByteRange& values) {
  Part part;
  if (stripe.num_elems() == 0) return part;
  const bool needs_slot = wants_.histogram || kind_ == Kind::kByThread;
  std::unique_ptr<Slot> slot = needs_slot ? TakeSlot() : nullptr;
  if (WorksAsF32(dtype_)) {
    ScanAs<float>(stripe, values, slot.get(), part);
  } else {
    ScanAs<double>(stripe, values, slot.get(), part);
  }
  if (slot != nullptr) {
    MutexLock lock(&mutex_);
    slots_.push_back(std::move(slot));
  }
  return part;
}

template <typename T>
void EvidenceCollector::ScanAs(const Stripe& stripe, const ByteRange& values, Slot* slot,
                               Part& part) {
  const std::vector<int64_t> outliers =
      FindOutliers(layout_, dtype_, stripe.begin, stripe.end, values);
  TileReader<T> reader(dtype_, values, stripe.begin, outliers);
  std::span<GroupStats> stats = stats_;
  int64_t first_group = first_group_;
  if (kind_ == Kind::kInOrder) {
    PlaceStats(groups_, stripe.begin, stripe.end, part);
    first_group = part.first_group;
    stats = part.stats;
  }
  for (int64_t begin = stripe.begin; begin < stripe.end;) {
    const int64_t end = TileEnd(layout_, begin, stripe.end);
    const int64_t num_elems = end - begin;
    const T* tile = reader.Read(begin, end);
    if (wants_.non_finite) part.non_finite += CountNonFinite(tile, num_elems);
    if (slot != nullptr && slot->histogram != nullptr) {
      AddToHistogram(tile, num_elems, *slot->histogram);
    }
    if (kind_ != Kind::kByThread) {
      ScanTile(tile, begin, num_elems, groups_, wants_, first_group, stats);
    } else if constexpr (sizeof(T) == 4) {
      WidenRanges(tile, begin, num_elems, groups_, slot->mins32.data(), slot->maxs32.data());
    } else {
      WidenRanges(tile, begin, num_elems, groups_, slot->mins64.data(), slot->maxs64.data());
    }
    begin = end;
  }
  if (sketches_ != nullptr) sketches_->Add(stripe, reader);
}

void EvidenceCollector::Merge(const Part& part) {
  non_finite_ += part.non_finite;
  const int64_t first = part.first_group % part.period, base = part.first_group - first;
  for (size_t i = 0; i < part.stats.size(); ++i) {
    if (part.stats[i].count == 0) continue;
    const int64_t group = base + (first + static_cast<int64_t>(i)) % part.period;
    stats_[static_cast<size_t>(group - first_group_)].Merge(part.stats[i]);
  }
}

std::vector<GroupStats> EvidenceCollector::TakeStats() {
  MutexLock lock(&mutex_);
  for (const std::unique_ptr<Slot>& slot : slots_) {
    for (size_t i = 0; i < slot->mins32.size(); ++i) {
      stats_[i].Merge(FromRange(RunRange<float>{slot->mins32[i], slot->maxs32[i]}));
    }
    for (size_t i = 0; i < slot->mins64.size(); ++i) {
      stats_[i].Merge(FromRange(RunRange<double>{slot->mins64[i], slot->maxs64[i]}));
    }
  }
  return std::move(stats_);
}

std::unique_ptr<Histogram> EvidenceCollector::TakeHistogram() {
  MutexLock lock(&mutex_);
  if (!wants_.histogram) return nullptr;
  std::unique_ptr<Histogram> all;
  for (const std::unique_ptr<Slot>& slot : slots_) {
    if (all == nullptr) {
      all = std::move(slot->histogram);
    } else {
      all->Merge(*slot->histogram).IgnoreError();  // counts of values that exist fit
    }
  }
  if (all == nullptr) all = std::make_unique<Histogram>();
  return all;
}

std::vector<Sketch> EvidenceCollector::TakeSketches() {
  return sketches_ == nullptr ? std::vector<Sketch>() : sketches_->Take();
}

}  // namespace quantd
