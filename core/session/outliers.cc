// One row at a time goes through a heap of its k largest so far, the weakest on top: one comparison
// a value as a rule, as few are among them once many have passed.
//
// Stripes end where rows do, and where their codes end with a byte: int3 fills bytes with 8 codes,
// so that rows of 1,001 end so after 8 of them. What is longer than a stripe is refused.
//
// Entries: PlanOutliers; FindOutliers and PackOutliers; ReadOutliers. Tested by
// tests/core/session/outliers_test.cc and stripes_test.cc.
#include "core/session/outliers.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "core/base/checked_math.h"
#include "core/base/status_macros.h"
#include "core/scheme/spec_keys.h"
#include "core/session/stripes.h"

namespace quantd {
namespace {

template <typename T>
struct Candidate {
  T magnitude;
  int64_t elem;
};

// Orders a heap whose top is the weakest.
template <typename T>
bool IsStronger(const Candidate<T>& a, const Candidate<T>& b) {
  return a.magnitude > b.magnitude || (a.magnitude == b.magnitude && a.elem < b.elem);
}

template <typename T>
void FindAs(const PackedLayout& layout, DType dtype, int64_t begin, int64_t end,
            const ByteRange& values, std::vector<int64_t>& out) {
  TileReader<T> reader(dtype, values, begin);
  const auto most = static_cast<size_t>(layout.outliers);
  std::vector<Candidate<T>> heap;
  heap.reserve(most);
  const auto offer = [&](T magnitude, int64_t elem) {
    if (heap.size() == most) {
      if (!(magnitude > heap.front().magnitude)) return;
      std::pop_heap(heap.begin(), heap.end(), IsStronger<T>);
      heap.pop_back();
    }
    heap.push_back({magnitude, elem});
    std::push_heap(heap.begin(), heap.end(), IsStronger<T>);
  };
  for (int64_t row = begin; row < end; row += layout.outlier_row_elems) {
    const int64_t row_end = row + layout.outlier_row_elems;
    heap.clear();
    // Tiles of the whole stretch, so that short rows do not read one each.
    for (int64_t at = row; at < row_end;) {
      const int64_t tile = begin + (at - begin) / kTileElems * kTileElems;
      const int64_t tile_end = std::min(tile + kTileElems, end);
      const T* tile_values = reader.Read(tile, tile_end);
      for (const int64_t part_end = std::min(row_end, tile_end); at < part_end; ++at) {
        const T magnitude = std::fabs(LoadAt(tile_values, at - tile));
        if (std::isfinite(magnitude)) offer(magnitude, at);
      }
    }
    const size_t first = out.size();
    for (const Candidate<T>& found : heap) out.push_back(found.elem);
    std::sort(out.begin() + static_cast<std::ptrdiff_t>(first), out.end());
  }
}

int64_t NumEntries(const PackedLayout& layout, int64_t num_elems) {
  return num_elems / layout.outlier_row_elems * layout.outliers;
}

}  // namespace

absl::Status PlanOutliers(const QuantSpec& spec, const TensorDesc& tensor, PackedLayout& layout) {
  if (!spec.outliers.has_value()) return absl::OkStatus();
  const Shape& shape = tensor.shape;
  const int64_t row_elems = shape.last_dim(), num_elems = shape.num_elems();
  if (*spec.outliers > row_elems) {
    return absl::InvalidArgumentError(
        absl::StrCat("outliers=", *spec.outliers, " is more than a row of shape ", shape.Text(),
                     " has, which is ", row_elems));
  }
  // Rows, and as many of them as end with an atom, or with a row of the layout.
  const int64_t unit = layout.row_elems >= num_elems ? layout.atom_elems : layout.row_elems;
  const int64_t step = SaturatingMul(row_elems / std::gcd(row_elems, unit), unit);
  layout.stripe_step_elems = std::max<int64_t>(std::min(step, num_elems), 1);
  if (layout.stripe_step_elems > kStripeElems) {
    return absl::InvalidArgumentError(absl::StrCat(
        "outliers=", *spec.outliers, " takes rows that end with their codes within ", kStripeElems,
        " elements; those of shape ", shape.Text(), " do so after ", step));
  }
  layout.outliers = *spec.outliers;
  layout.outlier_row_elems = row_elems;
  std::vector<int64_t> dims(shape.dims().begin(), shape.dims().end());
  if (dims.empty()) dims.push_back(1);
  dims.back() = layout.outliers;
  QUANTD_ASSIGN_OR_RETURN(const Shape entries, Shape::Make(dims));
  for (const auto& [name, dtype] :
       {std::pair{"outlier_index", DType::kUint32}, std::pair{"outlier_value", tensor.dtype}}) {
    QUANTD_ASSIGN_OR_RETURN(const int64_t size_bytes,
                            CheckedMul(entries.num_elems(), SizeOf(dtype)));
    layout.planes.push_back({name, PlaneRole::kPerRow, dtype, entries, size_bytes});
  }
  return absl::OkStatus();
}

std::vector<int64_t> FindOutliers(const PackedLayout& layout, DType dtype, int64_t begin,
                                  int64_t end, const ByteRange& values) {
  std::vector<int64_t> found;
  if (layout.outliers == 0 || begin == end) return found;
  found.reserve(static_cast<size_t>(NumEntries(layout, end - begin)));
  if (WorksAsF32(dtype)) {
    FindAs<float>(layout, dtype, begin, end, values, found);
  } else {
    FindAs<double>(layout, dtype, begin, end, values, found);
  }
  return found;
}

int64_t FindOutliersBytes(const PackedLayout& layout, int64_t num_elems) {
  if (layout.outliers == 0) return 0;
  return SaturatingAdd(SaturatingMul(NumEntries(layout, num_elems), sizeof(int64_t)),
                       SaturatingMul(layout.outliers, sizeof(Candidate<double>)));
}

void PackOutliers(const PackedLayout& layout, DType dtype, int64_t begin, int64_t end,
                  const ByteRange& values, std::span<const int64_t> outliers,
                  OutlierEntries& out) {
  const auto num_entries = static_cast<size_t>(NumEntries(layout, end - begin));
  const auto elem_bytes = static_cast<size_t>(SizeOf(dtype));
  out.indices.assign(num_entries * sizeof(uint32_t), std::byte{0xFF});  // kNoOutlier
  out.values.assign(num_entries * elem_bytes, std::byte{0});
  std::byte scratch[kTileElems * sizeof(double)];
  int64_t row = -1, entry = 0, tile_end = begin;
  const std::byte* tile = nullptr;
  for (const int64_t elem : outliers) {
    const int64_t its_row = (elem - begin) / layout.outlier_row_elems;
    entry = its_row == row ? entry + 1 : its_row * layout.outliers;
    row = its_row;
    if (elem >= tile_end) {
      const int64_t tile_begin = begin + (elem - begin) / kTileElems * kTileElems;
      tile_end = std::min(tile_begin + kTileElems, end);
      tile = values.Read((tile_begin - begin) * static_cast<int64_t>(elem_bytes),
                         (tile_end - tile_begin) * static_cast<int64_t>(elem_bytes), scratch);
    }
    const auto index = static_cast<uint32_t>((elem - begin) % layout.outlier_row_elems);
    const int64_t in_tile = (elem - begin) % kTileElems;
    std::memcpy(&out.indices[static_cast<size_t>(entry) * sizeof(index)], &index, sizeof(index));
    std::memcpy(&out.values[static_cast<size_t>(entry) * elem_bytes],
                tile + in_tile * static_cast<int64_t>(elem_bytes), elem_bytes);
  }
}

int64_t OutlierEntryBytes(const PackedLayout& layout, int64_t num_elems) {
  if (layout.outliers == 0) return 0;
  const int64_t entry_bytes = int64_t{sizeof(uint32_t)} + SizeOf(layout.planes.back().dtype);
  return SaturatingMul(NumEntries(layout, num_elems), entry_bytes);
}

absl::Status ReadOutliers(const PackedLayout& layout, std::span<const std::byte> indices,
                          int64_t begin, int64_t end, std::vector<StoredOutlier>& out) {
  out.clear();
  out.reserve(static_cast<size_t>(NumEntries(layout, end - begin)));
  const auto* entries = reinterpret_cast<const uint32_t*>(indices.data());
  const int64_t per_row = layout.outliers, row_elems = layout.outlier_row_elems;
  for (int64_t row = begin / row_elems; row < end / row_elems; ++row) {
    int64_t before = -1;
    for (int64_t entry = row * per_row; entry < (row + 1) * per_row; ++entry) {
      const uint32_t index = LoadAt(entries, entry);
      if (index == kNoOutlier) {
        before = kNoOutlier;
        continue;
      }
      if (index >= row_elems || int64_t{index} <= before) {
        return absl::InvalidArgumentError(absl::StrCat(
            "outlier_index ", index, " of row ", row, " is not allowed; use 0 to ", row_elems - 1,
            ", ascending, unused ones (", kNoOutlier, ") last"));
      }
      before = index;
      out.push_back({row * row_elems + index, entry});
    }
  }
  return absl::OkStatus();
}

int64_t ReadOutliersBytes(const PackedLayout& layout, int64_t num_elems) {
  return SaturatingMul(NumEntries(layout, num_elems), sizeof(StoredOutlier));
}

}  // namespace quantd
