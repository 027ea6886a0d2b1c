#ifndef QUANTD_CORE_SCHEME_FLOAT_TILE_H_
#define QUANTD_CORE_SCHEME_FLOAT_TILE_H_

#include <algorithm>
#include <cstdint>
#include <limits>

#include "core/base/checked_math.h"
#include "core/base/copy_bytes.h"
#include "core/scheme/scheme.h"

namespace quantd {

// Returns what a format that is defined on f32 has of an f64.
inline float NearestF32(double value) {
  constexpr double kLargest = std::numeric_limits<float>::max();
  return static_cast<float>(std::clamp(value, -kLargest, kLargest));
}

// The values of a segment as f32 in whole blocks, the last one filled up with zeros: in place where
// that is what they are.
class FloatTile {
 public:
  // `aligned`: values begin at a multiple of 64 bytes.
  FloatTile(const TileView& from, int64_t block_elems, bool aligned)
      : num_elems_(CeilDiv(from.num_elems, block_elems) * block_elems) {
    if (from.f32 != nullptr && !aligned && num_elems_ == from.num_elems) {
      values_ = from.f32;
      return;
    }
    if (from.f32 != nullptr) {
      CopyBytes(copy_, from.f32, static_cast<size_t>(from.num_elems) * sizeof(float));
    } else {
      for (int64_t i = 0; i < from.num_elems; ++i) copy_[i] = NearestF32(LoadAt(from.f64, i));
    }
    std::fill(copy_ + from.num_elems, copy_ + num_elems_, 0.0f);
    values_ = copy_;
  }
  FloatTile(const FloatTile&) = delete;
  FloatTile& operator=(const FloatTile&) = delete;

  const float* values() const { return values_; }
  int64_t num_elems() const { return num_elems_; }

 private:
  const float* values_;
  int64_t num_elems_;
  alignas(64) float copy_[kTileElems];
};

// The lanes that a kernel on FloatTile may feed: those of `meter` if the segment's values are the
// tile's, else null; MeasureDecoded then does it.
inline MeterLanes<float>* LanesOfTile(const TileView& values, const FloatTile& tile, Meter* meter) {
  const bool same = values.f32 != nullptr && tile.num_elems() == values.num_elems;
  return same ? LanesOf<float>(meter) : nullptr;
}

// Adds a segment to `meter`, unless it is null or LanesOfTile has fed it. `decode(values)` gives
// what is decoded of the tile's codes as f32.
template <class Decode>
void MeasureDecoded(const TileView& values, const FloatTile& tile, Meter* meter, Decode decode) {
  if (meter == nullptr || LanesOfTile(values, tile, meter) != nullptr) return;
  alignas(64) float narrow[kTileElems];
  decode(narrow);
  if (values.f32 != nullptr) {
    MeasureSegment(values.f32, narrow, values.num_elems, meter->lanes<float>());
    return;
  }
  double wide[kTileElems];
  std::copy_n(narrow, values.num_elems, wide);
  MeasureSegment(values.f64, wide, values.num_elems, meter->lanes<double>());
}

// Writes out.num_elems values; `decode(first_block, num_blocks, values)` gives those of blocks.
template <class Decode>
void DecodeTile(TileSpan out, int64_t block_elems, Decode decode) {
  const int64_t whole = out.num_elems / block_elems;
  if (out.f32 != nullptr && whole > 0) decode(int64_t{0}, whole, out.f32);
  for (int64_t at = out.f32 != nullptr ? whole * block_elems : 0; at < out.num_elems;) {
    constexpr int64_t kMost = 256;
    alignas(64) float narrow[kMost];
    const int64_t blocks = std::min(kMost, CeilDiv(out.num_elems - at, block_elems) * block_elems) /
                           block_elems;
    decode(at / block_elems, blocks, narrow);
    const int64_t count = std::min(blocks * block_elems, out.num_elems - at);
    out.Visit([&](auto* values) { std::copy_n(narrow, count, values + at); });
    at += count;
  }
}

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_FLOAT_TILE_H_
