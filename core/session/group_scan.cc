#include "core/session/group_scan.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "core/simd/figures.h"
#include "core/simd/scan.h"

namespace quantd {
namespace {

// Elements that one task works on, about.
constexpr int64_t kTaskElems = 4 * kTileElems;

// Tasks whose pieces are held at once.
constexpr int64_t kTasksPerWave = 16;

// Statistics of a stretch that has one group.
struct Piece {
  int64_t group;
  GroupStats stats;
};

template <typename T>
GroupStats FromRange(const RunRange<T>& range) {
  GroupStats stats;
  if (!(range.min <= range.max)) return stats;
  stats.count = 1;  // "some": without moments only whether there is a value counts
  stats.min = range.min;
  stats.max = range.max;
  return stats;
}

template <typename T>
GroupStats StatsOf(const T* values, int64_t num_elems, bool moments) {
  if (!moments) {
    RunRange<T> range;
    ScanRuns(values, num_elems, 1, &range);
    return FromRange(range);
  }
  const TileFigures figures =
      MeasureTile(values, values, num_elems, std::numeric_limits<double>::infinity());
  GroupStats stats;
  stats.count = figures.count;
  if (figures.count == 0) return stats;
  stats.min = figures.min;
  stats.max = figures.max;
  stats.mean = figures.sum / static_cast<double>(figures.count);
  stats.m2 = figures.m2;
  return stats;
}

// Returns the most pieces that `num_elems` elements make.
int64_t MaxPieces(const GroupMap& groups, int64_t num_elems) {
  return MaxRuns(groups, num_elems) + num_elems / kTileElems;
}

// Goes over the runs of elements [begin, end) tile by tile.
template <typename T>
void ScanPieces(const Window& window, const GroupMap& groups, bool moments, int64_t begin,
                int64_t end, std::vector<Piece>& pieces) {
  T scratch[kTileElems];
  int64_t inexact = 0;
  pieces.reserve(static_cast<size_t>(MaxPieces(groups, end - begin)));
  for (RunWalker run(groups, begin, end); !run.done(); run.Next()) {
    for (int64_t done = 0; done < run.num_elems(); done += kTileElems) {
      const int64_t count = std::min(run.num_elems() - done, kTileElems);
      const T* values = LoadValues(window, run.elem() + done, count, scratch, inexact);
      pieces.push_back({run.group(), StatsOf(values, count, moments)});
    }
  }
}

// Goes over runs of equal length that are whole groups, many to a kernel call.
template <typename T>
void ScanShortRuns(const Window& window, int64_t run_elems, int64_t begin, int64_t end,
                   GroupStats* stats) {
  T scratch[kTileElems];
  RunRange<T> ranges[kTileElems];
  int64_t inexact = 0;
  const int64_t runs_per_tile = kTileElems / run_elems;
  while (begin < end) {
    const int64_t num_runs = std::min(runs_per_tile, (end - begin) / run_elems);
    const T* values = LoadValues(window, begin, num_runs * run_elems, scratch, inexact);
    ScanRuns(values, run_elems, num_runs, ranges);
    for (int64_t i = 0; i < num_runs; ++i) stats++->Merge(FromRange(ranges[i]));
    begin += num_runs * run_elems;
  }
}

void AddValue(double value, GroupStats& stats) {
  if (!std::isfinite(value)) return;
  value += 0.0;  // -0 is +0
  if (stats.count == 0) stats.min = stats.max = value;
  stats.min = std::min(stats.min, value);
  stats.max = std::max(stats.max, value);
  ++stats.count;
  const double delta = value - stats.mean;  // Welford
  stats.mean += delta / static_cast<double>(stats.count);
  stats.m2 += delta * (value - stats.mean);
}

// Columns: one group for each element of a row; `stats` are those of the columns from
// `first_group`, in which the window lies. Tasks take columns, so that each goes over its values in
// the order of the rows.
template <typename T>
void ScanColumnGroups(const Window& window, const GroupMap& groups, bool moments,
                      int64_t first_group, std::span<GroupStats> stats, Executor& executor) {
  constexpr int64_t kColumns = 256;
  const int64_t row_elems = groups.row_elems;
  const int64_t end_group = first_group + static_cast<int64_t>(stats.size());
  executor.ParallelFor(CeilDiv(end_group - first_group, kColumns), [&](int64_t task) {
    const int64_t first = first_group + task * kColumns;
    const int64_t last = std::min(first + kColumns, end_group);
    T scratch[kColumns], mins[kColumns], maxs[kColumns];
    std::fill_n(mins, kColumns, std::numeric_limits<T>::infinity());
    std::fill_n(maxs, kColumns, -std::numeric_limits<T>::infinity());
    int64_t inexact = 0;
    for (int64_t row = window.first_elem / row_elems; row * row_elems < window.end_elem(); ++row) {
      const int64_t begin = std::max(row * row_elems + first, window.first_elem);
      const int64_t end = std::min(row * row_elems + last, window.end_elem());
      if (begin >= end) continue;
      const T* values = LoadValues(window, begin, end - begin, scratch, inexact);
      const int64_t column = begin - row * row_elems;
      if (!moments) {
        ScanColumns(values, end - begin, mins + (column - first), maxs + (column - first));
        continue;
      }
      for (int64_t i = 0; i < end - begin; ++i) {
        AddValue(values[i], stats[static_cast<size_t>(column - first_group + i)]);
      }
    }
    if (moments) return;
    for (int64_t column = first; column < last; ++column) {
      stats[static_cast<size_t>(column - first_group)].Merge(
          FromRange(RunRange<T>{mins[column - first], maxs[column - first]}));
    }
  });
}

// True where each run of the window is another group, and all are of one length that a kernel call
// can take many of: results need no merging.
bool AreShortRuns(const Window& window, const GroupMap& groups, int64_t first_group,
                  std::span<const GroupStats> stats) {
  return groups.run_elems <= kTileElems && groups.row_elems % groups.run_elems == 0 &&
         window.num_elems == std::ssize(stats) * groups.run_elems && groups.band_rows == 1 &&
         groups.RunAt(window.first_elem).group == first_group;
}

template <typename T>
void ScanHereAs(const Window& window, const GroupMap& groups, bool moments, int64_t first_group,
                std::span<GroupStats> stats) {
  if (!moments && AreShortRuns(window, groups, first_group, stats)) {
    return ScanShortRuns<T>(window, groups.run_elems, window.first_elem, window.end_elem(),
                            stats.data());
  }
  T scratch[kTileElems];
  int64_t inexact = 0;
  for (RunWalker run(groups, window.first_elem, window.end_elem()); !run.done(); run.Next()) {
    GroupStats& group = stats[static_cast<size_t>(run.group() - first_group)];
    for (int64_t done = 0; done < run.num_elems(); done += kTileElems) {
      const int64_t count = std::min(run.num_elems() - done, kTileElems);
      group.Merge(
          StatsOf(LoadValues(window, run.elem() + done, count, scratch, inexact), count, moments));
    }
  }
}

template <typename T>
void ScanGroupsAs(const Window& window, const GroupMap& groups, bool moments, int64_t first_group,
                  std::span<GroupStats> stats, Executor& executor) {
  if (AreColumns(groups)) {
    return ScanColumnGroups<T>(window, groups, moments, first_group, stats, executor);
  }
  std::vector<int64_t> cuts = {window.first_elem};
  while (cuts.back() < window.end_elem()) {
    const int64_t target = std::min(cuts.back() + kTaskElems, window.end_elem());
    cuts.push_back(StatsCut(groups, cuts.back(), target));
  }
  const int64_t num_tasks = static_cast<int64_t>(cuts.size()) - 1;
  if (!moments && AreShortRuns(window, groups, first_group, stats)) {
    executor.ParallelFor(num_tasks, [&](int64_t task) {
      const int64_t begin = cuts[static_cast<size_t>(task)],
                    end = cuts[static_cast<size_t>(task) + 1];
      const int64_t group = groups.RunAt(begin).group;
      ScanShortRuns<T>(window, groups.run_elems, begin, end,
                       &stats[static_cast<size_t>(group - first_group)]);
    });
    return;
  }
  for (int64_t first_task = 0; first_task < num_tasks; first_task += kTasksPerWave) {
    std::array<std::vector<Piece>, kTasksPerWave> pieces;
    executor.ParallelFor(std::min(kTasksPerWave, num_tasks - first_task), [&](int64_t i) {
      const size_t task = static_cast<size_t>(first_task + i);
      ScanPieces<T>(window, groups, moments, cuts[task], cuts[task + 1],
                    pieces[static_cast<size_t>(i)]);
    });
    for (const std::vector<Piece>& task : pieces) {
      for (const Piece& piece : task) {
        stats[static_cast<size_t>(piece.group - first_group)].Merge(piece.stats);
      }
    }
  }
}

}  // namespace

bool AreColumns(const GroupMap& groups) {
  return groups.run_elems == 1 && groups.row_elems > 1 && groups.batches_share;
}

int64_t MaxRuns(const GroupMap& groups, int64_t window_elems) {
  // Each row may have a shorter last run, and a window cuts its first and last run.
  return SaturatingAdd(SaturatingAdd(window_elems / groups.run_elems, 3),
                       window_elems / groups.row_elems);
}

int64_t ScanScratchBytes(const GroupMap& groups, int64_t window_elems) {
  if (AreColumns(groups)) return 0;
  const int64_t num_tasks = CeilDiv(window_elems, kTaskElems);
  const int64_t wave_tasks = std::min(num_tasks, kTasksPerWave);
  const int64_t task_elems = std::min(kTaskElems, window_elems);
  return SaturatingAdd(SaturatingMul(wave_tasks * MaxPieces(groups, task_elems), sizeof(Piece)),
                       SaturatingMul(2 * num_tasks + 2, sizeof(int64_t)));
}

int64_t StatsCut(const GroupMap& groups, int64_t begin, int64_t end) {
  const GroupMap::Run run = groups.RunAt(end - 1);
  if (run.end_elem == end) return end;
  const int64_t row_start = (end - 1) / groups.row_elems * groups.row_elems;
  const int64_t run_start = row_start + (end - 1 - row_start) / groups.run_elems * groups.run_elems;
  const int64_t tiles_end = run_start + (end - run_start) / kTileElems * kTileElems;
  if (tiles_end > begin) return tiles_end;
  return end;
}

void ScanHere(const Window& window, const GroupMap& groups, bool moments, int64_t first_group,
              std::span<GroupStats> stats) {
  if (WorksAsF32(window.dtype)) {
    ScanHereAs<float>(window, groups, moments, first_group, stats);
  } else {
    ScanHereAs<double>(window, groups, moments, first_group, stats);
  }
}

void ScanGroups(const Window& window, const GroupMap& groups, bool moments, int64_t first_group,
                std::span<GroupStats> stats, Executor& executor) {
  if (window.num_elems == 0) return;
  if (WorksAsF32(window.dtype)) {
    ScanGroupsAs<float>(window, groups, moments, first_group, stats, executor);
  } else {
    ScanGroupsAs<double>(window, groups, moments, first_group, stats, executor);
  }
}

}  // namespace quantd
