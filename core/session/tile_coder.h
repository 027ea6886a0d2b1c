#ifndef QUANTD_CORE_SESSION_TILE_CODER_H_
#define QUANTD_CORE_SESSION_TILE_CODER_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/scheme/scheme.h"
#include "core/session/stripes.h"

namespace quantd {

inline TileView ViewOf(const float* values, int64_t count) { return {values, nullptr, count}; }
inline TileView ViewOf(const double* values, int64_t count) { return {nullptr, values, count}; }
inline TileSpan SpanOf(float* values, int64_t count) { return {values, nullptr, count}; }
inline TileSpan SpanOf(double* values, int64_t count) { return {nullptr, values, count}; }

// Calls fn(begin, end) for the parts of elements [begin, end) that lie in one row of the layout.
template <typename Fn>
void ForEachRow(const PackedLayout& layout, int64_t begin, int64_t end, Fn fn) {
  while (begin < end) {
    const int64_t row_end = (begin / layout.row_elems + 1) * layout.row_elems;
    const int64_t part_end = std::min(end, row_end);
    fn(begin, part_end);
    begin = part_end;
  }
}

// Encodes and decodes tiles by a scheme, whose segments do not cross rows. Not thread-safe.
template <typename T>
class TileCoder {
 public:
  // All outlive this; `importance` may be null.
  TileCoder(const Scheme& scheme, const Resolved& resolved, const Importance* importance)
      : scheme_(scheme), resolved_(resolved), importance_(importance) {}

  // Encodes elements [begin, end), whole atoms, at most a tile, into `codes`, which are theirs.
  void Encode(const T* values, int64_t begin, int64_t end, const ParamView& params,
              std::span<std::byte> codes, Counts& counts, Meter* meter) const {
    ForEachRow(resolved_.layout, begin, end, [&](int64_t part, int64_t part_end) {
      const Segment segment = {ViewOf(values + (part - begin), part_end - part), part, params,
                               importance_};
      scheme_.encode(resolved_, segment, PartOf<std::byte>(codes, begin, part, part_end), &counts,
                     meter);
    });
  }

  // Decodes the same.
  template <typename Y>
  void Decode(std::span<const std::byte> codes, int64_t begin, int64_t end,
              const ParamView& params, Y* y) {
    ForEachRow(resolved_.layout, begin, end, [&](int64_t part, int64_t part_end) {
      const std::span<const std::byte> own = PartOf<const std::byte>(codes, begin, part, part_end);
      scheme_.decode(resolved_, WithTrailer(own, part, part_end, params), params, part,
                     SpanOf(y + (part - begin), part_end - part));
    });
  }

 private:
  template <typename Byte>
  std::span<Byte> PartOf(std::span<Byte> codes, int64_t begin, int64_t part,
                         int64_t part_end) const {
    const int64_t from = resolved_.layout.CodeOffset(part);
    return codes.subspan(static_cast<size_t>(from - resolved_.layout.CodeOffset(begin)),
                         static_cast<size_t>(resolved_.layout.CodeOffset(part_end) - from));
  }

  // Returns the codes of elements [part, part_end) of one row, and behind them the row's trailer,
  // which may be another stripe's to write, or not be written yet.
  std::span<const std::byte> WithTrailer(std::span<const std::byte> codes, int64_t part,
                                         int64_t part_end, const ParamView& params) {
    const PackedLayout& layout = resolved_.layout;
    const int64_t row_end = (part / layout.row_elems + 1) * layout.row_elems;
    if (layout.trailer_bytes == 0 || part_end == row_end) return codes;
    const int64_t last = row_end - 1 - (layout.row_elems - 1) % layout.atom_elems;
    const std::vector<T> zeros(static_cast<size_t>(row_end - last));
    std::vector<std::byte> atom(static_cast<size_t>(layout.atom_bytes + layout.trailer_bytes));
    Counts counts;
    scheme_.encode(resolved_, {ViewOf(zeros.data(), row_end - last), last, params, nullptr}, atom,
                   &counts, nullptr);
    with_trailer_.assign(codes.begin(), codes.end());
    with_trailer_.insert(with_trailer_.end(), atom.end() - layout.trailer_bytes, atom.end());
    return with_trailer_;
  }

  const Scheme& scheme_;
  const Resolved& resolved_;
  const Importance* const importance_;
  std::vector<std::byte> with_trailer_;
};

}  // namespace quantd

#endif  // QUANTD_CORE_SESSION_TILE_CODER_H_
