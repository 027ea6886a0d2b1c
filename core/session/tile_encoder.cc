#include "core/session/tile_encoder.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/status_macros.h"
#include "core/simd/scan.h"

namespace quantd {
namespace {

// Tiles whose codes are taken at once, while they are in the L1 cache.
constexpr int64_t kTilesPerStep = 4;

// Tiles whose results are held at once: windows of short, padded rows have very many.
constexpr int64_t kTilesPerWave = 1024;

TileView ViewOf(const float* values, int64_t num_elems) { return {values, nullptr, num_elems}; }
TileView ViewOf(const double* values, int64_t num_elems) { return {nullptr, values, num_elems}; }
TileSpan SpanOf(float* values, int64_t num_elems) { return {values, nullptr, num_elems}; }
TileSpan SpanOf(double* values, int64_t num_elems) { return {nullptr, values, num_elems}; }

// Copies finite values; NaN becomes 0, infinities the largest values, which saturate.
template <typename T>
void Sanitize(const T* values, int64_t num_elems, T* out) {
  for (int64_t i = 0; i < num_elems; ++i) {
    const T value = values[i];
    out[i] = std::isnan(value) ? T{0}
                               : std::clamp(value, std::numeric_limits<T>::lowest(),
                                            std::numeric_limits<T>::max());
  }
}

}  // namespace

TileEncoder::TileEncoder(const Scheme& scheme, const Resolved& resolved, bool figures,
                         Executor& executor)
    : scheme_(scheme),
      resolved_(resolved),
      figures_(figures),
      executor_(executor),
      grid_(resolved.layout) {
  report_.has_figures = figures;
}

absl::Status TileEncoder::Encode(const Window& window, const ParamView& params,
                                 std::span<std::byte> codes, const WindowTasks& tasks) {
  if (window.num_elems == 0) return absl::OkStatus();
  return WorksAsF32(window.dtype) ? EncodeAs<float>(window, params, codes, tasks)
                                  : EncodeAs<double>(window, params, codes, tasks);
}

int64_t TileEncoder::ResidentBytes(const Resolved& resolved, int64_t window_elems) {
  const int64_t row_elems = std::max<int64_t>(resolved.layout.row_elems, 1);
  const int64_t tiles = SaturatingAdd(window_elems / kTileElems, window_elems / row_elems + 2);
  const int64_t result_bytes = sizeof(TileResult) + kMaxNonFiniteListed * sizeof(int64_t);
  const bool one_window = window_elems >= resolved.tensor.shape.num_elems();
  const int64_t carry_bytes =
      WorksAsF32(resolved.tensor.dtype) ? sizeof(Carry<float>) : sizeof(Carry<double>);
  return std::min(tiles, kTilesPerWave) * result_bytes + (one_window ? 0 : 2 * carry_bytes);
}

template <>
TileEncoder::Carry<float>& TileEncoder::CarryOf<float>(int64_t tile) {
  carry_f32_.resize(2);
  return carry_f32_[CarryPlace(tile)];
}
template <>
TileEncoder::Carry<double>& TileEncoder::CarryOf<double>(int64_t tile) {
  carry_f64_.resize(2);
  return carry_f64_[CarryPlace(tile)];
}

int64_t TileEncoder::TileFrom(const Window& window, int64_t elem) const {
  const int64_t tile = grid_.TileOf(elem);
  return elem == window.first_elem || grid_.Begin(tile) == elem ? tile : tile + 1;
}

int64_t TileEncoder::TileBehind(const Window& window, int64_t elem) const {
  return elem == window.end_elem() ? grid_.TileOf(elem - 1) + 1 : grid_.TileOf(elem);
}

template <typename T>
absl::Status TileEncoder::EncodeAs(const Window& window, const ParamView& params,
                                   std::span<std::byte> codes, const WindowTasks& tasks) {
  const int64_t first_tile = grid_.TileOf(window.first_elem);
  const int64_t last_tile = grid_.TileOf(window.end_elem() - 1);
  const bool cuts_tiles =
      grid_.Begin(first_tile) < window.first_elem || grid_.End(last_tile) > window.end_elem();
  if (figures_ && cuts_tiles) CarryOf<T>(0);  // made before tasks use it
  const size_t num_tasks = tasks.cuts.size() - 1;
  for (size_t begin = 0, end = 0; begin < num_tasks; begin = end) {
    const int64_t wave_end = grid_.TileOf(tasks.cuts[begin]) + kTilesPerWave;
    end = begin + 1;
    while (end < num_tasks && TileBehind(window, tasks.cuts[end + 1]) <= wave_end) ++end;
    QUANTD_RETURN_IF_ERROR(EncodeTasks<T>(window, params, codes, tasks, begin, end));
  }
  if (grid_.End(last_tile) > window.end_elem() && last_tile != open_tile_) {
    open_place_ = 1 - open_place_;  // where CarryOf has put it
    open_tile_ = last_tile;
  }
  return absl::OkStatus();
}

template <typename T>
absl::Status TileEncoder::EncodeTasks(const Window& window, const ParamView& params,
                                      std::span<std::byte> codes, const WindowTasks& tasks,
                                      size_t first_task, size_t end_task) {
  const int64_t first_tile = grid_.TileOf(tasks.cuts[first_task]);
  const int64_t num_tiles = TileBehind(window, tasks.cuts[end_task]) - first_tile;
  std::vector<TileResult>& results = results_;
  results.clear();  // keeps its memory
  results.resize(static_cast<size_t>(num_tiles));
  executor_.ParallelFor(static_cast<int64_t>(end_task - first_task), [&](int64_t i) {
    EncodeTask<T>(window, params, codes, tasks, first_task + static_cast<size_t>(i), first_tile,
                  results);
  });
  for (size_t task = first_task; task < end_task; ++task) {
    const int64_t tile = grid_.TileOf(tasks.cuts[task]);
    if (TileFrom(window, tasks.cuts[task]) == tile) continue;
    EncodeTile<T>(window, params, codes, tile, report_.figures.max_error,
                  results[static_cast<size_t>(tile - first_tile)]);
  }
  for (int64_t i = 0; i < num_tiles; ++i) {
    TileResult& result = results[static_cast<size_t>(i)];
    QUANTD_RETURN_IF_ERROR(MergeCounts(result));
    if (!figures_) continue;
    const int64_t begin = grid_.Begin(first_tile + i), end = grid_.End(first_tile + i);
    if (end > window.end_elem()) continue;  // still to be completed
    if (begin < window.first_elem) {
      const Carry<T>& carry = CarryOf<T>(first_tile + i);
      result.figures =
          MeasureTile(carry.x.data(), carry.y.data(), end - begin, report_.figures.max_error);
    }
    MergeFigures(result.figures, begin);
  }
  return absl::OkStatus();
}

template <typename T>
void TileEncoder::EncodeTask(const Window& window, const ParamView& params,
                             std::span<std::byte> codes, const WindowTasks& tasks, size_t task,
                             int64_t first_tile, std::span<TileResult> results) {
  const PackedLayout& layout = resolved_.layout;
  const int64_t window_offset = layout.CodeOffset(window.first_elem);
  double known_error = report_.figures.max_error;
  int64_t tile = TileFrom(window, tasks.cuts[task]);
  for (int64_t elem = tasks.cuts[task]; elem < tasks.cuts[task + 1];) {
    elem = tasks.prepare(task, elem);
    const int64_t end_tile = TileBehind(window, elem);
    while (tile < end_tile) {
      const int64_t step_begin = std::max(grid_.Begin(tile), window.first_elem);
      const int64_t step_tile = std::min(tile + kTilesPerStep, end_tile);
      for (; tile < step_tile; ++tile) {
        TileResult& result = results[static_cast<size_t>(tile - first_tile)];
        EncodeTile<T>(window, params, codes, tile, known_error, result);
        known_error = std::max(known_error, result.figures.max_error);
      }
      const int64_t step_end = std::min(grid_.End(tile - 1), window.end_elem());
      const int64_t begin = layout.CodeOffset(step_begin) - window_offset;
      const int64_t end = layout.CodeOffset(step_end) - window_offset;
      tasks.take(task, codes.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)));
    }
  }
}

template <typename T>
void TileEncoder::EncodeTile(const Window& window, const ParamView& params,
                             std::span<std::byte> codes, int64_t tile, double known_error,
                             TileResult& result) {
  const int64_t tile_begin = grid_.Begin(tile), tile_end = grid_.End(tile);
  const int64_t begin = std::max(tile_begin, window.first_elem);
  const int64_t end = std::min(tile_end, window.end_elem());
  const int64_t num_elems = end - begin;
  T widened[kTileElems], finite[kTileElems], decoded[kTileElems];
  const T* values = LoadValues(window, begin, num_elems, widened, result.inexact);
  const PackedLayout& layout = resolved_.layout;
  const int64_t window_offset = layout.CodeOffset(window.first_elem);
  const int64_t offset = layout.CodeOffset(begin), size_bytes = layout.CodeOffset(end) - offset;
  const std::span<std::byte> out =
      codes.subspan(static_cast<size_t>(offset - window_offset), static_cast<size_t>(size_bytes));
  const bool whole = begin == tile_begin && end == tile_end;
  T* y = whole || !figures_ ? decoded : CarryOf<T>(tile).y.data() + (begin - tile_begin);
  const auto encode = [&](const T* encodable) {
    result.counts = {};
    scheme_.encode(resolved_, {ViewOf(encodable, num_elems), begin, params}, out, &result.counts);
    if (!figures_) return;
    scheme_.decode(resolved_, out, params, begin, SpanOf(y, num_elems));
    if (whole) result.figures = MeasureTile(values, y, num_elems, known_error);
  };
  if constexpr (std::is_same_v<T, float>) {
    if (whole && figures_ && scheme_.encode_measured != nullptr) {
      const std::optional<TileFigures> figures = scheme_.encode_measured(
          resolved_, {ViewOf(values, num_elems), begin, params}, out, &result.counts);
      if (figures.has_value()) {
        result.figures = *figures;
        if (figures->max_error > known_error) {
          scheme_.decode(resolved_, out, params, begin, SpanOf(y, num_elems));
          result.figures.max_error_idx = IndexOfError(values, y, figures->max_error);
        }
        return;
      }
    }
  }
  // Hoping for the best, so that the values stream through the cache once; the check finds them
  // there.
  encode(values);
  const bool all_finite =
      figures_ && whole ? result.figures.count == num_elems : AllFinite(values, num_elems);
  if (!all_finite) {
    for (int64_t i = 0; i < num_elems; ++i) {
      if (std::isfinite(values[i])) continue;
      if (result.non_finite++ < kMaxNonFiniteListed) result.first_non_finite.push_back(begin + i);
    }
    if (*resolved_.spec.nonfinite != NonFinite::kPropagate) {
      Sanitize(values, num_elems, finite);
      encode(finite);
    }
  }
  if (figures_ && !whole) {
    std::copy(values, values + num_elems, CarryOf<T>(tile).x.data() + (begin - tile_begin));
  }
}

void TileEncoder::MergeFigures(const TileFigures& tile, int64_t first_elem) {
  if (tile.count == 0) return;
  Figures& all = report_.figures;
  if (all.count == 0) {
    all.min = tile.min;
    all.max = tile.max;
    all.m2 = tile.m2;
  } else {
    const double own = static_cast<double>(all.count), other = static_cast<double>(tile.count);
    const double delta = tile.sum / other - all.sum / own;
    all.m2 += tile.m2 + delta * delta * (own * other / (own + other));
    all.min = std::min(all.min, tile.min);
    all.max = std::max(all.max, tile.max);
  }
  all.count += tile.count;
  all.sum += tile.sum;
  all.signal_energy += tile.signal_energy;
  all.error_energy += tile.error_energy;
  all.cross_energy += tile.cross_energy;
  if (tile.max_error > all.max_error) {
    all.max_error = tile.max_error;
    all.max_error_elem = first_elem + tile.max_error_idx;
  }
}

absl::Status TileEncoder::MergeCounts(const TileResult& result) {
  report_.clipped += result.counts.clipped;
  report_.inexact_inputs += result.inexact;
  if (result.non_finite == 0) return absl::OkStatus();
  if (*resolved_.spec.nonfinite == NonFinite::kReject) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor \"", resolved_.tensor.name, "\" has a value that is not finite at ",
                     CoordinatesText(resolved_.tensor.shape, result.first_non_finite.front()),
                     "; to accept it use nonfinite=saturate"));
  }
  report_.non_finite += result.non_finite;
  for (const int64_t elem : result.first_non_finite) {
    if (report_.first_non_finite_elems.size() == kMaxNonFiniteListed) break;
    report_.first_non_finite_elems.push_back(elem);
  }
  return absl::OkStatus();
}

std::string CoordinatesText(const Shape& shape, int64_t elem) {
  std::vector<int64_t> coordinates(static_cast<size_t>(shape.rank()));
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    coordinates[static_cast<size_t>(axis)] = elem % shape.dim(axis);
    elem /= shape.dim(axis);
  }
  return absl::StrCat("[", absl::StrJoin(coordinates, ", "), "]");
}

}  // namespace quantd
