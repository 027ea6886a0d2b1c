// lloyd: a codebook that is learned from the tensor, of 16 levels and codes of 4 bits, or of 2 to
// 256 (`levels=`, a power of two) and 1 to 8 bits: for values that no fixed codebook fits. No
// scale: levels are values. The levels minimise the squared error (Lloyd, "Least squares
// quantization in PCM", 1982; Max 1960):
//
//   each value belongs to its nearest level;  each level is the mean of its values;  again
//
//   histogram   ..:||:.....      middles  |  |  |     what lies between two middles is a cell,
//   levels        ^  ^  ^                             its level the mean of the points in it
//
// Points are the buckets of the histogram of bf16: its exact counts are the same however values
// were scanned, and a round takes 65,280 steps at most: 64 rounds 2 ms for usual tensors, 40 for
// all magnitudes. A bucket lies at its midpoint, or, where values are bf16 or smaller integers, at the
// one value that it can hold; that of zero lies at 0. All is in double, points in ascending order.
// The first of up to 16 levels, L, are the points at the (j + 1/2) / L quantiles. In each round the
// lowest cell without points, if any, takes the point with the largest count * error^2 (the first
// of equal ones, if that is not 0), so that spikes do not hold several levels: for 90 % of zeros,
// 14 of 16 quantiles are 0. It ends when levels stay, or after 64 rounds. More than 16 levels come from
// half as many, found so: each cell is cut at its level (Linde, Buzo and Gray 1980), for from
// quantiles, which are too dense in the middle, 64 rounds would leave 256 levels with seven times
// the error.
//
//   levels rounded to f32,  code = how many of the L - 1 middles (in double) are below x
//   x' = level
//
// Rows and groups (axis=0, group=) have a codebook each, from their values, of which each that
// differs is a point; groups that recur, as columns, are refused. Or the caller gives the codebook
// of the tensor: then nothing is learned, and values stream by.
//
// A value on a middle takes the lower code. The codes of the flat tensor are a stream of bits, the
// first in the lowest bits of a byte; behind the last one are zeros, until codes and bytes end
// together. Up to 16 levels lie in registers; more are gathered, which is slower.
//
// Source: no one's bytes but ours. The entry is lloyd_scheme. Tested by
// tests/core/scheme/lloyd_test.cc and segments_test.cc.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "core/base/checked_math.h"
#include "core/base/copy_bytes.h"
#include "core/base/status_macros.h"
#include "core/scheme/codebook.h"
#include "core/scheme/group_entries.h"
#include "core/scheme/lloyd_levels.h"
#include "core/scheme/scheme.h"
#include "core/simd/bits.h"

namespace quantd {
namespace {

constexpr size_t kCodebookPlane = 1;

constexpr char kDefinition[] =
    R"(L levels (`levels`) for the tensor, or for each group, learned from the finite values. The codebook of
the tensor may be given instead, in ascending order; else it is learned from a histogram. The buckets
of the histogram are the upper 16 bits of the value as f32 (f64: rounded to it, beyond it its largest).
A bucket with values is a point with their number as its weight. It lies at 0 where the edge
of the bucket nearer to zero is 0; else at that edge where the original is bf16, int8 or uint8, and in
the middle between both edges where it is not; the edge behind the last bucket is 2^128. Of groups,
the values that differ, -0 as 0, are the points, each at most f32's largest in magnitude, with their
number as weight. Points are taken in ascending order, of buckets first those with the sign bit, then
those without; all in f64, W being the sum of all weights:

    first     level j = the first point with which the weights so far are at least
              (2 * j + 1) / (2 * L) * W
    a round   a point belongs to cell k, k being how many of the L - 1 middles
              (level + next) / 2 lie below it
              next level k = sum of x * weight of cell k / its weight, sums in the order of points
              the first cell without points takes the point with the largest weight * error^2
              (computed (error * error) * weight, the first of equal ones), unless that is 0;
              other cells without points keep their level; then levels are sorted

Rounds end when all levels stay, or after 64. More than 16 levels are first those of L / 2, after
their rounds, each cut in two: the means of the points of its cell up to the level and of those above
it, by sums as before, or the level itself where there are none; then follow rounds. The levels,
rounded to f32, are the codebook.

    code = how many of the L - 1 middles (level + next) / 2 of the codebook, in f64, lie below x
    x' = codebook[code]

Clipped: beyond an outermost level by half of the way to the next one that differs, or more. A tensor
or group without finite values has levels of 0. Axes whose groups recur are refused.

| plane | dtype | shape |
| --- | --- | --- |
| codes | uint8 | [ceil(n / A) * A * b / 8], b = log2(L), A = 8 / gcd(8, b) |
| codebook | f32 | [L], of groups [.., L], .. being the shape of a scale |

The codes of the flat tensor are one stream: bit j of code i is bit b * i + j of it, bit k of it is bit
k mod 8 of byte k / 8; what is behind the last code is 0.
)";

// How many levels there are, and what a code of them takes.
size_t NumLevels(const QuantSpec& spec) { return *spec.levels; }
int BitsOf(const QuantSpec& spec) { return std::countr_zero(*spec.levels); }
bool IsOfTensor(const QuantSpec& spec) {
  return spec.granularity->kind == GranularityKind::kTensor;
}

absl::StatusOr<PackedLayout> PlanLloyd(const SchemeInfo&, const QuantSpec& spec,
                                       const TensorDesc& tensor) {
  QUANTD_ASSIGN_OR_RETURN(Grouping grouping,
                          MakeGrouping(*spec.granularity, *spec.tail, tensor.shape));
  const bool of_tensor = IsOfTensor(spec);
  const int64_t num_elems = tensor.shape.num_elems();
  const int64_t bits = BitsOf(spec), num_levels = static_cast<int64_t>(NumLevels(spec));
  PackedLayout layout;
  layout.row_elems = num_elems;
  layout.atom_elems = 8 / std::gcd<int64_t>(8, bits);
  layout.atom_bytes = layout.atom_elems * bits / 8;
  layout.groups = grouping.map;
  (of_tensor ? layout.tensor_evidence : layout.band_evidence) = of_tensor ? kHistogram : kValues;
  QUANTD_ASSIGN_OR_RETURN(
      int64_t code_bytes,
      CheckedMul(CeilDiv(num_elems, layout.atom_elems), layout.atom_bytes));
  QUANTD_ASSIGN_OR_RETURN(Shape code_shape, Shape::Make({code_bytes}));
  const std::span<const int64_t> of_groups = grouping.plane_shape.dims();
  std::vector<int64_t> dims(of_groups.begin(), of_groups.end());
  dims.push_back(num_levels);
  QUANTD_ASSIGN_OR_RETURN(Shape codebook_shape, Shape::Make(std::move(dims)));
  QUANTD_ASSIGN_OR_RETURN(const int64_t codebook_bytes,
                          CheckedMul(codebook_shape.num_elems(), sizeof(float)));
  layout.planes = {{"codes", PlaneRole::kCodes, DType::kUint8, code_shape, code_bytes},
                   {"codebook", of_tensor ? PlaneRole::kConstant : PlaneRole::kPerGroup,
                    DType::kF32, codebook_shape, codebook_bytes}};
  return layout;
}

void StoreLevels(const std::vector<double>& levels, ParamPlanes out) {
  for (size_t k = 0; k < levels.size(); ++k) {
    const auto rounded = static_cast<float>(levels[k]);
    std::memcpy(&out.planes[kCodebookPlane][k * sizeof(float)], &rounded, sizeof(float));
  }
}

void LearnLevels(const Resolved& resolved, const TensorEvidence& tensor, ParamPlanes out) {
  if (!IsOfTensor(resolved.spec)) return;  // which groups learn themselves
  const std::span<const float> given = tensor.codebook;
  StoreLevels(given.empty() ? LloydLevels(*tensor.histogram, resolved.tensor.dtype,
                                          NumLevels(resolved.spec))
                            : std::vector<double>(given.begin(), given.end()),
              out);
}

void LearnLevelsOfValues(const Resolved& resolved, TileSpan finite, ParamPlanes out) {
  StoreLevels(LloydLevels(finite, NumLevels(resolved.spec)), out);
}

const float* LevelsOf(const Resolved& resolved, const ParamView& params, int64_t entry) {
  return reinterpret_cast<const float*>(params.planes[kCodebookPlane].data()) +
         entry * static_cast<int64_t>(NumLevels(resolved.spec));
}

// Returns the largest T that is not above `x`, or infinity; NaN is none.
template <typename T>
T RoundDown(double x) {
  constexpr double kLargest = std::numeric_limits<T>::max();
  if (x < -kLargest) return -std::numeric_limits<T>::infinity();
  const T rounded = static_cast<T>(std::min(x, kLargest));
  return rounded > x ? std::nextafter(rounded, -std::numeric_limits<T>::infinity()) : rounded;
}

// Compared with values of type T, the bounds are as good as in double.
template <typename T>
WideCodebook<T> BookOf(const Resolved& resolved, const float* levels) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const size_t last = NumLevels(resolved.spec) - 1;
  const auto level = [&](size_t k) { return double{LoadAt(levels, static_cast<int64_t>(k))}; };
  WideCodebook<T> book;
  book.bits = BitsOf(resolved.spec);
  for (size_t k = 0; k <= last; ++k) book.levels[k] = static_cast<T>(level(k));
  for (size_t k = 0; k < last; ++k) book.middles[k] = RoundDown<T>((level(k) + level(k + 1)) / 2);
  // The step of an outermost level is the way to the next that differs.
  double low = -kInfinity, high = kInfinity;
  for (size_t k = last; k > 0; --k) {
    if (level(k) > level(0)) low = level(0) - (level(k) - level(0)) / 2;
    if (level(last - k) < level(last)) high = level(last) + (level(last) - level(last - k)) / 2;
  }
  book.low_clip = RoundDown<T>(low);
  book.high_clip = -RoundDown<T>(-high);
  return book;
}

// The same of up to 16 levels; codes beyond them are not reached.
template <typename T>
Codebook<T> Narrow(const WideCodebook<T>& wide) {
  Codebook<T> book = {.levels = {}, .middles = {}, .low_clip = wide.low_clip,
                      .high_clip = wide.high_clip};
  const size_t count = size_t{1} << wide.bits;
  book.middles.fill(std::numeric_limits<T>::infinity());
  for (size_t k = 0; k < count; ++k) book.levels[k] = static_cast<float>(wide.levels[k]);
  std::copy_n(wide.middles.begin(), count - 1, book.middles.begin());
  return book;
}

// Writes what the codes of elements next to each other with one codebook stand for.
template <typename T>
void DecodeRun(const Resolved& resolved, const float* codebook, const uint8_t* codes,
               int64_t num_elems, T* values) {
  const size_t num_levels = NumLevels(resolved.spec);
  std::array<float, 256> levels = {};
  std::memcpy(levels.data(), codebook, num_levels * sizeof(float));
  if (num_levels <= 16) {
    std::array<float, 16> few;
    std::copy_n(levels.begin(), few.size(), few.begin());
    const CodebookRun<T> run = {num_elems, 1, 1};
    return CodebookTable().Of<T>().decode(few, {&run, 1}, codes, values);
  }
  for (int64_t i = 0; i < num_elems; ++i) {
    const T level = static_cast<T>(levels[codes[i]]);
    CopyBytes(values + i, &level, sizeof(level));
  }
}

template <typename T>
void DecodeCodes(const Resolved& resolved, const ParamView& params, int64_t first_elem,
                 int64_t num_elems, const uint8_t* codes, T* values) {
  ForEachEntry(resolved.layout.groups, params, first_elem, num_elems,
               [&](int64_t entry, int64_t begin, int64_t count) {
                 DecodeRun(resolved, LevelsOf(resolved, params, entry), codes + begin, count,
                           values + begin);
               });
}

// Writes the codes of elements next to each other with one codebook; returns how many are clipped.
template <typename T>
int64_t EncodeRun(const Resolved& resolved, const float* levels, const T* values,
                  int64_t num_elems, uint8_t* codes, MeterLanes<T>* lanes) {
  const WideCodebook<T> book = BookOf<T>(resolved, levels);
  const CodebookKernels<T>& kernels = CodebookTable().Of<T>();
  if (book.bits > 4) return kernels.encode_wide(book, values, num_elems, codes, lanes);
  const CodebookRun<T> run = {num_elems, 1, 1};
  return kernels.encode(Narrow(book), {&run, 1}, values, codes, lanes);
}

void EncodeLloyd(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                 Counts* counts, Meter* meter) {
  const int64_t num_elems = segment.values.num_elems, first_elem = segment.first_elem;
  const ParamView& params = segment.params;
  const bool one_run = IsOfTensor(resolved.spec);  // which its kernel measures
  uint8_t codes[kTileElems];
  segment.values.Visit([&]<typename T>(const T* values) {
    ForEachEntry(resolved.layout.groups, params, first_elem, num_elems,
                 [&](int64_t entry, int64_t begin, int64_t count) {
                   counts->clipped += EncodeRun(resolved, LevelsOf(resolved, params, entry),
                                                values + begin, count, codes + begin,
                                                one_run ? LanesOf<T>(meter) : nullptr);
                 });
    if (meter == nullptr || one_run) return;
    T decoded[kTileElems];
    DecodeCodes(resolved, params, first_elem, num_elems, codes, decoded);
    ForEachRun(resolved.layout.groups, first_elem, num_elems, [&](int64_t begin, int64_t count) {
      MeasureSegment(values + begin, decoded + begin, count, meter->lanes<T>());
    });
  });
  const int64_t padded = RoundUp(num_elems, resolved.layout.atom_elems);
  std::fill(codes + num_elems, codes + padded, uint8_t{0});
  PackBits(codes, padded, BitsOf(resolved.spec), reinterpret_cast<uint8_t*>(out.data()));
}

void DecodeLloyd(const Resolved& resolved, std::span<const std::byte> packed,
                 const ParamView& params, int64_t first_elem, TileSpan out) {
  uint8_t codes[kTileElems];
  UnpackBits(reinterpret_cast<const uint8_t*>(packed.data()), out.num_elems,
             BitsOf(resolved.spec), codes);
  out.Visit([&](auto* to) {
    DecodeCodes(resolved, params, first_elem, out.num_elems, codes, to);
  });
}

// --- The scalar definitions ---

// The codebook of an element.
struct BookRef {
  BookRef(const Resolved& resolved, const ParamView& params, int64_t elem)
      : num_levels(*resolved.spec.levels), levels(params.planes[kCodebookPlane]) {
    if (resolved.spec.granularity->kind == GranularityKind::kTensor) return;
    const int64_t entry = resolved.layout.groups.RunAt(elem).group - params.first_group;
    levels = levels.subspan(static_cast<size_t>(entry) * num_levels * 4);
  }
  double operator[](int code) const {
    float level;
    std::memcpy(&level, &levels[static_cast<size_t>(code) * 4], 4);
    return level;
  }

  size_t num_levels;
  std::span<const std::byte> levels;
};

int EncodeOne(double x, const BookRef& book, Counts* counts) {
  const int last = static_cast<int>(book.num_levels) - 1;
  const double lowest = book[0], highest = book[last];
  int above = 1, below = last - 1;  // the neighbours of the outermost levels
  while (above < last && book[above] == lowest) ++above;
  while (below > 0 && book[below] == highest) --below;
  if (lowest < highest) {
    counts->clipped += x <= lowest - (book[above] - lowest) / 2 ||
                       x >= highest + (highest - book[below]) / 2;
  }
  int code = 0;
  while (code < last && x > (book[code] + book[code + 1]) / 2) ++code;
  return code;
}

void EncodeLloydRef(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                    Counts* counts) {
  const TileView& values = segment.values;
  const auto bits = static_cast<int64_t>(std::log2(*resolved.spec.levels));
  std::fill(out.begin(), out.end(), std::byte{0});
  for (int64_t i = 0; i < values.num_elems; ++i) {
    const double x = values.Visit([&](const auto* from) { return double{LoadAt(from, i)}; });
    const BookRef book(resolved, segment.params, segment.first_elem + i);
    const int code = EncodeOne(x, book, counts);
    for (int64_t bit = 0; bit < bits; ++bit) {
      const auto at = static_cast<size_t>(i * bits + bit);
      out[at / 8] |= static_cast<std::byte>((code >> bit & 1) << at % 8);
    }
  }
}

void DecodeLloydRef(const Resolved& resolved, std::span<const std::byte> packed,
                    const ParamView& params, int64_t first_elem, TileSpan out) {
  const auto bits = static_cast<int64_t>(std::log2(*resolved.spec.levels));
  for (int64_t i = 0; i < out.num_elems; ++i) {
    int code = 0;
    for (int64_t bit = 0; bit < bits; ++bit) {
      const auto at = static_cast<size_t>(i * bits + bit);
      code |= (std::to_integer<int>(packed[at / 8]) >> at % 8 & 1) << bit;
    }
    const double level = BookRef(resolved, params, first_elem + i)[code];
    out.Visit([&]<typename T>(T* to) { to[i] = static_cast<T>(level); });
  }
}

}  // namespace

const Scheme& lloyd_scheme() {
  static const Scheme kScheme = [] {
    Scheme scheme = {.info = {},
                     .plan = PlanLloyd,
                     .resolve_constants = LearnLevels,
                     .resolve = nullptr,
                     .resolve_values = LearnLevelsOfValues,
                     .encode = EncodeLloyd,
                     .decode = DecodeLloyd,
                     .encode_ref = EncodeLloydRef,
                     .decode_ref = DecodeLloydRef};
    SchemeInfo& info = scheme.info;
    info.name = "lloyd";
    info.summary = "codes of 16 levels, or 2 to 256, that are learned from the values, or given";
    info.source = "nobody else's; the method of Lloyd 1982, Max 1960";
    info.definition = kDefinition;
    info.bits_per_code = info.bits = 4;
    info.granularities = {{.kind = GranularityKind::kTensor},
                          {.kind = GranularityKind::kAxis},
                          {.kind = GranularityKind::kGroup}};
    info.levels = {16, 2, 4, 8, 32, 64, 128, 256};
    info.nonfinites = {NonFinite::kReject, NonFinite::kSaturate};
    info.tails = {Tail::kReject, Tail::kShort};
    info.takes_codebook = true;
    return scheme;
  }();
  return kScheme;
}

}  // namespace quantd
