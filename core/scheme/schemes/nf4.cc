// nf4: 4-bit NormalFloat of QLoRA (arXiv 2305.14314, appendix E) as bitsandbytes stores it: groups
// of the flat tensor, the last one may be short, codes two to a byte, the first of a pair in the
// HIGH nibble:
//
//   scale = absmax,  v = x * (1 / scale),  code = how many of the 15 middles between neighbours in
//   the codebook are below v,  x' = codebook[code] * scale
//
// all in f32 (in f64, against the same f32 middles, for inputs that work as f64); a tie goes to the
// lower code. bitsandbytes' kernels decide so (dQuantizeNF4 in csrc). An all-zero group has scale 1
// and codes 7; so has the nibble beside an odd last code.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/scheme/schemes/nf4.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Writes the codes of values * factor, one factor for each run; returns the largest |values *
// factor|.
template <typename T>
T CountMiddles(const T* HWY_RESTRICT values, int64_t num_elems, int64_t run_elems,
               const T* HWY_RESTRICT factors, const float* HWY_RESTRICT middles,
               uint8_t* HWY_RESTRICT codes) {
  const hn::ScalableTag<T> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  const hn::Rebind<uint8_t, decltype(d)> d8;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  hn::VFromD<decltype(d)> bounds[15];
  for (int k = 0; k < 15; ++k) bounds[k] = hn::Set(d, static_cast<T>(middles[k]));
  T reach = 0;
  for (int64_t begin = 0; begin < num_elems; begin += run_elems, ++factors) {
    const int64_t end = std::min(begin + run_elems, num_elems);
    const auto factor = hn::Set(d, *factors);
    auto max = hn::Zero(d);
    int64_t i = begin;
    for (; i + lanes <= end; i += lanes) {
      const auto v = hn::Mul(hn::LoadU(d, values + i), factor);
      max = hn::Max(max, hn::Abs(v));
      auto code = hn::Zero(du);  // less the all-ones mask of each middle that is below
      for (int k = 0; k < 15; ++k) {
        code = hn::Sub(code, hn::BitCast(du, hn::VecFromMask(d, hn::Gt(v, bounds[k]))));
      }
      hn::StoreU(hn::TruncateTo(d8, code), d8, codes + i);
    }
    reach = std::max(reach, hn::GetLane(hn::MaxOfLanes(d, max)));
    for (; i < end; ++i) {
      const T v = values[i] * *factors;
      reach = std::max(reach, std::fabs(v));
      codes[i] = 0;
      for (int k = 0; k < 15; ++k) codes[i] += v > static_cast<T>(middles[k]);
    }
  }
  return reach;
}

float CountF32(const float* x, int64_t n, int64_t run, const float* f, const float* t, uint8_t* c) {
  return CountMiddles(x, n, run, f, t, c);
}
double CountF64(const double* x, int64_t n, int64_t run, const double* f, const float* t,
                uint8_t* c) {
  return CountMiddles(x, n, run, f, t, c);
}

}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "core/base/checked_math.h"
#include "core/base/status_macros.h"
#include "core/scheme/affine.h"
#include "core/scheme/scheme.h"
#include "core/simd/affine.h"

namespace quantd {
namespace {

HWY_EXPORT(CountF32);
HWY_EXPORT(CountF64);

constexpr size_t kScalePlane = 1;
constexpr size_t kCodebookPlane = 2;
constexpr int64_t kMaxGroups = kTileElems / 64;  // in a segment

// bitsandbytes/functional.py, get_4bit_type("nf4").
constexpr std::array<float, 16> kCodebook = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};
// Half a step beyond the outermost codes.
constexpr double kLowClip = -1 - (-0.6961928009986877 + 1) / 2;
constexpr double kHighClip = 1 + (1 - 0.7229568362236023) / 2;

constexpr uint8_t kZeroCode = 7;

// The middles between neighbours, rounded to f32.
constexpr std::array<float, 15> kMiddles = [] {
  std::array<float, 15> middles{};
  for (size_t k = 0; k < 15; ++k) {
    middles[k] = static_cast<float>(
        (static_cast<double>(kCodebook[k]) + static_cast<double>(kCodebook[k + 1])) / 2);
  }
  return middles;
}();

absl::StatusOr<PackedLayout> PlanNf4(const SchemeInfo&, const QuantSpec& spec,
                                     const TensorDesc& tensor) {
  const int64_t num_elems = tensor.shape.num_elems();
  PackedLayout layout;
  layout.row_elems = num_elems;
  layout.atom_elems = 2;
  layout.groups.row_elems = std::max<int64_t>(num_elems, 1);
  layout.groups.run_elems = spec.granularity->group_elems;
  layout.groups.num_groups = CeilDiv(num_elems, layout.groups.run_elems);
  layout.groups.runs_per_row = std::max<int64_t>(layout.groups.num_groups, 1);
  layout.needs_ranges = true;
  const int64_t groups = layout.groups.num_groups;
  QUANTD_ASSIGN_OR_RETURN(Shape code_shape, Shape::Make({CeilDiv(num_elems, 2)}));
  QUANTD_ASSIGN_OR_RETURN(Shape scale_shape, Shape::Make({groups}));
  QUANTD_ASSIGN_OR_RETURN(Shape codebook_shape, Shape::Make({16}));
  QUANTD_ASSIGN_OR_RETURN(int64_t scale_bytes, CheckedMul(groups, sizeof(float)));
  layout.planes = {
      {"codes", PlaneRole::kCodes, DType::kUint8, code_shape, code_shape.num_elems()},
      {"scale", PlaneRole::kPerGroup, DType::kF32, scale_shape, scale_bytes},
      {"codebook", PlaneRole::kConstant, DType::kF32, codebook_shape, 16 * sizeof(float)}};
  return layout;
}

void ResolveCodebook(const Resolved&, const Range&, ParamPlanes out) {
  std::memcpy(out.planes[kCodebookPlane].data(), kCodebook.data(), sizeof(kCodebook));
}

void ResolveNf4(const Resolved&, std::span<const Range> ranges, ParamPlanes out) {
  auto* scales = reinterpret_cast<float*>(out.planes[kScalePlane].data());
  for (size_t i = 0; i < ranges.size(); ++i) {
    const Range& range = ranges[i];
    const bool empty = !(range.min <= range.max);
    const double reach = empty ? 0 : std::max(std::fabs(range.min), std::fabs(range.max));
    scales[i] = static_cast<float>(RoundScale(reach, ScaleType::kF32));
  }
}

const float* ScalesOf(const Resolved& resolved, const ParamView& params, int64_t elem) {
  const int64_t group = elem / resolved.layout.groups.run_elems;
  return reinterpret_cast<const float*>(params.planes[kScalePlane].data()) +
         (group - params.first_group);
}

template <typename T>
bool IsClipped(T v) {
  return v <= static_cast<T>(kLowClip) || v >= static_cast<T>(kHighClip);
}

template <typename T, typename CountFn>
int64_t EncodeValues(const Resolved& resolved, const Segment& segment, const T* values,
                     CountFn count, uint8_t* codes) {
  const int64_t run_elems = resolved.layout.groups.run_elems;
  const int64_t num_elems = segment.values.num_elems;
  const float* scales = ScalesOf(resolved, segment.params, segment.first_elem);
  T factors[kMaxGroups];
  for (int64_t i = 0; i < CeilDiv(num_elems, run_elems); ++i) factors[i] = T{1} / scales[i];
  const T reach = count(values, num_elems, run_elems, factors, kMiddles.data(), codes);
  if (!(reach >= static_cast<T>(kHighClip))) return 0;
  int64_t clipped = 0;
  for (int64_t i = 0; i < num_elems; ++i) clipped += IsClipped(values[i] * factors[i / run_elems]);
  return clipped;
}

// Segments start at a group: windows and tiles do, and group sizes divide a tile.
void EncodeNf4(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
               Counts* counts) {
  uint8_t codes[kTileElems + 1];
  if (segment.values.f32 != nullptr) {
    counts->clipped +=
        EncodeValues(resolved, segment, segment.values.f32, HWY_DYNAMIC_DISPATCH(CountF32), codes);
  } else {
    counts->clipped +=
        EncodeValues(resolved, segment, segment.values.f64, HWY_DYNAMIC_DISPATCH(CountF64), codes);
  }
  codes[segment.values.num_elems] = kZeroCode;
  PackNibbles(codes, RoundUp(segment.values.num_elems, 2), /*first_high=*/true,
              reinterpret_cast<uint8_t*>(out.data()));
}

template <typename T>
void DecodeValues(const Resolved& resolved, const uint8_t* codes, const ParamView& params,
                  int64_t first_elem, int64_t num_elems, T* values) {
  float codebook[16];
  std::memcpy(codebook, params.planes[kCodebookPlane].data(), sizeof(codebook));
  for (RunWalker run(resolved.layout.groups, first_elem, first_elem + num_elems); !run.done();
       run.Next()) {
    const T scale = static_cast<T>(*ScalesOf(resolved, params, run.elem()));
    const int64_t begin = run.elem() - first_elem;
    for (int64_t i = begin; i < begin + run.num_elems(); ++i) {
      values[i] = static_cast<T>(codebook[codes[i] & 0x0F]) * scale;
    }
  }
}

void DecodeNf4(const Resolved& resolved, std::span<const std::byte> packed, const ParamView& params,
               int64_t first_elem, TileSpan out) {
  uint8_t codes[kTileElems];
  UnpackNibbles(reinterpret_cast<const uint8_t*>(packed.data()), out.num_elems, /*first_high=*/true,
                codes);
  if (out.f32 != nullptr) {
    DecodeValues(resolved, codes, params, first_elem, out.num_elems, out.f32);
  } else {
    DecodeValues(resolved, codes, params, first_elem, out.num_elems, out.f64);
  }
}

// --- The scalar definitions ---

template <typename T>
int EncodeOne(T value, float scale, Counts* counts) {
  const T v = value * (T{1} / static_cast<T>(scale));
  counts->clipped += IsClipped(v);
  int code = 0;
  while (code < 15 && v > static_cast<T>(kMiddles[static_cast<size_t>(code)])) ++code;
  return code;
}

void EncodeNf4Ref(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                  Counts* counts) {
  for (int64_t i = 0; i < segment.values.num_elems; ++i) {
    const float scale = *ScalesOf(resolved, segment.params, segment.first_elem + i);
    const int code = segment.values.f32 != nullptr
                         ? EncodeOne(segment.values.f32[i], scale, counts)
                         : EncodeOne(segment.values.f64[i], scale, counts);
    std::byte& byte = out[static_cast<size_t>(i / 2)];
    byte = i % 2 == 0 ? static_cast<std::byte>(code << 4 | kZeroCode)
                      : (byte & std::byte{0xF0}) | static_cast<std::byte>(code);
  }
}

void DecodeNf4Ref(const Resolved& resolved, std::span<const std::byte> packed,
                  const ParamView& params, int64_t first_elem, TileSpan out) {
  for (int64_t i = 0; i < out.num_elems; ++i) {
    const int byte = std::to_integer<int>(packed[static_cast<size_t>(i / 2)]);
    float value;
    std::memcpy(&value,
                params.planes[kCodebookPlane].data() +
                    sizeof(float) * static_cast<size_t>(i % 2 == 0 ? byte >> 4 : byte & 0x0F),
                sizeof(float));
    const float scale = *ScalesOf(resolved, params, first_elem + i);
    if (out.f32 != nullptr) {
      out.f32[i] = value * scale;
    } else {
      out.f64[i] = static_cast<double>(value) * static_cast<double>(scale);
    }
  }
}

}  // namespace

const Scheme& nf4_scheme() {
  static const Scheme kScheme = [] {
    Scheme scheme = {.info = {},
                     .plan = PlanNf4,
                     .resolve_constants = ResolveCodebook,
                     .resolve = ResolveNf4,
                     .encode = EncodeNf4,
                     .decode = DecodeNf4,
                     .encode_ref = EncodeNf4Ref,
                     .decode_ref = DecodeNf4Ref};
    SchemeInfo& info = scheme.info;
    info.name = "nf4";
    info.summary = "4-bit NormalFloat codebook with a scale for each group";
    info.source = "QLoRA, arXiv 2305.14314; bitsandbytes";
    info.bits_per_code = info.bits = 4;
    for (int64_t group_elems = 64; group_elems <= kTileElems; group_elems *= 2) {
      info.granularities.push_back({.kind = GranularityKind::kGroup, .group_elems = group_elems});
    }
    info.dialects = {{.name = "bitsandbytes"}};
    info.nonfinites = {NonFinite::kReject, NonFinite::kSaturate};
    info.tails = {Tail::kShort};
    info.takes_range = true;
    return scheme;
  }();
  return kScheme;
}

}  // namespace quantd
#endif  // HWY_ONCE
