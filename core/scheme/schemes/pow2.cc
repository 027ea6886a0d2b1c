// pow2: a sign and a power of two, or 0, in 4 bits: multiplications by such weights are shifts.
//
//   x      0.7 -0.1  0.03  0     s = 0.7 -> scale 2^-1, the largest power of two that is used
//   v      1.4 -0.2  0.06  0     v = x / scale
//   x'     1/2 -1/8  1/32  0     codes 0x7 0xD 0x3 0x0      | sign | e: 0, or 2^(e - 7) * scale |
//
// Levels lie close near 0 and far apart at the ends, so that outliers cost little: normal values
// keep 14.2 dB in groups of any size, where int4 has 18.6 in groups of 128 and 13.6 in a million. A
// value takes the nearest level in the linear domain, the larger one where two are as near, so that
// the largest power is the one nearest to the largest value: 2^floor(log2(4 / 3 * absmax)).
//
// Source: Zhou et al., "Incremental Network Quantization", 2017, equations 3 and 4; it has 4 powers
// in 4 bits, where this has 7, for 0 has a bit of its own there. Entry: pow2_scheme. Tested by
// tests/core/scheme/reference_test.cc and segments_test.cc.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "core/base/checked_math.h"
#include "core/base/copy_bytes.h"
#include "core/base/status_macros.h"
#include "core/scheme/codebook.h"
#include "core/scheme/elem_scales.h"
#include "core/scheme/scheme.h"
#include "core/simd/bits.h"

namespace quantd {
namespace {

constexpr size_t kScalePlane = 1;
constexpr int kPowers = 7;          // e of 1 to this
constexpr uint8_t kSign = 8;        // in a code
constexpr int kMinExponent = -126;  // of a scale; f32 holds all powers below it, too
constexpr int kMaxExponent = 127;

constexpr char kDefinition[] =
    R"(Codes of 4 bits: bit 3 is the sign, bits 2 to 0 are e. With s the larger one of |min| and
|max|, at most f32's largest,

    scale = 2^n, n = floor(log2(4 / 3 * s)), within -126 and 127; 1 where s is 0
    v = |x| / scale                                            in T
    e = how many of 2^-7 and 0.75 * 2^-5, 0.75 * 2^-4, .. 0.75 are at most v
    code = e, and 8 more where x < 0 and e > 0
    x' = 0 where e is 0, else 2^(e - 7) * scale, less than 0 where bit 3 is set     in U

Code 8 is not written, and is 0. Clipped: v of 1.5 and more.

| plane | dtype | shape |
| --- | --- | --- |
| codes | uint8 | [ceil(n / 2)]: nibbles low first, over the flat tensor, 0 beside an odd last one |
| scale | f32 | of the groups |
)";

// Levels, ascending: -1, -1/2, .. -1/64, 0, 1/64, .. 1; one more that no value reaches.
constexpr std::array<double, 16> kLevels = [] {
  std::array<double, 16> levels = {};
  for (size_t e = 1; e <= kPowers; ++e) {
    levels[kPowers + e] = 1.0 / static_cast<double>(1 << (kPowers - e));
    levels[kPowers - e] = -levels[kPowers + e];
  }
  levels[15] = 1;
  return levels;
}();
constexpr std::array<uint8_t, 16> kCodes = [] {  // of levels
  std::array<uint8_t, 16> codes = {};
  for (uint8_t e = 1; e <= kPowers; ++e) {
    codes[size_t{kPowers} + e] = e;
    codes[size_t{kPowers} - e] = kSign | e;
  }
  codes[15] = kPowers;
  return codes;
}();
constexpr std::array<float, 16> kLevelsByCode = [] {
  std::array<float, 16> levels = {};
  for (size_t k = 0; k < 15; ++k) levels[kCodes[k]] = static_cast<float>(kLevels[k]);
  return levels;
}();

template <typename T>
constexpr Codebook<T> kCodebook = [] {
  Codebook<T> book = {};
  for (size_t k = 0; k < 16; ++k) book.levels[k] = static_cast<float>(kLevels[k]);
  for (size_t k = 0; k < 14; ++k) {
    // On a middle a value takes the level of the larger magnitude, and kernels take the lower one:
    // what lies above 0 is the number just below, whose last bits are 1.
    const auto middle = static_cast<T>((kLevels[k] + kLevels[k + 1]) / 2);
    book.middles[k] = middle < 0 ? middle : middle * (1 - std::numeric_limits<T>::epsilon() / 2);
  }
  book.middles[14] = std::numeric_limits<T>::infinity();
  book.low_clip = static_cast<T>(-1.5);
  book.high_clip = static_cast<T>(1.5);
  return book;
}();

absl::StatusOr<PackedLayout> PlanPow2(const SchemeInfo&, const QuantSpec& spec,
                                      const TensorDesc& tensor) {
  QUANTD_ASSIGN_OR_RETURN(Grouping grouping,
                          MakeGrouping(*spec.granularity, *spec.tail, tensor.shape));
  PackedLayout layout;
  layout.groups = grouping.map;
  layout.row_elems = tensor.shape.num_elems();
  layout.atom_elems = 2;
  layout.cut_atoms = true;
  layout.band_evidence = kRange;
  QUANTD_ASSIGN_OR_RETURN(Shape code_shape, Shape::Make({layout.row_bytes()}));
  QUANTD_ASSIGN_OR_RETURN(const int64_t scale_bytes,
                          CheckedMul(grouping.map.num_groups, sizeof(float)));
  layout.planes = {{"codes", PlaneRole::kCodes, DType::kUint8, code_shape, layout.row_bytes()},
                   {"scale", PlaneRole::kPerGroup, DType::kF32, std::move(grouping.plane_shape),
                    scale_bytes}};
  return layout;
}

// Returns the power of two that is nearest to `reach`, which is not 0.
float NearestPower(double reach) {
  int exponent;
  const double fraction = std::frexp(reach, &exponent);  // 0.5 to 1
  if (fraction < 0.75) --exponent;
  return std::ldexp(1.0f, std::clamp(exponent, kMinExponent, kMaxExponent));
}

void ResolvePow2(const Resolved&, std::span<const Range> ranges, ParamPlanes out) {
  for (size_t i = 0; i < ranges.size(); ++i) {
    const Range& range = ranges[i];  // empty without finite values
    double reach = 0;
    if (range.min <= range.max) reach = std::max(std::fabs(range.min), std::fabs(range.max));
    reach = std::min<double>(reach, std::numeric_limits<float>::max());
    const float scale = reach == 0 ? 1 : NearestPower(reach);
    std::memcpy(out.planes[kScalePlane].data() + i * sizeof(scale), &scale, sizeof(scale));
  }
}

// Writes what codes stand for.
template <typename T>
void DecodeCodes(const ElemScales& scales, const uint8_t* codes, int64_t num_elems, T* values) {
  const CodebookRun<T> run = {num_elems, 1, 1};
  CodebookTable().Of<T>().decode(kLevelsByCode, {&run, 1}, codes, values);
  for (int64_t i = 0; i < num_elems; ++i) {
    const T value = LoadAt(values, i) * static_cast<T>(LoadAt(scales.data(), i));
    CopyBytes(values + i, &value, sizeof(value));
  }
}

void EncodePow2(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                Counts* counts, Meter* meter) {
  const int64_t num_elems = segment.values.num_elems;
  const ElemScales scales(resolved, kScalePlane, segment.params, segment.first_elem, num_elems);
  uint8_t codes[kTileElems];
  segment.values.Visit([&]<typename T>(const T* values) {
    T scratch[kTileElems];
    for (int64_t i = 0; i < num_elems; ++i) {
      scratch[i] = LoadAt(values, i) / static_cast<T>(LoadAt(scales.data(), i));
    }
    const CodebookRun<T> run = {num_elems, 1, 1};
    counts->clipped +=
        CodebookTable().Of<T>().encode(kCodebook<T>, {&run, 1}, scratch, codes, nullptr);
    CodebookTable().recode(kCodes, num_elems, codes);
    if (meter == nullptr) return;
    DecodeCodes(scales, codes, num_elems, scratch);
    ForEachRun(resolved.layout.groups, segment.first_elem, num_elems,
               [&](int64_t begin, int64_t count) {
                 MeasureSegment(values + begin, scratch + begin, count, meter->lanes<T>());
               });
  });
  PackNibbles(codes, num_elems, /*first_high=*/false, reinterpret_cast<uint8_t*>(out.data()));
}

void DecodePow2(const Resolved& resolved, std::span<const std::byte> packed,
                const ParamView& params, int64_t first_elem, TileSpan out) {
  const ElemScales scales(resolved, kScalePlane, params, first_elem, out.num_elems);
  uint8_t codes[kTileElems];
  UnpackNibbles(reinterpret_cast<const uint8_t*>(packed.data()), out.num_elems,
                /*first_high=*/false, codes);
  out.Visit([&](auto* values) { DecodeCodes(scales, codes, out.num_elems, values); });
}

// --- The scalar definitions ---

float ScaleRef(const Resolved& resolved, const ParamView& params, int64_t elem) {
  const int64_t entry = resolved.layout.groups.RunAt(elem).group - params.first_group;
  float scale;
  std::memcpy(&scale, &params.planes[1][static_cast<size_t>(entry) * 4], 4);
  return scale;
}

void EncodePow2Ref(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                   Counts* counts) {
  std::fill(out.begin(), out.end(), std::byte{0});
  for (int64_t i = 0; i < segment.values.num_elems; ++i) {
    const float scale = ScaleRef(resolved, segment.params, segment.first_elem + i);
    segment.values.Visit([&]<typename T>(const T* from) {
      const T v = std::fabs(LoadAt(from, i) / T{scale});
      counts->clipped += v >= T{1.5};
      int e = v >= T{1} / 128;
      while (e > 0 && e < 7 && v >= std::ldexp(T{0.75}, e - 6)) ++e;
      const int code = e > 0 && LoadAt(from, i) < 0 ? e + 8 : e;
      out[static_cast<size_t>(i / 2)] |= static_cast<std::byte>(code << i % 2 * 4);
    });
  }
}

void DecodePow2Ref(const Resolved& resolved, std::span<const std::byte> packed,
                   const ParamView& params, int64_t first_elem, TileSpan out) {
  for (int64_t i = 0; i < out.num_elems; ++i) {
    const float scale = ScaleRef(resolved, params, first_elem + i);
    const int code = std::to_integer<int>(packed[static_cast<size_t>(i / 2)]) >> i % 2 * 4 & 15;
    out.Visit([&]<typename T>(T* to) {
      T value = code % 8 == 0 ? T{0} : std::ldexp(T{scale}, code % 8 - 7);
      if (code > 8) value = -value;
      CopyBytes(to + i, &value, sizeof(value));
    });
  }
}

}  // namespace

const Scheme& pow2_scheme() {
  static const Scheme kScheme = [] {
    Scheme scheme = {.info = {},
                     .plan = PlanPow2,
                     .resolve_constants = nullptr,
                     .resolve = ResolvePow2,
                     .encode = EncodePow2,
                     .decode = DecodePow2,
                     .encode_ref = EncodePow2Ref,
                     .decode_ref = DecodePow2Ref};
    SchemeInfo& info = scheme.info;
    info.name = "pow2";
    info.summary = "signs and powers of two, or 0, with the largest power for each group";
    info.source = "nobody else's; the levels of Incremental Network Quantization, 2017";
    info.definition = kDefinition;
    info.bits_per_code = info.bits = 4;
    info.granularities = {{.kind = GranularityKind::kTensor},
                          {.kind = GranularityKind::kAxis},
                          {.kind = GranularityKind::kGroup}};
    info.nonfinites = {NonFinite::kReject, NonFinite::kSaturate};
    info.tails = {Tail::kReject, Tail::kShort};
    info.takes_range = true;
    return scheme;
  }();
  return kScheme;
}

}  // namespace quantd
