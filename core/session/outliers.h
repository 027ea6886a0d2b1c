#ifndef QUANTD_CORE_SESSION_OUTLIERS_H_
#define QUANTD_CORE_SESSION_OUTLIERS_H_

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "core/scheme/scheme.h"
#include "core/session/tiles.h"

// The side-car of `outliers=k`: the k largest values of each row (the last axis) are kept exactly,
// and the scheme sees 0 in their place, in ranges, moments, counts and codes:
//
//   row     0.1  -9.5  0.2  0.3   8.0  -0.1       k = 2
//   scheme  0.1   0    0.2  0.3   0    -0.1       scale from 0.3, not from 9.5
//   planes  outlier_index 1 4    outlier_value -9.5 8.0
//
// Largest by magnitude, ties to the lower index. Values that are not finite are none: where a row
// has fewer than k others, the rest of its entries are kNoOutlier, with the value 0. It stands
// above schemes: stripes hold whole rows, and whoever reads a stripe's values finds its outliers
// first. Decoding writes them back.

namespace quantd {

// The index of an entry that is not used. Those of a row are its last.
inline constexpr uint32_t kNoOutlier = std::numeric_limits<uint32_t>::max();

// Plans the spec's outliers into the scheme's `layout`: its last two planes. kInvalidArgument: rows
// have fewer values, or are longer than a stripe.
absl::Status PlanOutliers(const QuantSpec& spec, const TensorDesc& tensor, PackedLayout& layout);

// Returns the outliers among elements [begin, end), whole rows whose values are `values`: elements
// of the tensor, ascending. None where the layout has none.
std::vector<int64_t> FindOutliers(const PackedLayout& layout, DType dtype, int64_t begin,
                                  int64_t end, const ByteRange& values);
// Returns the most memory that this takes for `num_elems` elements.
int64_t FindOutliersBytes(const PackedLayout& layout, int64_t num_elems);

// What the planes have of some rows.
struct OutlierEntries {
  std::vector<std::byte> indices, values;
};
// Writes those of the same elements, whose outliers are `outliers`.
void PackOutliers(const PackedLayout& layout, DType dtype, int64_t begin, int64_t end,
                  const ByteRange& values, std::span<const int64_t> outliers, OutlierEntries& out);
// Returns the bytes of the entries of `num_elems` elements in both planes.
int64_t OutlierEntryBytes(const PackedLayout& layout, int64_t num_elems);

// Where an outlier is in the tensor, and among the entries.
struct StoredOutlier {
  int64_t elem;
  int64_t entry;
};
// Reads the outliers of elements [begin, end), whole rows, from the whole index plane.
// kInvalidArgument: an index beyond its row, or not above the one before, with the row.
absl::Status ReadOutliers(const PackedLayout& layout, std::span<const std::byte> indices,
                          int64_t begin, int64_t end, std::vector<StoredOutlier>& out);
// Returns the most memory that this takes for `num_elems` elements.
int64_t ReadOutliersBytes(const PackedLayout& layout, int64_t num_elems);

}  // namespace quantd

#endif  // QUANTD_CORE_SESSION_OUTLIERS_H_
