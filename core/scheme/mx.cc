// The row's functions, by the rules of mx.h. What is wanted of a row is its element alone; as the
// functions of a row get no more than its info, there is one instance of them for each element,
// which hands it on.
//
// Entry: MxScheme. Tested by tests/core/scheme/segments_test.cc, reference_test.cc and
// golden_test.cc.
#include "core/scheme/mx.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/substitute.h"
#include "core/base/status_macros.h"
#include "core/scheme/block.h"
#include "core/scheme/mx_codes.h"
#include "core/scheme/mx_ref.h"
#include "core/simd/bits.h"

namespace quantd {
namespace {

using mx::kBlockElems;

constexpr size_t kScalePlane = 1;
constexpr float kLargest = std::numeric_limits<float>::max();

// E5M2's upper codes are infinity and NaN, E4M3's last one is NaN; the others have numbers alone.
constexpr std::array<mx::Element, 6> kElements = {{
    {{5, 2, 15, 0x7B, 0x7C, 0x7E, false}, 15, false, 57344, 61440},
    {kE4m3Format, 8, false, 448, 464},
    {{3, 2, 3, 0x1F, 0, 0, false}, 4, false, 28, 30},
    {{2, 3, 1, 0x1F, 0, 0, false}, 2, false, 7.5, 7.75},
    {kE2m1Format, 2, false, 6, 7},
    {{1, 6, 1, 0x7F, 0, 0, false}, 0, true, 127 / 64.0, 127.5 / 64},
}};

const mx::Element& ElementOf(MxElement element) {
  return kElements[static_cast<size_t>(element)];
}

absl::StatusOr<PackedLayout> Plan(MxElement element, const QuantSpec& spec,
                                  const TensorDesc& tensor) {
  QUANTD_ASSIGN_OR_RETURN(PackedLayout layout,
                          PlanRowBlocks(*spec.tail, tensor.shape, kBlockElems,
                                        kBlockElems / 8 * ElementOf(element).bits()));
  QUANTD_ASSIGN_OR_RETURN(Grouping grouping,
                          MakeGrouping(*spec.granularity, Tail::kShort, tensor.shape));
  // A row that is shorter than a block is one group of a whole block's codes.
  layout.groups = grouping.map;
  layout.band_evidence = kRange;
  const int64_t groups = grouping.map.num_groups;
  layout.planes.push_back(
      {"scale", PlaneRole::kPerGroup, DType::kUint8, std::move(grouping.plane_shape), groups});
  return layout;
}

// Returns the absmax; 0 without finite values.
double ReachOf(const Range& range) {
  return range.min <= range.max ? std::max(std::fabs(range.min), std::fabs(range.max)) : 0;
}

// The exponent of a magnitude, at most f32's; below all others of 0.
int ExponentOf(double reach) {
  const auto biased = static_cast<int>(std::bit_cast<uint64_t>(reach) >> 52);
  return std::min(biased - 1023, 127);
}

bool IsMlx(const Resolved& resolved) { return resolved.spec.dialect == "mlx"; }

int ScaleOf(const mx::Element& element, double reach) {
  return std::max(ExponentOf(reach) - element.max_exponent + mx::kScaleBias, 0);
}

int MlxScaleOf(const mx::Element& element, double reach) {
  const float held = static_cast<float>(std::min<double>(reach, kLargest));
  const float s = held / static_cast<float>(element.largest);
  if (s == 0) return mx::kScaleBias;
  const auto bits = std::bit_cast<uint32_t>(s);
  if (s < std::numeric_limits<float>::min()) return s > 0x1p-127f ? 1 : 0;
  return static_cast<int>(bits >> 23) + ((bits & 0x7FFFFF) != 0);
}

void Resolve(MxElement which, const Resolved& resolved, std::span<const Range> ranges,
             ParamPlanes out) {
  const mx::Element& element = ElementOf(which);
  const auto scale_of = IsMlx(resolved) ? MlxScaleOf : ScaleOf;
  for (size_t i = 0; i < ranges.size(); ++i) {
    out.planes[kScalePlane][i] = static_cast<std::byte>(scale_of(element, ReachOf(ranges[i])));
  }
}

mx::Habits HabitsOf(MxElement which, const Resolved& resolved) {
  if (!IsMlx(resolved)) return {};
  return {.any = true, .ties_toward_zero = which == MxElement::kE2m1};
}

// Returns the scales of a segment, which lies in one layout row: group after group.
const uint8_t* ScalesAt(const Resolved& resolved, const ParamView& params, int64_t first_elem) {
  const int64_t group = resolved.layout.groups.RunAt(first_elem).group - params.first_group;
  return reinterpret_cast<const uint8_t*>(params.planes[kScalePlane].data()) + group;
}

void Encode(MxElement which, const Resolved& resolved, const Segment& segment,
            std::span<std::byte> out, Counts* counts, Meter* meter) {
  const mx::Element& element = ElementOf(which);
  const int64_t num_elems = segment.values.num_elems;
  uint8_t codes[kTileElems];
  auto* const packed = reinterpret_cast<uint8_t*>(out.data());
  const bool in_place = element.bits() == 8;
  counts->clipped += segment.values.Visit([&]<typename T>(const T* values) {
    return mx::ChosenTable().Of<T>().encode(
        element, HabitsOf(which, resolved), ScalesAt(resolved, segment.params, segment.first_elem), values, num_elems,
        in_place ? packed : codes, LanesOf<T>(meter));
  });
  if (!in_place) PackBits(codes, RoundUp(num_elems, kBlockElems), element.bits(), packed);
}

void Decode(MxElement which, const Resolved& resolved, std::span<const std::byte> packed,
            const ParamView& params, int64_t first_elem, TileSpan out) {
  const mx::Element& element = ElementOf(which);
  const auto* const from = reinterpret_cast<const uint8_t*>(packed.data());
  uint8_t codes[kTileElems];
  const bool in_place = element.bits() == 8;
  if (!in_place) UnpackBits(from, RoundUp(out.num_elems, kBlockElems), element.bits(), codes);
  out.Visit([&]<typename T>(T* values) {
    mx::ChosenTable().Of<T>().decode(element, ScalesAt(resolved, params, first_elem),
                                     in_place ? from : codes, out.num_elems, values);
  });
}

// The functions of a row.
template <MxElement kElement>
struct Row {
  static absl::StatusOr<PackedLayout> Plan(const SchemeInfo&, const QuantSpec& spec,
                                           const TensorDesc& tensor) {
    return quantd::Plan(kElement, spec, tensor);
  }
  static void Resolve(const Resolved& resolved, std::span<const Range> ranges, ParamPlanes out) {
    quantd::Resolve(kElement, resolved, ranges, out);
  }
  static void Encode(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                     Counts* counts, Meter* meter) {
    quantd::Encode(kElement, resolved, segment, out, counts, meter);
  }
  static void Decode(const Resolved& resolved, std::span<const std::byte> packed,
                     const ParamView& params, int64_t first_elem, TileSpan out) {
    quantd::Decode(kElement, resolved, packed, params, first_elem, out);
  }
  static void EncodeRef(const Resolved& resolved, const Segment& segment,
                        std::span<std::byte> out, Counts* counts) {
    EncodeMxRef(kElement, resolved, segment, out, counts);
  }
  static void DecodeRef(const Resolved& resolved, std::span<const std::byte> packed,
                        const ParamView& params, int64_t first_elem, TileSpan out) {
    DecodeMxRef(kElement, resolved, packed, params, first_elem, out);
  }
  static Scheme Make() {
    return {.info = {},
            .plan = Plan,
            .resolve_constants = nullptr,
            .resolve = Resolve,
            .encode = Encode,
            .decode = Decode,
            .encode_ref = EncodeRef,
            .decode_ref = DecodeRef};
  }
};

constexpr absl::string_view kDefinition =
    R"(Blocks of 32 of a row of the last axis; `tail=pad` fills the last one of each row with zeros.
absmax is the larger one of |min| and |max|, at most f32's largest:

    e = clamp(floor(log2(absmax)) - $0 + 127, 0, $1), 0 where absmax is 0; log2 is exact
    code = element(x / 2^(e - 127)), the nearest, ties to the even code                 in T
    x' = value of the code * 2^(e - 127)                                                in U

$3What rounds to more than $2 becomes that, with its sign. Clipped: |x / 2^(e - 127)| of $4 and
more. A scale of 255 is decoded to NaN.
$7
| plane | dtype | shape |
| --- | --- | --- |
| codes | uint8 | [.., ceil(L / 32) * $5]: $6 |
| scale | uint8 | [.., ceil(L / 32)]: e |
)";

constexpr absl::string_view kMlxDialect =
    R"(
Dialect mlx has, with absmax rounded to f32 (beyond it: its largest):

    s = absmax / $0, in f32
    e = 127 where s is 0, else max(ceil(log2(s)) + 127, 0); log2 is exact
$1
Where f32 does not hold the largest value times 2^(e - 127), the largest value of which it does takes
its place; clipped is then what lies half a step of the element or more beyond that.
)";

// How a format of floats reads.
constexpr absl::string_view kFloatElement =
    R"(The element has sign, $0 bits of exponent (bias $1) and $2 of fraction, with subnormals; the
sign is that of x, of zeros as well.$3
)";

std::string ElementText(MxElement which) {
  const MiniFormat& format = ElementOf(which).format;
  const absl::string_view special =
      which == MxElement::kE4m3   ? " Code 0x7F is NaN, 0x7E the largest."
      : which == MxElement::kE5m2 ? " Code 0x7C is infinity, those above NaN, 0x7B the largest."
                                  : "";
  if (which == MxElement::kInt8) {
    return "The element is a signed byte in two's complement, of which 64 is 1; -128, which is\n"
           "never made, is decoded to -2.\n";
  }
  return absl::Substitute(kFloatElement, format.exp_bits, format.bias, format.man_bits, special);
}

bool HasMlx(MxElement which) {
  return which == MxElement::kE2m1 || which == MxElement::kE4m3;
}

std::string MlxText(MxElement which) {
  if (!HasMlx(which)) return "";
  return absl::Substitute(
      kMlxDialect, ElementOf(which).largest,
      which == MxElement::kE2m1 ? "\nTies go toward zero, and code 0 has no sign." : "");
}

std::string DefinitionOf(MxElement which) {
  const mx::Element& element = ElementOf(which);
  const bool twos = element.twos_complement;
  const absl::string_view packing =
      element.bits() == 8   ? "bytes"
      : element.bits() == 4 ? "nibbles low first"
                            : "6 bits a code, the first in the lowest bits of a stream; bit j of "
                              "it is bit j mod 8 of byte j / 8";
  return absl::Substitute(kDefinition, element.max_exponent, 254 - element.max_exponent,
                          twos ? "127 / 64" : absl::StrCat(element.largest), ElementText(which),
                          twos ? "127.5 / 64" : absl::StrCat(element.clip),
                          kBlockElems / 8 * element.bits(), packing, MlxText(which));
}

}  // namespace

Scheme MxScheme(MxElement element, absl::string_view name, absl::string_view summary) {
  static constexpr auto kMakers = []<size_t... kIndex>(std::index_sequence<kIndex...>) {
    return std::array{Row<static_cast<MxElement>(kIndex)>::Make...};
  }(std::make_index_sequence<kElements.size()>());
  Scheme scheme = kMakers[static_cast<size_t>(element)]();
  SchemeInfo& info = scheme.info;
  info.name = name;
  info.summary = summary;
  info.source = "OCP Microscaling Formats (MX) 1.0, as Microsoft's microxcaling has it";
  info.definition = DefinitionOf(element);
  info.bits_per_code = ElementOf(element).bits();
  info.granularities = {{.kind = GranularityKind::kGroup, .group_elems = kBlockElems}};
  info.roundings = {Rounding::kHalfEven};
  info.dialects = {{.name = "ocp"}};
  if (HasMlx(element)) info.dialects.push_back({.name = "mlx"});
  info.nonfinites = {NonFinite::kReject, NonFinite::kSaturate};
  info.tails = {Tail::kReject, Tail::kPad};
  return scheme;
}

}  // namespace quantd
