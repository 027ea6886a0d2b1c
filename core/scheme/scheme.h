#ifndef QUANTD_CORE_SCHEME_SCHEME_H_
#define QUANTD_CORE_SCHEME_SCHEME_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/scheme/group_map.h"
#include "core/scheme/spec.h"
#include "core/simd/figures.h"
#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"

namespace quantd {

// Elements that are widened, encoded and measured at once, so that they live in the L1 cache.
inline constexpr int64_t kTileElems = 4096;

enum class PlaneRole : uint8_t {
  kCodes,     // the packed values; always plane 0
  kPerGroup,  // `size_bytes / num_groups` bytes for each group, in group order
  kConstant,  // written once, before everything else
};

// One array of the packed form.
struct PlaneDesc {
  std::string name;  // "codes", "scale", "zero_point", "codebook", "global_scale"
  PlaneRole role = PlaneRole::kCodes;
  DType dtype = DType::kUint8;
  Shape shape;
  int64_t size_bytes = 0;
};

inline constexpr int kMaxPlanes = 4;

// Where everything lies in the packed form of one tensor.
struct PackedLayout {
  std::vector<PlaneDesc> planes;
  // Codes lie in rows of `row_elems` elements, each row a whole number of atoms, the last one
  // padded. A flat layout has one row.
  int64_t row_elems = 1;
  int64_t atom_elems = 1;  // the smallest run that can be encoded alone
  int64_t atom_bytes = 1;
  GroupMap groups;
  bool needs_ranges = false;  // `resolve` wants the range of each group
  // `resolve_constants` wants the range of the whole tensor; those of the groups are then found
  // window by window.
  bool needs_tensor_range = false;

  int64_t row_bytes() const { return CeilDiv(row_elems, atom_elems) * atom_bytes; }
  // Returns where the codes of element `elem`, the first of an atom or the tensor's end, begin.
  int64_t CodeOffset(int64_t elem) const {
    const int64_t row = row_elems == 0 ? 0 : elem / row_elems;
    return row * row_bytes() + CeilDiv(elem - row * row_elems, atom_elems) * atom_bytes;
  }
  // Returns the bytes of plane `plane` per group.
  int64_t GroupBytes(size_t plane) const {
    return planes[plane].size_bytes / std::max<int64_t>(groups.num_groups, 1);
  }
};

// Whose rule applies where projects disagree.
struct Dialect {
  absl::string_view name;
  QuantSpec defaults = {};  // what is set goes before the scheme's defaults
  // Keys of which it takes its default alone, such as "round" where its arithmetic fixes that.
  std::vector<absl::string_view> fixed = {};
};

// What a scheme is and allows. The first of each list is the default; an empty list means that the
// key does not apply.
struct SchemeInfo {
  absl::string_view name;
  absl::string_view summary;  // one line
  absl::string_view source;   // where the bytes are defined
  double bits_per_code = 8;
  int bits = 8;                            // of an integer code
  bool is_signed = true;                   // integer codes
  std::vector<Granularity> granularities;  // kinds that are allowed; the first is the default
  std::vector<Mode> modes;
  std::vector<Rounding> roundings;
  std::vector<ScaleType> scale_types;
  std::vector<uint32_t> levels;  // of a codebook
  std::vector<Dialect> dialects;
  std::vector<absl::string_view> layouts;
  std::vector<NonFinite> nonfinites;
  std::vector<Tail> tails;
  bool takes_range = false;  // range=, given ranges
  bool takes_scale = false;  // scale=, zero=
};

// A completed spec for one tensor, with everything that kernels want to know.
struct Resolved {
  const SchemeInfo* info = nullptr;
  QuantSpec spec;  // nothing absent but what does not apply
  TensorDesc tensor;
  PackedLayout layout;
  uint64_t name_hash = 0;  // HashName(tensor.name)
};

// Values next to each other: either f32 or f64, the other pointer is null.
struct TileView {
  const float* f32 = nullptr;
  const double* f64 = nullptr;
  int64_t num_elems = 0;
};
struct TileSpan {
  float* f32 = nullptr;
  double* f64 = nullptr;
  int64_t num_elems = 0;
};

// Parameters: kPerGroup planes start at `first_group`, kConstant planes at their beginning; empty
// for plane 0. Indexed like PackedLayout::planes.
struct ParamView {
  std::array<std::span<const std::byte>, kMaxPlanes> planes;
  int64_t first_group = 0;
};
struct ParamPlanes {
  std::array<std::span<std::byte>, kMaxPlanes> planes;
  int64_t first_group = 0;
};

// Elements [first_elem, first_elem + values.num_elems) in one layout row, starting at an atom and
// ending at one or at the row's end; at most kTileElems.
struct Segment {
  TileView values;
  int64_t first_elem = 0;
  ParamView params;
};

// What encoding did to values.
struct Counts {
  int64_t clipped = 0;  // beyond the outermost code by half a step or more
};

// One row of the registry. Every function is thread-safe; only `plan` and `complete` can fail; none
// but they allocate. Codes of values that are not finite count only under nonfinite=propagate;
// `encode` may meet such values all the same, and what it then writes is thrown away.
struct Scheme {
  SchemeInfo info;
  // Fills what is still open after the dialect's defaults and before the scheme's, by the tensor's
  // dtype and shape, and refuses what does not go together with kInvalidArgument. Other checks come
  // later, and a completed spec stays as it is. Shapes are `plan`'s to refuse, which incompatible=
  // answers. Null: none.
  absl::Status (*complete)(const SchemeInfo&, const TensorDesc&, QuantSpec& spec) = nullptr;
  // Gives the planes and the map of groups of a non-empty tensor, or kInvalidArgument for a shape
  // that the scheme cannot take. `spec` is complete.
  absl::StatusOr<PackedLayout> (*plan)(const SchemeInfo&, const QuantSpec& spec, const TensorDesc&);
  // Writes the kConstant planes; `tensor_range` counts where the layout needs it. Null: none.
  void (*resolve_constants)(const Resolved&, const Range& tensor_range, ParamPlanes out);
  // Writes the kPerGroup planes of groups [out.first_group, + ranges.size()), which lie at the
  // beginning of their spans. kConstant planes are already written. Null: none.
  void (*resolve)(const Resolved&, std::span<const Range> ranges, ParamPlanes out);
  // Writes the codes of whole atoms to `out`, which begins at CodeOffset(first_elem), and adds to
  // `counts`.
  void (*encode)(const Resolved&, const Segment&, std::span<std::byte> out, Counts* counts);
  // Reads elements [first_elem, + out.num_elems) back from `codes`, which begins at
  // CodeOffset(first_elem).
  void (*decode)(const Resolved&, std::span<const std::byte> codes, const ParamView& params,
                 int64_t first_elem, TileSpan out);
  // Like `encode` of a tile, and returns what MeasureTile would say of it and its decoded values
  // but for max_error_idx. nullopt: that cannot be done for these, and `out` is void. Null: for
  // none.
  std::optional<TileFigures> (*encode_measured)(const Resolved&, const Segment&,
                                                std::span<std::byte> out, Counts* counts);
  // Scalar definitions of the two before, equal bit for bit.
  void (*encode_ref)(const Resolved&, const Segment&, std::span<std::byte> out, Counts* counts);
  void (*decode_ref)(const Resolved&, std::span<const std::byte> codes, const ParamView& params,
                     int64_t first_elem, TileSpan out);
};

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_SCHEME_H_
