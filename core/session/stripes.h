#ifndef QUANTD_CORE_SESSION_STRIPES_H_
#define QUANTD_CORE_SESSION_STRIPES_H_

#include <cstdint>

#include "core/scheme/scheme.h"

// How a tensor is cut for work. From small to large:
//
//   atom    the smallest run that can be encoded alone (1 for int8, 2 for uint4, 32 for q8_0)
//   tile    up to kTileElems elements, whole atoms, counted from a stripe's start
//   band    the smallest run of whole groups whose parameters can be found from itself, up to an
//           atom's end: a group, a row, a row of blocks; the tensor, where all of it shares or groups
//           recur (per tensor, columns, middle axes)
//   stripe  the unit of work: as many bands as kStripeElems hold, or where a band is longer,
//           kStripeElems of it
//
//   rows of 30,000 elements, axis=0:  |band 0|band 1|band 2|band 3| ...
//                                     |  stripe 0   |  stripe 1   | ...      two bands each
//   rows of 100,000, axis=0:          |      band 0      |      band 1      |
//                                     |stripe 0|str. 1   |stripe 2|str. 3   |
//
// With outliers= stripes are whole rows of the last axis, too (PackedLayout::stripe_step_elems).
//
// Bounds follow from the layout alone, never from how values arrive, threads, memory or transport,
// so that encoding a stripe is a pure function and results need only be put in order.

namespace quantd {

// Elements of a stripe, at most: 256 KiB of f32, which the L2 cache holds, and worth waking a thread.
inline constexpr int64_t kStripeElems = int64_t{64} << 10;

struct Stripe {
  int64_t index = 0;
  int64_t begin = 0, end = 0;  // elements
  // The band that it lies in, where that is longer; else those of the stripe.
  int64_t band_begin = 0, band_end = 0;

  int64_t num_elems() const { return end - begin; }
  bool long_band() const { return band_begin != begin || band_end != end; }
};

// Cuts one tensor, stripe after stripe. A tensor without elements is one stripe without elements.
class StripeCutter {
 public:
  // `whole_rows`: stripes are whole rows of the layout, however long, as trailers want for decoding.
  StripeCutter(const PackedLayout& layout, int64_t num_elems, bool whole_rows = false);

  bool done() const { return done_; }
  // The stripe at hand; not `done()`.
  const Stripe& stripe() const { return stripe_; }
  void Next();

 private:
  void Cut();

  const PackedLayout& layout_;
  const int64_t num_elems_;
  const bool one_band_;    // the tensor
  const bool whole_rows_;  // stripes are
  Stripe stripe_;
  bool done_ = false;
};

// Returns the last end of an atom that is at most `elem`, which is not 0 of a row.
int64_t AtomFloor(const PackedLayout& layout, int64_t elem);

// Returns the last place that is at most `elem`, and as said above, where a stripe may end.
int64_t StripeFloor(const PackedLayout& layout, int64_t elem);

// Returns where the tile that begins at `begin` in a stripe that ends at `stripe_end` ends.
inline int64_t TileEnd(const PackedLayout& layout, int64_t begin, int64_t stripe_end) {
  return begin + kTileElems >= stripe_end ? stripe_end : AtomFloor(layout, begin + kTileElems);
}

// Returns the end of the band that holds element elem - 1, of bands that are not the tensor.
int64_t BandEnd(const PackedLayout& layout, int64_t num_elems, int64_t elem);

// Groups next to each other.
struct GroupSpan {
  int64_t first = 0;
  int64_t count = 0;
};
// Returns the groups of elements [begin, end), which are whole bands.
GroupSpan GroupsOf(const PackedLayout& layout, int64_t begin, int64_t end);

// Bounds for planning: of the elements of a band (longer than a stripe or not), the groups of a
// stripe, and the bytes of the codes of `num_elems` elements next to each other.
int64_t MaxBandElems(const PackedLayout& layout, int64_t num_elems);
int64_t MaxGroups(const GroupMap& groups, int64_t num_elems);  // of elements next to each other
int64_t MaxStripeGroups(const PackedLayout& layout, int64_t num_elems);
int64_t MaxCodeBytes(const PackedLayout& layout, int64_t num_elems);

}  // namespace quantd

#endif  // QUANTD_CORE_SESSION_STRIPES_H_
