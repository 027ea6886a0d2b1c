#ifndef QUANTD_CORE_SESSION_TILES_H_
#define QUANTD_CORE_SESSION_TILES_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "core/scheme/scheme.h"
#include "core/simd/convert.h"

namespace quantd {

// Bytes next to each other in a tensor or a plane, lying in pieces.
class ByteRange {
 public:
  void Clear() {
    pieces_.clear();
    size_bytes_ = 0;
  }
  void Append(std::span<const std::byte> piece) {
    pieces_.push_back(piece);
    size_bytes_ += static_cast<int64_t>(piece.size());
  }
  int64_t size_bytes() const { return size_bytes_; }
  std::span<const std::span<const std::byte>> pieces() const { return pieces_; }

  // Appends bytes [offset, + size) to `out`.
  void Slice(int64_t offset, int64_t size, ByteRange& out) const {
    for (size_t i = 0; size > 0; ++i) {
      const int64_t piece_bytes = std::ssize(pieces_[i]);
      if (offset >= piece_bytes) {
        offset -= piece_bytes;
        continue;
      }
      const int64_t step = std::min(size, piece_bytes - offset);
      out.Append(pieces_[i].subspan(static_cast<size_t>(offset), static_cast<size_t>(step)));
      size -= step;
      offset = 0;
    }
  }

  // Returns bytes [offset, + size) in place where one piece has them, else copied into `scratch`.
  const std::byte* Read(int64_t offset, int64_t size, std::byte* scratch) const {
    size_t i = 0;
    while (offset >= std::ssize(pieces_[i])) offset -= std::ssize(pieces_[i++]);
    if (offset + size <= std::ssize(pieces_[i])) return pieces_[i].data() + offset;
    std::byte* out = scratch;
    while (size > 0) {
      const int64_t step = std::min<int64_t>(size, std::ssize(pieces_[i]) - offset);
      std::memcpy(out, pieces_[i++].data() + offset, static_cast<size_t>(step));
      out += step;
      size -= step;
      offset = 0;
    }
    return scratch;
  }

 private:
  std::vector<std::span<const std::byte>> pieces_;  // none is empty
  int64_t size_bytes_ = 0;
};

// The values of a stripe, tile by tile, as T: float where WorksAsF32(dtype), else double. Values of
// that type are read in place, others widened. Outliers are 0. Not thread-safe.
template <typename T>
class TileReader {
 public:
  // `values` begin with element `first_elem`; `outliers` are elements, ascending. Both outlive it.
  TileReader(DType dtype, const ByteRange& values, int64_t first_elem,
             std::span<const int64_t> outliers = {})
      : dtype_(dtype),
        elem_bytes_(SizeOf(dtype)),
        values_(values),
        first_elem_(first_elem),
        outliers_(outliers) {}

  // Returns elements [begin, end), at most kTileElems, at any alignment, until the next call with
  // others.
  const T* Read(int64_t begin, int64_t end) {
    if (begin == begin_ && end == end_) return tile_;
    begin_ = begin;
    end_ = end;
    const int64_t num_elems = end - begin;
    const std::byte* bytes =
        values_.Read((begin - first_elem_) * elem_bytes_, num_elems * elem_bytes_,
                     reinterpret_cast<std::byte*>(copied_));
    inexact_ = 0;
    if (SizeOf(dtype_) == sizeof(T) && (dtype_ == DType::kF32 || dtype_ == DType::kF64)) {
      tile_ = reinterpret_cast<const T*>(bytes);
    } else {
      if constexpr (sizeof(T) == 4) {
        WidenToF32(dtype_, bytes, num_elems, widened_);
      } else {
        inexact_ = WidenToF64(dtype_, bytes, num_elems, widened_);
      }
      tile_ = widened_;
    }
    whole_tile_ = tile_;
    HideOutliers();
    return tile_;
  }
  // Returns the tile at hand with its outliers, and which elements these are.
  const T* whole_tile() const { return whole_tile_; }
  std::span<const int64_t> tile_outliers() const { return tile_outliers_; }
  // Returns how many values of the tile at hand T does not hold exactly.
  int64_t inexact() const { return inexact_; }

 private:
  void HideOutliers() {
    if (outliers_.empty()) return;
    const auto first = std::lower_bound(outliers_.begin(), outliers_.end(), begin_);
    tile_outliers_ = {first, std::lower_bound(first, outliers_.end(), end_)};
    if (tile_outliers_.empty()) return;
    std::memcpy(hidden_, tile_, static_cast<size_t>(end_ - begin_) * sizeof(T));
    for (const int64_t elem : tile_outliers_) hidden_[elem - begin_] = 0;
    tile_ = hidden_;
  }

  const DType dtype_;
  const int64_t elem_bytes_;
  const ByteRange& values_;
  const int64_t first_elem_;
  const std::span<const int64_t> outliers_;
  std::span<const int64_t> tile_outliers_;
  int64_t begin_ = -1, end_ = -1, inexact_ = 0;
  const T* tile_ = nullptr;
  const T* whole_tile_ = nullptr;
  alignas(64) T widened_[kTileElems];
  alignas(64) T hidden_[kTileElems];
  alignas(64) double copied_[kTileElems];
};

}  // namespace quantd

#endif  // QUANTD_CORE_SESSION_TILES_H_
