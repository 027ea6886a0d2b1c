// The rows' functions, by the rules of bitsandbytes.h. A code is found among ascending levels; fp4
// numbers them otherwise, so its codes are looked up by their places afterwards. An instance for
// each book hands it on, since functions of a row get no more than its info.
//
// The entry is BitsandbytesScheme. Tested by tests/core/scheme/reference_test.cc and
// golden_test.cc.
#include "core/scheme/bitsandbytes.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_join.h"
#include "absl/strings/substitute.h"
#include "core/base/checked_math.h"
#include "core/base/status_macros.h"
#include "core/scheme/affine.h"
#include "core/scheme/bitsandbytes_ref.h"
#include "core/scheme/codebook.h"
#include "core/scheme/nested_scales.h"
#include "core/scheme/scheme.h"
#include "core/simd/bits.h"

namespace quantd {
namespace {

constexpr size_t kScalePlane = 1;
constexpr size_t kCodebookPlane = 2;
constexpr size_t kNestedScalePlane = 3;  // these with scale_type=nested8
constexpr size_t kNestedCodebookPlane = 4;
constexpr size_t kNestedOffsetPlane = 5;
constexpr int64_t kMinGroupElems = 64;
constexpr int64_t kMaxRuns = kTileElems / kMinGroupElems + 2;  // of a segment, with cut ends
constexpr size_t kZeroPlace = 7;  // of v = 0, among ascending levels
constexpr float kMinScale = 0x1.000008p-128f;  // the least whose reciprocal f32 holds

constexpr absl::string_view kDefinition =
    R"(Groups of the flat tensor (not of its rows); the last one may be short. Levels, as f32,
ascending:

$0

absmax is the larger one of |min| and |max|, rounded to f32 (beyond it: its largest); s is 1 where
that is 0, else absmax, at least 2^-128 + 2^-149, the least f32 with a finite reciprocal.

    v = x * (1 / s)                                                          in T
    $1 = how many of the 15 middles f32((level + next) / 2) lie below v
    x' = codebook[code] * s                                                  in U
$2
An all-zero group has s = 1 and codes $3, where bitsandbytes stores s = 0. Clipped: v at most
-1 - (level 1 - level 0) / 2, or at least 1 + (level 15 - level 14) / 2, in ascending order.

`scale_type=nested8`: codes are made with s as above; stored, and decoded with, are scales of 8 bits.
There an all-zero group counts with absmax 0. In f32, each step rounded:

    offset = f32(sum of absmax of all groups in order / their number)        in f64
    rest = absmax - offset,  nested = the largest |rest| of each 256 groups
    t = clamp(rest * (1 / nested), -1, 1)
    bin = (((t + 1) * 0.5) * 65535) + 0.5, rounded down;  place = -1 + (2 * bin) / 65535
    code = how many of the 255 middles 0.5 * (level + next) lie below place, or the next one below
           that has a finite s'
    s' = nested_codebook[code] * nested + offset,  x' = codebook[code of x] * s'

Where 1 / nested is not finite nested is 0 and so are the codes. The 256 levels, ascending: 0, 1, and
for i = 0 to 6 plus and minus f32(10^(i - 6)) * m in f32 for each m = (e[k] + e[k + 1]) / 2, k from 0
to 2^i - 1. Edges e[k], with h = (1 - f32(0.1)) / 2^i, are fma(h, k, f32(0.1)) for k < (2^i + 1) / 2
rounded down, else fma(-h, 2^i - k, 1).

| plane | dtype | shape |
| --- | --- | --- |
| codes | uint8 | [ceil(n / 2)]: nibbles HIGH first, over the flat tensor, $3 beside an odd last one |
| scale | f32; nested8: uint8 | [groups] |
| codebook | f32 | [16]: the levels, by code |
| nested_scale | f32 | [ceil(groups / 256)]: nested; nested8 alone, as those that follow |
| nested_codebook | f32 | [256] |
| nested_offset | f32 | [1] |
)";

// Levels, ascending, and the code of each.
struct Book {
  std::array<float, 16> levels;
  std::array<uint8_t, 16> codes;
  absl::string_view levels_text;
};

// bitsandbytes/functional.py, get_4bit_type; in the order of BitsandbytesCode.
constexpr Book kBooks[] = {
    {{-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
      -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
      0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
      0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f},
     {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
     "    -1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,\n"
     "    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0,\n"
     "    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,\n"
     "    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1"},
    {{-1.0f, -0.6666666865348816f, -0.5f, -0.3333333432674408f, -0.25f, -0.1666666716337204f,
      -0.0052083334885537624f, 0.0f, 0.0f, 0.0052083334885537624f, 0.1666666716337204f, 0.25f,
      0.3333333432674408f, 0.5f, 0.6666666865348816f, 1.0f},
     {11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3},
     "    -1, -0.6666666865348816, -0.5, -0.3333333432674408, -0.25, -0.1666666716337204,\n"
     "    -0.0052083334885537624, 0, 0, 0.0052083334885537624, 0.1666666716337204, 0.25,\n"
     "    0.3333333432674408, 0.5, 0.6666666865348816, 1"}};

constexpr const Book& BookOf(BitsandbytesCode code) { return kBooks[static_cast<size_t>(code)]; }

// True if places are codes.
constexpr bool IsInOrder(const Book& book) {
  return std::is_sorted(book.codes.begin(), book.codes.end());
}

constexpr std::array<float, 16> LevelsByCode(const Book& book) {
  std::array<float, 16> levels = {};
  for (size_t k = 0; k < 16; ++k) levels[book.codes[k]] = book.levels[k];
  return levels;
}

template <BitsandbytesCode kCode, typename T>
constexpr Codebook<T> kCodebook = [] {
  constexpr const std::array<float, 16>& kLevels = BookOf(kCode).levels;
  Codebook<T> book = {.levels = kLevels};
  for (size_t k = 0; k < 15; ++k) {  // in f32 for f64 as well
    book.middles[k] = static_cast<float>((double{kLevels[k]} + double{kLevels[k + 1]}) / 2);
  }
  // Half a step beyond the outermost codes.
  book.low_clip = static_cast<T>(-1 - (double{kLevels[1]} + 1) / 2);
  book.high_clip = static_cast<T>(1 + (1 - double{kLevels[14]}) / 2);
  return book;
}();

bool IsNested(const QuantSpec& spec) { return spec.scale_type == ScaleType::kNested8; }

// Returns the absmax, as far as f32 holds it.
double ReachOf(const Range& range) {
  if (!(range.min <= range.max)) return 0;
  const double reach = std::max(std::fabs(range.min), std::fabs(range.max));
  return std::min<double>(reach, std::numeric_limits<float>::max());
}

// Adds what nested scales need.
absl::StatusOr<PackedLayout> PlanNested(PackedLayout layout) {
  const int64_t entries = CeilDiv(layout.groups.num_groups, kNestedGroups);
  QUANTD_ASSIGN_OR_RETURN(Shape scale_shape, Shape::Make({entries}));
  QUANTD_ASSIGN_OR_RETURN(Shape codebook_shape, Shape::Make({256}));
  QUANTD_ASSIGN_OR_RETURN(Shape offset_shape, Shape::Make({1}));
  constexpr int64_t kFloatBytes = sizeof(float);
  layout.planes.push_back({"nested_scale", PlaneRole::kPerGroup, DType::kF32, scale_shape,
                           entries * kFloatBytes, kNestedGroups});
  layout.planes.push_back({"nested_codebook", PlaneRole::kConstant, DType::kF32, codebook_shape,
                           256 * kFloatBytes});
  layout.planes.push_back(
      {"nested_offset", PlaneRole::kConstant, DType::kF32, offset_shape, kFloatBytes});
  layout.working_bytes = kFloatBytes;
  layout.tensor_evidence = kGroupRanges;
  return layout;
}

absl::StatusOr<PackedLayout> Plan(const SchemeInfo&, const QuantSpec& spec,
                                     const TensorDesc& tensor) {
  const int64_t num_elems = tensor.shape.num_elems();
  PackedLayout layout;
  layout.row_elems = num_elems;
  layout.atom_elems = 2;
  layout.groups.row_elems = std::max<int64_t>(num_elems, 1);
  layout.groups.run_elems = spec.granularity->group_elems;
  layout.groups.num_groups = CeilDiv(num_elems, layout.groups.run_elems);
  layout.groups.runs_per_row = std::max<int64_t>(layout.groups.num_groups, 1);
  layout.band_evidence = kRange;
  const int64_t groups = layout.groups.num_groups;
  QUANTD_ASSIGN_OR_RETURN(Shape code_shape, Shape::Make({CeilDiv(num_elems, 2)}));
  QUANTD_ASSIGN_OR_RETURN(Shape scale_shape, Shape::Make({groups}));
  QUANTD_ASSIGN_OR_RETURN(Shape codebook_shape, Shape::Make({16}));
  const bool nested = IsNested(spec);
  const DType scale_type = nested ? DType::kUint8 : DType::kF32;
  QUANTD_ASSIGN_OR_RETURN(int64_t scale_bytes, CheckedMul(groups, SizeOf(scale_type)));
  layout.planes = {
      {"codes", PlaneRole::kCodes, DType::kUint8, code_shape, code_shape.num_elems()},
      {"scale", PlaneRole::kPerGroup, scale_type, scale_shape, scale_bytes},
      {"codebook", PlaneRole::kConstant, DType::kF32, codebook_shape, 16 * sizeof(float)}};
  return nested ? PlanNested(std::move(layout)) : layout;
}

template <BitsandbytesCode kCode>
void ResolveCodebook(const Resolved& resolved, const TensorEvidence& tensor, ParamPlanes out) {
  static constexpr std::array<float, 16> kLevels = LevelsByCode(BookOf(kCode));
  std::memcpy(out.planes[kCodebookPlane].data(), kLevels.data(), sizeof(kLevels));
  if (!IsNested(resolved.spec)) return;
  std::memcpy(out.planes[kNestedCodebookPlane].data(), NestedLevels().data(),
              sizeof(NestedLevels()));
  double sum = 0;
  for (const Range& range : tensor.groups) sum += static_cast<float>(ReachOf(range));
  const double count = static_cast<double>(std::max<size_t>(tensor.groups.size(), 1));
  const float offset = static_cast<float>(sum / count);
  std::memcpy(out.planes[kNestedOffsetPlane].data(), &offset, sizeof(offset));
}

void ResolveNested(std::span<const Range> ranges, ParamPlanes out) {
  float offset;
  std::memcpy(&offset, out.planes[kNestedOffsetPlane].data(), sizeof(offset));
  float scales[kNestedGroups];
  for (size_t begin = 0; begin < ranges.size(); begin += kNestedGroups) {
    const size_t count = std::min<size_t>(kNestedGroups, ranges.size() - begin);
    for (size_t i = 0; i < count; ++i) scales[i] = static_cast<float>(ReachOf(ranges[begin + i]));
    auto* codes = reinterpret_cast<uint8_t*>(out.planes[kScalePlane].data()) + begin;
    const float nested = EncodeNestedScales({scales, count}, offset, codes);
    std::memcpy(out.planes[kNestedScalePlane].data() + begin / kNestedGroups * sizeof(float),
                &nested, sizeof(nested));
  }
}

void ResolveScales(const Resolved& resolved, std::span<const Range> ranges, ParamPlanes out) {
  const bool nested = IsNested(resolved.spec);
  if (nested) ResolveNested(ranges, out);
  std::byte* to = nested ? out.working.data() : out.planes[kScalePlane].data();
  for (size_t i = 0; i < ranges.size(); ++i) {
    const float reach = static_cast<float>(ReachOf(ranges[i]));
    const float scale = reach == 0 ? 1 : std::max(reach, kMinScale);
    std::memcpy(to + i * sizeof(float), &scale, sizeof(float));
  }
}

// What is stored of the scales of groups, restored.
class StoredScales {
 public:
  StoredScales(const Resolved& resolved, const ParamView& params)
      : params_(params), nested_(IsNested(resolved.spec)) {
    if (nested_) offset_ = LoadAt(Floats(kNestedOffsetPlane), 0);
  }

  float At(int64_t group) const {
    const int64_t at = group - params_.first_group;
    if (!nested_) return LoadAt(Floats(kScalePlane), at);
    const auto* codes = reinterpret_cast<const uint8_t*>(params_.planes[kScalePlane].data());
    const float nested = LoadAt(Floats(kNestedScalePlane), at / kNestedGroups);
    return LoadAt(Floats(kNestedCodebookPlane), codes[at]) * nested + offset_;
  }

 private:
  const float* Floats(size_t plane) const {
    return reinterpret_cast<const float*>(params_.planes[plane].data());
  }

  const ParamView& params_;
  const bool nested_;
  float offset_ = 0;
};

// The runs of a segment.
template <typename T>
class Runs {
 public:
  Runs(const Resolved& resolved, const ParamView& params, int64_t first_elem, int64_t num_elems) {
    const StoredScales stored(resolved, params);
    const auto* working = reinterpret_cast<const float*>(params.working.data());
    for (RunWalker run(resolved.layout.groups, first_elem, first_elem + num_elems); !run.done();
         run.Next()) {
      const T scale = stored.At(run.group());
      const int64_t at = run.group() - params.first_group;
      const T divisor = params.working.empty() ? scale : T{LoadAt(working, at)};
      runs_[count_++] = {run.num_elems(), T{1} / divisor, scale};
    }
  }
  operator std::span<const CodebookRun<T>>() const { return {runs_, count_}; }  // NOLINT

 private:
  CodebookRun<T> runs_[kMaxRuns];
  size_t count_ = 0;
};

template <BitsandbytesCode kCode>
void Encode(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
               Counts* counts, Meter* meter) {
  constexpr const Book& kBook = BookOf(kCode);
  const TileView& values = segment.values;
  uint8_t codes[kTileElems + 1];
  counts->clipped += values.Visit([&]<typename T>(const T* from) {
    const Runs<T> runs(resolved, segment.params, segment.first_elem, values.num_elems);
    return CodebookTable().Of<T>().encode(kCodebook<kCode, T>, runs, from, codes,
                                          LanesOf<T>(meter));
  });
  codes[values.num_elems] = kZeroPlace;
  if constexpr (!IsInOrder(kBook)) CodebookTable().recode(kBook.codes, values.num_elems + 1, codes);
  PackNibbles(codes, RoundUp(values.num_elems, 2), /*first_high=*/true,
              reinterpret_cast<uint8_t*>(out.data()));
}

void Decode(const Resolved& resolved, std::span<const std::byte> packed, const ParamView& params,
               int64_t first_elem, TileSpan out) {
  uint8_t codes[kTileElems];
  UnpackNibbles(reinterpret_cast<const uint8_t*>(packed.data()), out.num_elems, /*first_high=*/true,
                codes);
  std::array<float, 16> levels;
  std::memcpy(levels.data(), params.planes[kCodebookPlane].data(), sizeof(levels));
  out.Visit([&]<typename T>(T* to) {
    const Runs<T> runs(resolved, params, first_elem, out.num_elems);
    CodebookTable().Of<T>().decode(levels, runs, codes, to);
  });
}

std::string DefinitionOf(BitsandbytesCode code) {
  const Book& book = BookOf(code);
  std::string numbers;
  if (!IsInOrder(book)) {
    numbers = absl::Substitute("    code = the one of the place, of $0\n",
                               absl::StrJoin(book.codes, " "));
  }
  return absl::Substitute(kDefinition, book.levels_text, numbers.empty() ? "code" : "place",
                          numbers, book.codes[kZeroPlace]);
}

template <BitsandbytesCode kCode>
Scheme Make() {
  return {.info = {},
          .plan = Plan,
          .resolve_constants = ResolveCodebook<kCode>,
          .resolve = ResolveScales,
          .encode = Encode<kCode>,
          .decode = Decode,
          .encode_ref = EncodeBitsandbytesRef,
          .decode_ref = DecodeBitsandbytesRef};
}

}  // namespace

Scheme BitsandbytesScheme(BitsandbytesCode code, absl::string_view name,
                          absl::string_view summary) {
  Scheme scheme = code == BitsandbytesCode::kNf4 ? Make<BitsandbytesCode::kNf4>()
                                                 : Make<BitsandbytesCode::kFp4>();
  SchemeInfo& info = scheme.info;
  info.name = name;
  info.summary = summary;
  info.source = "bitsandbytes, which has scale 0 for all-zero groups: here 1";
  info.definition = DefinitionOf(code);
  info.bits_per_code = info.bits = 4;
  for (int64_t group_elems = kMinGroupElems; group_elems <= kTileElems; group_elems *= 2) {
    info.granularities.push_back({.kind = GranularityKind::kGroup, .group_elems = group_elems});
  }
  info.scale_types = {ScaleType::kF32, ScaleType::kNested8};
  info.dialects = {{.name = "bitsandbytes"}};
  info.nonfinites = {NonFinite::kReject, NonFinite::kSaturate};
  info.tails = {Tail::kShort};
  info.takes_range = true;
  return scheme;
}

}  // namespace quantd
