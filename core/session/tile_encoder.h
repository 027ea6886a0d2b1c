#ifndef QUANTD_CORE_SESSION_TILE_ENCODER_H_
#define QUANTD_CORE_SESSION_TILE_ENCODER_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <variant>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "core/exec/executor.h"
#include "core/scheme/scheme.h"
#include "core/session/report.h"
#include "core/session/window.h"
#include "core/simd/figures.h"

namespace quantd {

// How the work on a window is shared out: tasks take the elements from one cut to the next, step by
// step. Calls of different tasks come at the same time.
struct WindowTasks {
  // Ascending, more than a tile apart; from the window's first element to its end.
  std::span<const int64_t> cuts;
  // Makes the parameters of elements from `elem` on known, which begins the task or is what the
  // call before returned; returns where they end, at most at the task's end.
  absl::FunctionRef<int64_t(size_t task, int64_t elem)> prepare;
  // Takes codes that are finished and still in the cache. Those of a task lie one after the other;
  // those of tiles that cuts go through are left out.
  absl::FunctionRef<void(size_t task, std::span<const std::byte> codes)> take;
};

// Encodes windows of one tensor tile by tile, and measures each tile while it is in the cache.
// Windows come in order; a tile that two windows share is measured when it is whole, so that the
// figures do not depend on the windows. Not thread-safe; spreads its work over the executor.
class TileEncoder {
 public:
  // Returns the most memory that encoding in windows of `window_elems` takes.
  static int64_t ResidentBytes(const Resolved& resolved, int64_t window_elems);

  // All but `figures` outlive the encoder.
  TileEncoder(const Scheme& scheme, const Resolved& resolved, bool figures, Executor& executor);

  // Encodes the window into `codes`, which begins at CodeOffset(window.first_elem).
  // kInvalidArgument: a value that is not finite under nonfinite=reject.
  absl::Status Encode(const Window& window, const ParamView& params, std::span<std::byte> codes,
                      const WindowTasks& tasks);

  // Returns what has been seen, without digests. All windows have been encoded.
  const EncodingReport& report() const { return report_; }

 private:
  // The values and decoded values of a tile that is not whole yet.
  template <typename T>
  struct Carry {
    std::array<T, kTileElems> x, y;
  };
  // What a task found out about one tile.
  struct TileResult {
    TileFigures figures;
    Counts counts;
    int64_t inexact = 0;
    int64_t non_finite = 0;
    std::vector<int64_t> first_non_finite;  // elements of the tensor; at most kMaxNonFiniteListed
  };

  template <typename T>
  absl::Status EncodeAs(const Window& window, const ParamView& params, std::span<std::byte> codes,
                        const WindowTasks& tasks);
  // Does tasks [first_task, end_task).
  template <typename T>
  absl::Status EncodeTasks(const Window& window, const ParamView& params,
                           std::span<std::byte> codes, const WindowTasks& tasks, size_t first_task,
                           size_t end_task);
  // Does one task but for the tile that its first cut goes through. `results` are those of tiles
  // from `first_tile` on.
  template <typename T>
  void EncodeTask(const Window& window, const ParamView& params, std::span<std::byte> codes,
                  const WindowTasks& tasks, size_t task, int64_t first_tile,
                  std::span<TileResult> results);
  // `known_error` is the largest error seen in tiles before this one.
  template <typename T>
  void EncodeTile(const Window& window, const ParamView& params, std::span<std::byte> codes,
                  int64_t tile, double known_error, TileResult& result);
  // Returns the first tile that begins at `elem` or later, and the first that does not end by then,
  // where nothing of a tile lies outside of the window.
  int64_t TileFrom(const Window& window, int64_t elem) const;
  int64_t TileBehind(const Window& window, int64_t elem) const;
  template <typename T>
  Carry<T>& CarryOf(int64_t tile);
  size_t CarryPlace(int64_t tile) const {
    return tile == open_tile_ ? open_place_ : 1 - open_place_;
  }
  void MergeFigures(const TileFigures& tile, int64_t first_elem);
  absl::Status MergeCounts(const TileResult& result);

  const Scheme& scheme_;
  const Resolved& resolved_;
  const bool figures_;
  Executor& executor_;
  const TileGrid grid_;
  EncodingReport report_;
  std::vector<TileResult> results_;  // of the tiles at work
  // Two, because one window may complete the open tile and begin another.
  std::vector<Carry<float>> carry_f32_;
  std::vector<Carry<double>> carry_f64_;
  int64_t open_tile_ = -1;  // the tile that earlier windows have begun
  size_t open_place_ = 0;   // of its carry
};

// Returns "[1, 2]", the coordinates of element `elem` in `shape`.
std::string CoordinatesText(const Shape& shape, int64_t elem);

}  // namespace quantd

#endif  // QUANTD_CORE_SESSION_TILE_ENCODER_H_
