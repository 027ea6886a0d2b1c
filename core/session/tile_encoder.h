#ifndef QUANTD_CORE_SESSION_TILE_ENCODER_H_
#define QUANTD_CORE_SESSION_TILE_ENCODER_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "core/exec/executor.h"
#include "core/scheme/scheme.h"
#include "core/session/report.h"
#include "core/session/window.h"
#include "core/simd/figures.h"

namespace quantd {

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
  absl::Status Encode(const Window& window, const ParamView& params, std::span<std::byte> codes);

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
  absl::Status EncodeAs(const Window& window, const ParamView& params, std::span<std::byte> codes);
  template <typename T>
  absl::Status EncodeTiles(const Window& window, const ParamView& params,
                           std::span<std::byte> codes, int64_t first_tile, int64_t num_tiles);
  template <typename T>
  void EncodeTile(const Window& window, const ParamView& params, std::span<std::byte> codes,
                  int64_t tile, TileResult& result);
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
