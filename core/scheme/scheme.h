#ifndef QUANTD_CORE_SCHEME_SCHEME_H_
#define QUANTD_CORE_SCHEME_SCHEME_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/scheme/group_map.h"
#include "core/scheme/spec.h"
#include "core/simd/meter.h"
#include "core/stats/histogram.h"
#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"

namespace quantd {

// Elements that are widened, encoded and measured at once, so that they live in the L1 cache. At least
// an atom of every scheme.
inline constexpr int64_t kTileElems = 4096;
// Parameters of runs from this length on are taken run by run, those of shorter ones element by
// element.
inline constexpr int64_t kMinRunElems = 16;
inline constexpr int kMaxPlanes = 8;

enum class PlaneRole : uint8_t {
  kCodes,     // the packed values; always plane 0
  kPerGroup,  // an entry for every `groups_per_entry` groups, in group order
  kConstant,  // written once, before everything else
  kPerRow,    // as many entries for every row of the last axis: the outliers' (the planner's, last)
};

// One array of the packed form.
struct PlaneDesc {
  std::string name;  // "codes", "scale", "zero_point", "codebook", "global_scale"
  PlaneRole role = PlaneRole::kCodes;
  DType dtype = DType::kUint8;
  Shape shape;
  int64_t size_bytes = 0;
  int64_t groups_per_entry = 1;  // kPerGroup; the last entry may have fewer
};

// What of the values parameters depend on; bits of a set.
enum Evidence : uint8_t {
  kNoEvidence = 0,
  kRange = 1,        // the calibrated range of a group, or of the whole tensor
  kGroupRanges = 2,  // of a tensor: the calibrated ranges of all its groups
  kHistogram = 4,    // of a tensor: the bf16 buckets of all its values
  kValues = 8,       // of a group: its values; by itself, for `resolve_values`
};

// Where everything lies in the packed form of one tensor.
struct PackedLayout {
  std::vector<PlaneDesc> planes;
  // Codes lie in rows of `row_elems` elements, each row a whole number of atoms, the last one
  // padded, and behind them `trailer_bytes` that decoding needs. A flat layout has one row. With
  // `cut_atoms` codes are one stream of bits, and a row ends with the byte of its last code.
  int64_t row_elems = 1;
  int64_t atom_elems = 1;  // the smallest run that can be encoded alone
  int64_t atom_bytes = 1;
  int64_t trailer_bytes = 0;
  bool cut_atoms = false;
  GroupMap groups;
  int64_t working_bytes = 0;  // of the working parameters of a group; 0: they are the stored ones
  bool atom_scales = false;   // `encode` finds a scale for each atom, from its values
  // The planner's, where the spec has outliers: how many a row of the last axis has, the elements
  // of a row, and what stripes end at multiples of, so that they hold whole rows.
  int64_t outliers = 0;
  int64_t outlier_row_elems = 1;
  int64_t stripe_step_elems = 1;
  // What `resolve_constants` and `resolve` want to know. Tensor evidence comes first; that of bands
  // is looked for when the constants are known.
  uint8_t tensor_evidence = kNoEvidence;
  uint8_t band_evidence = kNoEvidence;

  // Returns the bytes of the codes of the first `elems` elements of a row: whole atoms, or the row.
  int64_t CodeBytes(int64_t elems) const {
    if (!cut_atoms) return CeilDiv(elems, atom_elems) * atom_bytes;
    return elems / atom_elems * atom_bytes + CeilDiv(elems % atom_elems * atom_bytes, atom_elems);
  }
  int64_t row_bytes() const { return CodeBytes(row_elems) + trailer_bytes; }
  // True where `resolve_values` makes the parameters of groups.
  bool from_values() const { return band_evidence == kValues; }
  // Returns the number of planes that the scheme knows, which come before those of outliers.
  size_t scheme_planes() const { return planes.size() - (outliers > 0 ? 2 : 0); }
  // Returns where the codes of element `elem`, the first of an atom or the tensor's end, begin.
  int64_t CodeOffset(int64_t elem) const {
    const int64_t row = row_elems == 0 ? 0 : elem / row_elems;
    return row * row_bytes() + CodeBytes(elem - row * row_elems);
  }
  // Returns the number and the size of the entries of kPerGroup plane `plane`.
  int64_t NumEntries(size_t plane) const {
    return CeilDiv(groups.num_groups, planes[plane].groups_per_entry);
  }
  int64_t EntryBytes(size_t plane) const {
    return planes[plane].size_bytes / std::max<int64_t>(NumEntries(plane), 1);
  }
  // Returns the most groups that an entry of some plane covers.
  int64_t GroupsPerEntry() const {
    int64_t most = 1;
    for (const PlaneDesc& plane : planes) most = std::max(most, plane.groups_per_entry);
    return most;
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
  absl::string_view source;   // whose bytes they are, and where they are not
  std::string definition;     // how the bytes follow from the values, beside CommonDefinition
  double bits_per_code = 8;
  int bits = 8;                            // of an integer code
  bool is_signed = true;                   // integer codes
  std::vector<Granularity> granularities;  // kinds that are allowed; the first is the default
  bool granularity_optional = false;       // none is the default: codes without scales
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
  bool takes_importance = false;  // weights of the columns
  bool takes_codebook = false;    // levels that are given, instead of learned ones
};

// A completed spec for one tensor, with everything that kernels want to know.
struct Resolved {
  const SchemeInfo* info = nullptr;
  QuantSpec spec;  // nothing absent but what does not apply
  TensorDesc tensor;
  PackedLayout layout;
  uint64_t name_hash = 0;  // HashName(tensor.name)
};

// Values next to each other: either f32 or f64, the other pointer is null. They may lie at any
// alignment: read them by LoadU or LoadAt. Visit returns fn(the pointer that is not null).
struct TileView {
  const float* f32 = nullptr;
  const double* f64 = nullptr;
  int64_t num_elems = 0;

  template <typename Fn>
  auto Visit(Fn fn) const {
    return f32 != nullptr ? fn(f32) : fn(f64);
  }
};
struct TileSpan {
  float* f32 = nullptr;
  double* f64 = nullptr;
  int64_t num_elems = 0;

  template <typename Fn>
  auto Visit(Fn fn) const {
    return f32 != nullptr ? fn(f32) : fn(f64);
  }
};

// Returns the lanes of `meter` for values of type T, or null without a meter.
template <typename T>
MeterLanes<T>* LanesOf(Meter* meter) {
  return meter != nullptr ? &meter->lanes<T>() : nullptr;
}

// Parameters. A kPerGroup span begins with the entry of `first_group`, which is a multiple of its
// groups_per_entry, a kConstant one with the plane; that of plane 0 is empty. `working` begins with
// those of `first_group`. Indexed like PackedLayout::planes.
template <typename Byte>
struct Params {
  std::array<std::span<Byte>, kMaxPlanes> planes;
  std::span<Byte> working;
  int64_t first_group = 0;

  operator Params<const std::byte>() const {  // NOLINT: as a span does
    Params<const std::byte> view;
    std::copy(planes.begin(), planes.end(), view.planes.begin());
    view.working = working;
    view.first_group = first_group;
    return view;
  }
};
using ParamView = Params<const std::byte>;
using ParamPlanes = Params<std::byte>;

// What values have shown, calibrated. A range without values is empty: min > max, or {0, 0}.
struct TensorEvidence {
  Range range;                         // kRange
  std::span<const Range> groups;       // kGroupRanges
  const Histogram* histogram = nullptr;  // kHistogram
  std::span<const float> codebook;       // instead of it: given levels
};

// Weights of the columns (the last axis): [columns], or [batch, columns] where all dimensions but
// the last two are the batch. Not negative, finite.
struct Importance {
  std::span<const float> weights;
  int64_t columns = 0;
  int64_t batch_elems = 0;  // elements of the tensor that share a row of weights

  // Returns the weights of element `elem` and those that follow in its row.
  const float* At(int64_t elem) const {
    const int64_t batch = elem / batch_elems * columns;
    return weights.data() + (batch < std::ssize(weights) ? batch : 0) + elem % columns;
  }
};

// Elements [first_elem, first_elem + values.num_elems) in one layout row, starting at an atom and
// ending at one or at the row's end; a part of a tile.
struct Segment {
  TileView values;
  int64_t first_elem = 0;
  ParamView params;
  const Importance* importance = nullptr;  // null: all weights are the same
};

// What encoding did to values.
struct Counts {
  int64_t clipped = 0;  // beyond the outermost code by half a step or more
};

// One row of the registry. Every function is thread-safe; only `complete` and `plan` can fail or,
// unless said, allocate. Codes of values that are not finite count only under nonfinite=propagate;
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
  // Changes the groups, working parameters and band evidence of a layout, not its planes, to those
  // of tensors with importance. Null: they stay.
  void (*plan_importance)(const TensorDesc&, PackedLayout&) = nullptr;
  // Writes the kConstant planes. Null: none.
  void (*resolve_constants)(const Resolved&, const TensorEvidence&, ParamPlanes out);
  // Writes what is kept of groups [out.first_group, + ranges.size()): the kPerGroup planes and the
  // working parameters. kConstant planes are already written. Null: none.
  void (*resolve)(const Resolved&, std::span<const Range> ranges, ParamPlanes out);
  // The same of one group, out.first_group, from its finite values in the order of elements, which
  // it may put in another one. For layouts whose band evidence is kValues. May allocate.
  void (*resolve_values)(const Resolved&, TileSpan finite, ParamPlanes out) = nullptr;
  // Writes the codes of whole atoms to `out`, which begins at CodeOffset(first_elem), and the
  // trailer of a row that ends with the segment; adds to `counts`. Adds the values and what decoding
  // gives of the codes to `meter`, cut as ForEachRun has it, unless it is null.
  void (*encode)(const Resolved&, const Segment&, std::span<std::byte> out, Counts* counts,
                 Meter* meter);
  // Reads elements [first_elem, + out.num_elems) of one layout row back from `codes`, which begins
  // at CodeOffset(first_elem), at any alignment, and ends with the row's trailer, if there is one.
  void (*decode)(const Resolved&, std::span<const std::byte> codes, const ParamView& params,
                 int64_t first_elem, TileSpan out);
  // Scalar definitions of the two before, equal bit for bit; the first leaves the meter alone.
  void (*encode_ref)(const Resolved&, const Segment&, std::span<std::byte> out, Counts* counts);
  void (*decode_ref)(const Resolved&, std::span<const std::byte> codes, const ParamView& params,
                     int64_t first_elem, TileSpan out);
};

// Calls fn(begin, count) for the parts of [first_elem, + num_elems) that a meter takes one by one,
// each from lane 0: the runs that share parameters, or all at once where those are short.
template <typename Fn>
void ForEachRun(const GroupMap& groups, int64_t first_elem, int64_t num_elems, Fn fn) {
  if (groups.num_groups <= 1 || groups.run_elems < kMinRunElems) {
    fn(int64_t{0}, num_elems);
    return;
  }
  for (RunWalker run(groups, first_elem, first_elem + num_elems); !run.done(); run.Next()) {
    fn(run.elem() - first_elem, run.num_elems());
  }
}

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_SCHEME_H_
