// nvfp4: E2M1 codes with two levels of scales, blocks of 16 on the last axis: NVIDIA's NVFP4 as
// compressed-tensors writes it, codes two to a byte, the first of a pair in the low nibble.
//
//   global_scale g = f32(f32(1 / absmax of the tensor) * 2688), near 448 * 6 / absmax; 1 if that is
//                    infinite, as below 7.9e-36 and of zeros
//   scale        s = E4M3(min(f32(g * f32(absmax of the block / 6)), 448)), half-even; 0.125 for 0
//   d = f32(s / g),  code = E2M1(f32(x / d)), half-even, at most 6;  x' = f32(E2M1 value * d)
//
// Each step is rounded to f32 (the last two to f64 for inputs that work as f64), in this order: g
// by one division often differs in its last place. 1 / absmax may be subnormal. A code has the sign
// bit where x / d < 0: -0.25 steps give 8, but -0 gives 0.
//
// Beyond compressed-tensors: x' that f32 cannot hold, of absmax near the largest f32, becomes the
// largest f32, where the package decodes infinity; f64 beyond f32 count as its largest in ranges.
//
// Source: compressed-tensors 0.20, nvfp4-pack-quantized: generate_gparam, calculate_qparams.
// Entry: nvfp4_scheme. Tested by tests/core/scheme/golden_test.cc and reference_test.cc.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/scheme/schemes/nvfp4.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/scheme/scheme.h"
#include "core/simd/convert-inl.h"
#include "core/simd/meter-inl.h"
#include "core/simd/nibbles-inl.h"
#include "core/simd/prefetch.h"

#ifndef QUANTD_CORE_SCHEME_SCHEMES_NVFP4_TABLE
#define QUANTD_CORE_SCHEME_SCHEMES_NVFP4_TABLE
namespace quantd {
namespace nvfp4 {

constexpr int64_t kBlockElems = 16;
constexpr int64_t kTileBlocks = kTileElems / kBlockElems;
constexpr int kMaxCode = 6, kMaxScale = 448;
constexpr int kClipBound = 7;            // half a step beyond the outermost code
constexpr uint32_t kZeroScale = 0x20;    // E4M3 0.125

// What blocks next to each other are multiplied by.
struct Factors {
  float values[kTileBlocks];
};

template <typename T>
struct Kernels {
  // Returns the number of values that were clipped.
  int64_t (*encode)(const T*, int64_t num_elems, const Factors&, std::byte* codes, MeterLanes<T>*);
  void (*decode)(const std::byte* codes, int64_t num_elems, const Factors&, T*);
};
struct KernelTable {
  Kernels<float> f32;
  Kernels<double> f64;
  // Both up to kTileBlocks.
  void (*find_scales)(const float* absmax, int64_t num_blocks, float global, std::byte* scales);
  void (*find_factors)(const std::byte* scales, int64_t num_blocks, float global, Factors&);
};

}  // namespace nvfp4
}  // namespace quantd
#endif

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using nvfp4::Factors;
using nvfp4::kTileBlocks;

constexpr int64_t kNvBlock = nvfp4::kBlockElems;

void FindNvScales(const float* HWY_RESTRICT absmax, int64_t num_blocks, float global,
                  std::byte* HWY_RESTRICT scales) {
  const hn::CappedTag<float, 16> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  const hn::Rebind<uint8_t, decltype(d)> d8;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  for (int64_t i = 0; i < num_blocks; i += kWidth) {
    const size_t bytes = static_cast<size_t>(std::min(num_blocks - i, kWidth));
    float pad[kWidth] = {};
    uint8_t codes[kWidth];
    std::memcpy(pad, absmax + i, bytes * sizeof(float));
    const auto step = hn::Div(hn::LoadU(d, pad), hn::Set(d, nvfp4::kMaxCode));
    const auto scale =
        hn::Min(hn::Mul(hn::Set(d, global), step), hn::Set(d, float{nvfp4::kMaxScale}));
    const auto stored = NarrowQuickVec<kE4m3Format, false>(d, scale);
    const auto is_zero = hn::RebindMask(du, hn::Eq(stored.value, hn::Zero(d)));
    const auto code = hn::IfThenElse(is_zero, hn::Set(du, nvfp4::kZeroScale), stored.code);
    hn::StoreU(hn::TruncateTo(d8, code), d8, codes);
    std::memcpy(scales + i, codes, bytes);
  }
}

void FindNvFactors(const std::byte* HWY_RESTRICT scales, int64_t num_blocks, float global,
                   Factors& factors) {
  const hn::CappedTag<float, 16> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  for (int64_t i = 0; i < num_blocks; i += kWidth) {
    uint8_t codes[kWidth] = {};
    std::memcpy(codes, scales + i, static_cast<size_t>(std::min(num_blocks - i, kWidth)));
    const auto scale = WidenFloatVec<kE4m3Format>(d, LoadWide(du, codes));
    hn::StoreU(hn::Div(scale, hn::Set(d, global)), d, factors.values + i);
  }
}

// One vector of values to codes; returns what they stand for. `reach` grows to the largest |x / d|.
template <class D, typename T = hn::TFromD<D>, class V = hn::VFromD<D>>
HWY_INLINE V EncodeNvVec(D d, V x, V factor, V& reach, uint8_t* packed, int64_t i) {
  const hn::RebindToUnsigned<D> du;
  const V q = hn::Div(x, factor);
  const V magnitude = hn::Abs(q);
  reach = hn::Max(reach, magnitude);
  const auto narrowed =
      NarrowQuickVec<kE2m1Format, false>(d, hn::Min(magnitude, hn::Set(d, T{nvfp4::kMaxCode})));
  const auto negative = hn::RebindMask(du, hn::Lt(q, hn::Zero(d)));
  const auto sign = hn::IfThenElseZero(negative, hn::Set(du, 8));
  StoreNibbles(du, hn::OrAnd(sign, narrowed.code, hn::Set(du, 7)), packed, i);
  V y = hn::Mul(narrowed.value, factor);
  if constexpr (sizeof(T) == 4) y = hn::Min(y, hn::Set(d, std::numeric_limits<float>::max()));
  return hn::CopySignToAbs(y, q);
}

template <typename T>
int64_t CountClippedNv(const T* values, int64_t num_elems, const Factors& factors) {
  int64_t clipped = 0;
  for (int64_t i = 0; i < num_elems; ++i) {
    const T q = LoadAt(values, i) / static_cast<T>(factors.values[i / kNvBlock]);
    clipped += std::fabs(q) >= T{nvfp4::kClipBound};
  }
  return clipped;
}

template <template <class> class Regs, typename T>
HWY_NOINLINE int64_t EncodeNvBlocks(const T* values, int64_t num_elems, const Factors& factors,
                                    std::byte* out, MeterLanes<T>& lanes) {
  using D = hn::CappedTag<T, 16>;
  const D d;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  const int64_t num_blocks = num_elems / kNvBlock, rest = num_elems % kNvBlock;
  auto* const packed = reinterpret_cast<uint8_t*>(out);
  T padded[kNvBlock] = {};
  std::memcpy(padded, values + num_blocks * kNvBlock, static_cast<size_t>(rest) * sizeof(T));
  auto reach = hn::Zero(d);
  for (int64_t k = 0; k < kNvBlock; k += kWidth) {
    Regs<D> regs(d, lanes, static_cast<size_t>(k));
    for (int64_t block = 0; block < num_blocks; ++block) {
      const int64_t i = block * kNvBlock + k;
      PrefetchBehind(values + i);
      const auto x = hn::LoadU(d, values + i);
      const auto factor = hn::Set(d, static_cast<T>(factors.values[block]));
      regs.Add(d, x, EncodeNvVec(d, x, factor, reach, packed, i));
    }
    if (rest > 0) {
      const auto x = hn::LoadU(d, padded + k);
      const auto factor = hn::Set(d, static_cast<T>(factors.values[num_blocks]));
      const auto y = EncodeNvVec(d, x, factor, reach, packed, num_blocks * kNvBlock + k);
      if (k < rest) regs.AddFirst(d, static_cast<size_t>(std::min(rest - k, kWidth)), x, y);
    }
    regs.Store(d, lanes, static_cast<size_t>(k));
  }
  const auto bound = hn::Set(d, T{nvfp4::kClipBound});
  return hn::AllTrue(d, hn::Lt(reach, bound)) ? 0 : CountClippedNv(values, num_elems, factors);
}

template <typename T>
int64_t EncodeNv(const T* values, int64_t num_elems, const Factors& factors, std::byte* codes,
                 MeterLanes<T>* lanes) {
  MeterLanes<T> none;
  return lanes != nullptr ? EncodeNvBlocks<MeterRegs>(values, num_elems, factors, codes, *lanes)
                          : EncodeNvBlocks<NullRegs>(values, num_elems, factors, codes, none);
}

template <typename T>
void DecodeNv(const std::byte* HWY_RESTRICT codes, int64_t num_elems, const Factors& factors,
              T* HWY_RESTRICT values) {
  const hn::CappedTag<T, 16> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  const auto* packed = reinterpret_cast<const uint8_t*>(codes);
  const float* factor_of = factors.values;
  T padded[kNvBlock];
  for (; num_elems > 0; num_elems -= kNvBlock, values += kNvBlock, packed += kNvBlock / 2) {
    const auto factor = hn::Set(d, static_cast<T>(*factor_of++));
    T* out = num_elems < kNvBlock ? padded : values;
    for (int64_t i = 0; i < kNvBlock; i += kWidth) {
      auto y = hn::Mul(WidenFloatVec<kE2m1Format>(d, LoadNibbles(du, packed, i)), factor);
      if constexpr (sizeof(T) == 4) {
        const auto infinity = hn::Set(d, std::numeric_limits<float>::infinity());
        const auto largest = hn::Set(d, std::numeric_limits<float>::max());
        y = hn::IfThenElse(hn::Eq(hn::Abs(y), infinity), hn::CopySign(largest, y), y);
      }
      hn::StoreU(y, d, out + i);
    }
    if (num_elems < kNvBlock) {
      std::memcpy(values, padded, static_cast<size_t>(num_elems) * sizeof(T));
      return;
    }
  }
}

const nvfp4::KernelTable& NvTable() {
  static constexpr nvfp4::KernelTable kTable = {{EncodeNv<float>, DecodeNv<float>},
                                                {EncodeNv<double>, DecodeNv<double>},
                                                FindNvScales,
                                                FindNvFactors};
  return kTable;
}

}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "core/base/checked_math.h"
#include "core/base/status_macros.h"
#include "core/scheme/block.h"

namespace quantd {
namespace {

HWY_EXPORT(NvTable);

using nvfp4::kBlockElems;

constexpr size_t kScalePlane = 1;
constexpr size_t kGlobalPlane = 2;

absl::StatusOr<PackedLayout> PlanNvfp4(const SchemeInfo&, const QuantSpec& spec,
                                       const TensorDesc& tensor) {
  QUANTD_ASSIGN_OR_RETURN(PackedLayout layout,
                          PlanRowBlocks(*spec.tail, tensor.shape, kBlockElems, kBlockElems / 2));
  QUANTD_ASSIGN_OR_RETURN(Grouping grouping,
                          MakeGrouping(*spec.granularity, Tail::kShort, tensor.shape));
  // A row that is shorter than a block is one group of a whole block's codes.
  layout.groups = grouping.map;
  layout.tensor_evidence = layout.band_evidence = kRange;
  const int64_t groups = grouping.map.num_groups;
  layout.planes.push_back(
      {"scale", PlaneRole::kPerGroup, DType::kF8E4M3, std::move(grouping.plane_shape), groups});
  QUANTD_ASSIGN_OR_RETURN(Shape one, Shape::Make({1}));
  layout.planes.push_back(
      {"global_scale", PlaneRole::kConstant, DType::kF32, std::move(one), sizeof(float)});
  return layout;
}

// The largest magnitude, as f32; 0 without finite values.
float ReachOf(const Range& range) {
  if (!(range.min <= range.max)) return 0;
  const double reach = std::max(std::fabs(range.min), std::fabs(range.max));
  return static_cast<float>(std::min<double>(reach, std::numeric_limits<float>::max()));
}

float LoadGlobal(const ParamView& params) {
  return LoadAt(reinterpret_cast<const float*>(params.planes[kGlobalPlane].data()), 0);
}

void ResolveGlobal(const Resolved&, const TensorEvidence& tensor, ParamPlanes out) {
  const float reach = std::max(ReachOf(tensor.range), std::numeric_limits<float>::min());
  const float inverse = 1 / reach;
  float global = inverse * (nvfp4::kMaxScale * nvfp4::kMaxCode);
  if (std::isinf(global)) global = 1;
  std::memcpy(out.planes[kGlobalPlane].data(), &global, sizeof(global));
}

void ResolveBlocks(const Resolved&, std::span<const Range> ranges, ParamPlanes out) {
  const float global = LoadGlobal(out);
  float absmax[nvfp4::kTileBlocks];
  std::byte* scales = out.planes[kScalePlane].data();
  while (!ranges.empty()) {
    const size_t count = std::min(ranges.size(), size_t{nvfp4::kTileBlocks});
    for (size_t i = 0; i < count; ++i) absmax[i] = ReachOf(ranges[i]);
    HWY_DYNAMIC_DISPATCH(NvTable)
    ().find_scales(absmax, static_cast<int64_t>(count), global, scales);
    ranges = ranges.subspan(count);
    scales += count;
  }
}

// Finds the factors of the blocks of a segment, which lie in one layout row: group after group.
void FactorsOf(const Resolved& resolved, const ParamView& params, int64_t first_elem,
               int64_t num_elems, nvfp4::Factors& factors) {
  const int64_t group = resolved.layout.groups.RunAt(first_elem).group - params.first_group;
  HWY_DYNAMIC_DISPATCH(NvTable)
  ().find_factors(params.planes[kScalePlane].data() + group, CeilDiv(num_elems, kBlockElems),
                  LoadGlobal(params), factors);
}

void EncodeNvfp4(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                 Counts* counts, Meter* meter) {
  const nvfp4::KernelTable& kernels = HWY_DYNAMIC_DISPATCH(NvTable)();
  const TileView& values = segment.values;
  nvfp4::Factors factors;
  FactorsOf(resolved, segment.params, segment.first_elem, values.num_elems, factors);
  if (values.f32 != nullptr) {
    counts->clipped += kernels.f32.encode(values.f32, values.num_elems, factors, out.data(),
                                          meter != nullptr ? &meter->lanes<float>() : nullptr);
  } else {
    counts->clipped += kernels.f64.encode(values.f64, values.num_elems, factors, out.data(),
                                          meter != nullptr ? &meter->lanes<double>() : nullptr);
  }
}

void DecodeNvfp4(const Resolved& resolved, std::span<const std::byte> packed,
                 const ParamView& params, int64_t first_elem, TileSpan out) {
  const nvfp4::KernelTable& kernels = HWY_DYNAMIC_DISPATCH(NvTable)();
  nvfp4::Factors factors;
  FactorsOf(resolved, params, first_elem, out.num_elems, factors);
  if (out.f32 != nullptr) {
    kernels.f32.decode(packed.data(), out.num_elems, factors, out.f32);
  } else {
    kernels.f64.decode(packed.data(), out.num_elems, factors, out.f64);
  }
}

// --- The scalar definitions ---

// Returns d of element `elem`.
float FactorRef(const Resolved& resolved, const ParamView& params, int64_t elem) {
  const int64_t group = resolved.layout.groups.RunAt(elem).group - params.first_group;
  const auto code = std::to_integer<uint32_t>(params.planes[1][static_cast<size_t>(group)]);
  float global;
  std::memcpy(&global, params.planes[2].data(), sizeof(global));
  return WidenFloat<float>(kE4m3Format, code) / global;
}

template <typename T>
uint32_t CodeRef(T q) {
  const T reach = std::fabs(q);
  uint32_t code = 0;  // ties to even codes
  code += reach > T{0.25};
  code += reach >= T{0.75};
  code += reach > T{1.25};
  code += reach >= T{1.75};
  code += reach > T{2.5};
  code += reach >= T{3.5};
  code += reach > T{5};
  return q < 0 ? code | 8 : code;
}

template <typename T>
void EncodeRef(const Resolved& resolved, const Segment& segment, const T* values,
               std::span<std::byte> out, Counts* counts) {
  std::fill(out.begin(), out.end(), std::byte{0});
  for (int64_t i = 0; i < segment.values.num_elems; ++i) {
    const T d = static_cast<T>(FactorRef(resolved, segment.params, segment.first_elem + i));
    const T q = LoadAt(values, i) / d;
    counts->clipped += std::fabs(q) >= 7;
    out[static_cast<size_t>(i / 2)] |= static_cast<std::byte>(CodeRef(q) << (i % 2 == 0 ? 0 : 4));
  }
}

void EncodeNvfp4Ref(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                    Counts* counts) {
  if (segment.values.f32 != nullptr) {
    EncodeRef(resolved, segment, segment.values.f32, out, counts);
  } else {
    EncodeRef(resolved, segment, segment.values.f64, out, counts);
  }
}

void DecodeNvfp4Ref(const Resolved& resolved, std::span<const std::byte> packed,
                    const ParamView& params, int64_t first_elem, TileSpan out) {
  static constexpr float kValues[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  for (int64_t i = 0; i < out.num_elems; ++i) {
    const auto byte = std::to_integer<uint32_t>(packed[static_cast<size_t>(i / 2)]);
    const uint32_t code = i % 2 == 0 ? byte & 0x0F : byte >> 4;
    const float value = code >= 8 ? -kValues[code - 8] : kValues[code];
    const float factor = FactorRef(resolved, params, first_elem + i);
    if (out.f32 != nullptr) {
      float y = value * factor;
      if (std::isinf(y)) y = std::copysign(std::numeric_limits<float>::max(), y);
      std::memcpy(out.f32 + i, &y, sizeof(y));
    } else {
      const double y = double{value} * double{factor};
      std::memcpy(out.f64 + i, &y, sizeof(y));
    }
  }
}

}  // namespace

const Scheme& nvfp4_scheme() {
  static const Scheme kScheme = [] {
    Scheme scheme = {.info = {},
                     .plan = PlanNvfp4,
                     .resolve_constants = ResolveGlobal,
                     .resolve = ResolveBlocks,
                     .encode = EncodeNvfp4,
                     .decode = DecodeNvfp4,
                     .encode_ref = EncodeNvfp4Ref,
                     .decode_ref = DecodeNvfp4Ref};
    SchemeInfo& info = scheme.info;
    info.name = "nvfp4";
    info.summary = "E2M1 in blocks of 16 with E4M3 scales and one f32 scale above";
    info.source = "NVIDIA NVFP4; compressed-tensors nvfp4-pack-quantized";
    info.bits_per_code = 4;
    info.granularities = {{.kind = GranularityKind::kGroup, .group_elems = kBlockElems}};
    info.roundings = {Rounding::kHalfEven};
    info.dialects = {{.name = "compressed_tensors"}};
    info.nonfinites = {NonFinite::kReject, NonFinite::kSaturate};
    info.tails = {Tail::kReject, Tail::kPad};
    return scheme;
  }();
  return kScheme;
}

}  // namespace quantd
#endif  // HWY_ONCE
