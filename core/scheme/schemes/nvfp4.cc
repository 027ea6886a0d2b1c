// nvfp4: E2M1 codes with two levels of scales, blocks of 16 on the last axis (NVIDIA's NVFP4, as
// compressed-tensors packs it: codes two to a byte, the first of a pair in the low nibble):
//
//   global_scale g = absmax of the tensor / (6 * 448), f32; at most 2^119, so that d is finite
//   scale s = E4M3(absmax of the block / 6 / g), half-even; at least 2^-9; 1 for an all-zero block
//   d = f32(s * g),  code = E2M1(x / d),  x' = E2M1 value * d
//
// x / d is divided in f32 (f64 for inputs that work as f64). Negative values that round to zero
// keep their sign (code 8).
#include <algorithm>
#include <cmath>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/scheme/schemes/nvfp4.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/simd/convert-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr int64_t kNvBlock = 16;

// Writes E2M1 codes of values / divisors[block], unpacked; a last, short block is filled with
// zeros. Returns the largest |values / divisors[block]|.
template <typename T>
T EncodeE2m1(const T* HWY_RESTRICT values, int64_t num_elems, const float* HWY_RESTRICT divisors,
             uint8_t* HWY_RESTRICT codes) {
  const hn::CappedTag<T, kNvBlock> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  const hn::Rebind<uint8_t, decltype(d)> d8;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  T padded[kNvBlock] = {};
  auto reach = hn::Zero(d);
  for (; num_elems > 0; num_elems -= kNvBlock, values += kNvBlock, codes += kNvBlock, ++divisors) {
    if (num_elems < kNvBlock) {
      std::copy(values, values + num_elems, padded);
      values = padded;
    }
    const auto divisor = hn::Set(d, static_cast<T>(*divisors));
    for (int64_t i = 0; i < kNvBlock; i += kWidth) {
      const auto v = hn::Div(hn::LoadU(d, values + i), divisor);
      reach = hn::Max(reach, hn::Abs(v));
      const auto code =
          NarrowFloatVec<kE2m1Format, Rounding::kHalfEven>(d, v, /*saturate=*/true, hn::Zero(du));
      hn::StoreU(hn::TruncateTo(d8, code), d8, codes + i);
    }
  }
  return hn::GetLane(hn::MaxOfLanes(d, reach));
}

// Writes the E2M1 values of unpacked codes times factors[block].
template <typename T>
void DecodeE2m1(const uint8_t* HWY_RESTRICT codes, int64_t num_elems,
                const float* HWY_RESTRICT factors, T* HWY_RESTRICT values) {
  const hn::CappedTag<T, kNvBlock> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  const hn::Rebind<uint32_t, decltype(d)> du32;
  const hn::Rebind<uint8_t, decltype(d)> d8;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  T padded[kNvBlock];
  for (; num_elems > 0; num_elems -= kNvBlock, values += kNvBlock, codes += kNvBlock, ++factors) {
    const auto factor = hn::Set(d, static_cast<T>(*factors));
    T* out = num_elems < kNvBlock ? padded : values;
    for (int64_t i = 0; i < kNvBlock; i += kWidth) {
      auto code32 = hn::PromoteTo(du32, hn::LoadU(d8, codes + i));
      if constexpr (sizeof(T) == 4) {
        hn::StoreU(hn::Mul(WidenFloatVec<kE2m1Format>(d, code32), factor), d, out + i);
      } else {
        const auto code = hn::PromoteTo(du, code32);
        hn::StoreU(hn::Mul(WidenFloatVec<kE2m1Format>(d, code), factor), d, out + i);
      }
    }
    if (num_elems < kNvBlock) std::copy(padded, padded + num_elems, values);
  }
}

float EncodeNvF32(const float* x, int64_t n, const float* s, uint8_t* c) {
  return EncodeE2m1(x, n, s, c);
}
double EncodeNvF64(const double* x, int64_t n, const float* s, uint8_t* c) {
  return EncodeE2m1(x, n, s, c);
}
void DecodeNvF32(const uint8_t* c, int64_t n, const float* s, float* x) { DecodeE2m1(c, n, s, x); }
void DecodeNvF64(const uint8_t* c, int64_t n, const float* s, double* x) { DecodeE2m1(c, n, s, x); }

}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "core/base/checked_math.h"
#include "core/base/status_macros.h"
#include "core/scheme/affine.h"
#include "core/scheme/block.h"
#include "core/simd/affine.h"

namespace quantd {
namespace {

HWY_EXPORT(EncodeNvF32);
HWY_EXPORT(EncodeNvF64);
HWY_EXPORT(DecodeNvF32);
HWY_EXPORT(DecodeNvF64);

constexpr int64_t kBlockElems = 16;
constexpr size_t kScalePlane = 1;
constexpr size_t kGlobalPlane = 2;
constexpr double kMaxCode = 6, kMaxScale = 448;
constexpr int kClipBound = 7;  // half a step beyond the outermost code

absl::StatusOr<PackedLayout> PlanNvfp4(const SchemeInfo&, const QuantSpec& spec,
                                       const TensorDesc& tensor) {
  QUANTD_ASSIGN_OR_RETURN(PackedLayout layout,
                          PlanRowBlocks(*spec.tail, tensor.shape, kBlockElems, kBlockElems / 2));
  QUANTD_ASSIGN_OR_RETURN(Grouping grouping,
                          MakeGrouping(*spec.granularity, Tail::kShort, tensor.shape));
  // A row that is shorter than a block is one group of a whole block's codes.
  layout.groups = grouping.map;
  layout.needs_ranges = layout.needs_tensor_range = true;
  const int64_t groups = grouping.map.num_groups;
  layout.planes.push_back(
      {"scale", PlaneRole::kPerGroup, DType::kF8E4M3, std::move(grouping.plane_shape), groups});
  layout.planes.push_back(
      {"global_scale", PlaneRole::kConstant, DType::kF32, Shape(), sizeof(float)});
  return layout;
}

double ReachOf(const Range& range) {
  return range.min <= range.max ? std::max(std::fabs(range.min), std::fabs(range.max)) : 0;
}

float LoadGlobal(std::span<const std::byte> plane) {
  float global;
  std::memcpy(&global, plane.data(), sizeof(global));
  return global;
}

void ResolveGlobal(const Resolved&, const Range& tensor_range, ParamPlanes out) {
  const double wanted = std::min(ReachOf(tensor_range) / (kMaxCode * kMaxScale), 0x1p119);
  const float global = static_cast<float>(RoundScale(wanted, ScaleType::kF32));
  std::memcpy(out.planes[kGlobalPlane].data(), &global, sizeof(global));
}

void ResolveBlocks(const Resolved&, std::span<const Range> ranges, ParamPlanes out) {
  const double global = LoadGlobal(out.planes[kGlobalPlane]);
  constexpr uint32_t kOne = 0x38, kSmallest = 0x01;  // E4M3 1.0 and 2^-9
  for (size_t i = 0; i < ranges.size(); ++i) {
    const double reach = ReachOf(ranges[i]);
    const uint32_t code =
        reach == 0 ? kOne
                   : std::max(kSmallest, NarrowFloat(kE4m3Format, reach / kMaxCode / global,
                                                     Rounding::kHalfEven, /*saturate=*/true));
    out.planes[kScalePlane][i] = static_cast<std::byte>(code);
  }
}

// Returns d = f32(s * g) of the group.
float FactorOf(const ParamView& params, int64_t group) {
  const auto code = std::to_integer<uint32_t>(
      params.planes[kScalePlane][static_cast<size_t>(group - params.first_group)]);
  return WidenFloat<float>(kE4m3Format, code) * LoadGlobal(params.planes[kGlobalPlane]);
}

struct Factors {
  float values[kTileElems / kBlockElems];
  Factors(const Resolved& resolved, const ParamView& params, int64_t first_elem,
          int64_t num_elems) {
    float* next = values;
    for (RunWalker run(resolved.layout.groups, first_elem, first_elem + num_elems); !run.done();
         run.Next()) {
      *next++ = FactorOf(params, run.group());
    }
  }
};

template <typename T, typename EncodeFn>
int64_t EncodeValues(const T* values, int64_t num_elems, const Factors& factors, EncodeFn encode,
                     uint8_t* codes) {
  if (encode(values, num_elems, factors.values, codes) < T{kClipBound}) return 0;
  int64_t clipped = 0;
  for (int64_t i = 0; i < num_elems; ++i) {
    clipped += std::fabs(values[i] / factors.values[i / kBlockElems]) >= T{kClipBound};
  }
  return clipped;
}

void EncodeNvfp4(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                 Counts* counts) {
  const TileView& values = segment.values;
  const Factors factors(resolved, segment.params, segment.first_elem, values.num_elems);
  uint8_t codes[kTileElems];
  counts->clipped += values.f32 != nullptr ? EncodeValues(values.f32, values.num_elems, factors,
                                                          HWY_DYNAMIC_DISPATCH(EncodeNvF32), codes)
                                           : EncodeValues(values.f64, values.num_elems, factors,
                                                          HWY_DYNAMIC_DISPATCH(EncodeNvF64), codes);
  PackNibbles(codes, RoundUp(values.num_elems, kBlockElems), /*first_high=*/false,
              reinterpret_cast<uint8_t*>(out.data()));
}

void DecodeNvfp4(const Resolved& resolved, std::span<const std::byte> packed,
                 const ParamView& params, int64_t first_elem, TileSpan out) {
  const Factors factors(resolved, params, first_elem, out.num_elems);
  uint8_t codes[kTileElems];
  UnpackNibbles(reinterpret_cast<const uint8_t*>(packed.data()),
                RoundUp(out.num_elems, kBlockElems),
                /*first_high=*/false, codes);
  if (out.f32 != nullptr) {
    HWY_DYNAMIC_DISPATCH(DecodeNvF32)(codes, out.num_elems, factors.values, out.f32);
  } else {
    HWY_DYNAMIC_DISPATCH(DecodeNvF64)(codes, out.num_elems, factors.values, out.f64);
  }
}

// --- The scalar definitions ---

void EncodeNvfp4Ref(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                    Counts* counts) {
  std::fill(out.begin(), out.end(), std::byte{0});
  for (int64_t i = 0; i < segment.values.num_elems; ++i) {
    const int64_t group = resolved.layout.groups.RunAt(segment.first_elem + i).group;
    const float factor = FactorOf(segment.params, group);
    const double steps = segment.values.f32 != nullptr
                             ? segment.values.f32[i] / factor
                             : segment.values.f64[i] / static_cast<double>(factor);
    counts->clipped += std::fabs(steps) >= kClipBound;
    const uint32_t code = NarrowFloat(kE2m1Format, steps, Rounding::kHalfEven, /*saturate=*/true);
    out[static_cast<size_t>(i / 2)] |= static_cast<std::byte>(code << (i % 2 == 0 ? 0 : 4));
  }
}

void DecodeNvfp4Ref(const Resolved& resolved, std::span<const std::byte> packed,
                    const ParamView& params, int64_t first_elem, TileSpan out) {
  for (int64_t i = 0; i < out.num_elems; ++i) {
    const auto byte = std::to_integer<uint32_t>(packed[static_cast<size_t>(i / 2)]);
    const uint32_t code = i % 2 == 0 ? byte & 0x0F : byte >> 4;
    const float factor = FactorOf(params, resolved.layout.groups.RunAt(first_elem + i).group);
    if (out.f32 != nullptr) {
      out.f32[i] = WidenFloat<float>(kE2m1Format, code) * factor;
    } else {
      out.f64[i] = WidenFloat<double>(kE2m1Format, code) * static_cast<double>(factor);
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
