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
// Dialect mlx has no global scale: s = E4M3(min(absmax of the block / 6, 448)), where 0 stays 0 and
// the block's codes are 0; d = s. Ties go toward zero, and code 0 has no sign. Nothing is known of
// the whole tensor, so blocks of any tensor flow at once; values beyond 448 * 6 are clipped, where
// MLX makes 0 of those from 2^25 scales on.
//
// Dialect modelopt has the reciprocal of g, to multiply by, ModelOpt's weight_scale_2:
//
//   global_scale g = absmax of the tensor / 2688; 1 for 0
//   scale        s = E4M3(absmax of the block / (6 * g)), 2^-9 to 448; 1 for 0
//   d = f32(s * g)
//
// Beyond compressed-tensors: x' that f32 cannot hold, of absmax near the largest f32, becomes the
// largest f32, where the package decodes infinity; f64 beyond f32 count as its largest in ranges.
//
// Source: compressed-tensors 0.20, nvfp4-pack-quantized: generate_gparam, calculate_qparams; MLX
// 0.32.4, mx.quantize in mode nvfp4; NVIDIA ModelOpt 0.47.0, NVFP4QTensor.
// Entry: nvfp4_scheme. Tested by tests/core/scheme/golden_test.cc and reference_test.cc.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "core/base/checked_math.h"
#include "core/base/copy_bytes.h"
#include "core/base/minifloat.h"
#include "core/base/status_macros.h"
#include "core/scheme/block.h"
#include "core/scheme/nvfp4_codes.h"
#include "core/scheme/scheme.h"

namespace quantd {
namespace {

using nvfp4::kBlockElems;

constexpr size_t kScalePlane = 1;
constexpr size_t kGlobalPlane = 2;

constexpr char kDefinition[] =
    R"(Blocks of 16 of a row of the last axis; `tail=pad` fills the last one of each row with zeros. absmax is
the larger one of |min| and |max|, rounded to f32 (beyond it: its largest); each step is in f32:

    g = (1 / max(absmax of the tensor, 2^-126)) * 2688, 1 where that is infinite
    s = E4M3(min(g * (absmax of the block / 6), 448)), ties to even; 0.125 where that is 0
    d = s / g
    code = E2M1(x / d), the nearest, ties to the even code, at most 6        in T
    x' = E2M1 value * d                                   in U; an infinite f32 is f32's largest

E2M1 has sign (8) and the values 0, 0.5, 1, 1.5, 2, 3, 4, 6 for codes 0 to 7; the sign is set where
x / d < 0, so not for -0. E4M3 is that of fp8_e4m3. A tensor of zeros has g = 1, s = 0.125, codes 0.
Clipped: |x / d| of 7 and more.

Dialect mlx has no g: s = E4M3(min(absmax of the block / 6, 448)), which may be 0, and d = s. Ties go
toward zero, code 0 has no sign, and a block with s = 0 has codes 0 and nothing clipped.

Dialect modelopt (0.47.0) has in place of the first three lines

    g = absmax of the tensor / 2688, 1 where that is 0
    s = E4M3(clamp(absmax of the block / (6 * g), 2^-9, 448)), ties to even; 1 for a quotient of 0
    d = s * g

and codes 0, nothing clipped, in blocks with d = 0.

| plane | dtype | shape |
| --- | --- | --- |
| codes | uint8 | [.., ceil(L / 16) * 8]: nibbles low first |
| scale | f8_e4m3 | [.., ceil(L / 16)]: s |
| global_scale | f32 | [1]: g; not in dialect mlx, in dialect modelopt of shape [] |
)";

bool IsMlx(const QuantSpec& spec) { return spec.dialect == "mlx"; }

bool IsModelOpt(const QuantSpec& spec) { return spec.dialect == "modelopt"; }

nvfp4::Habits HabitsOf(const Resolved& resolved) {
  if (IsMlx(resolved.spec)) return {.zero_scale = 0, .mlx = true};
  if (IsModelOpt(resolved.spec)) return {.zero_scale = 0x38, .multiplies = true};  // 1
  return {};
}

absl::StatusOr<PackedLayout> PlanNvfp4(const SchemeInfo&, const QuantSpec& spec,
                                       const TensorDesc& tensor) {
  QUANTD_ASSIGN_OR_RETURN(PackedLayout layout,
                          PlanRowBlocks(*spec.tail, tensor.shape, kBlockElems, kBlockElems / 2));
  QUANTD_ASSIGN_OR_RETURN(Grouping grouping,
                          MakeGrouping(*spec.granularity, Tail::kShort, tensor.shape));
  // A row that is shorter than a block is one group of a whole block's codes.
  layout.groups = grouping.map;
  layout.band_evidence = kRange;
  const int64_t groups = grouping.map.num_groups;
  layout.planes.push_back(
      {"scale", PlaneRole::kPerGroup, DType::kF8E4M3, std::move(grouping.plane_shape), groups});
  if (IsMlx(spec)) return layout;
  layout.tensor_evidence = kRange;
  Shape one;
  if (!IsModelOpt(spec)) {
    QUANTD_ASSIGN_OR_RETURN(one, Shape::Make({1}));
  }
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
  if (params.planes[kGlobalPlane].empty()) return 1;
  return LoadAt(reinterpret_cast<const float*>(params.planes[kGlobalPlane].data()), 0);
}

void ResolveGlobal(const Resolved& resolved, const TensorEvidence& tensor, ParamPlanes out) {
  if (IsMlx(resolved.spec)) return;
  constexpr float kMost = nvfp4::kMaxScale * nvfp4::kMaxCode;
  float global = 1;
  if (IsModelOpt(resolved.spec)) {
    global = ReachOf(tensor.range) / kMost;
    if (global == 0) global = 1;
  } else {
    const float inverse = 1 / std::max(ReachOf(tensor.range), std::numeric_limits<float>::min());
    global = inverse * kMost;
    if (std::isinf(global)) global = 1;
  }
  std::memcpy(out.planes[kGlobalPlane].data(), &global, sizeof(global));
}

void ResolveBlocks(const Resolved& resolved, std::span<const Range> ranges, ParamPlanes out) {
  const float global = LoadGlobal(out);
  float absmax[nvfp4::kTileBlocks];
  std::byte* scales = out.planes[kScalePlane].data();
  while (!ranges.empty()) {
    const size_t count = std::min(ranges.size(), size_t{nvfp4::kTileBlocks});
    for (size_t i = 0; i < count; ++i) absmax[i] = ReachOf(ranges[i]);
    nvfp4::ChosenTable().find_scales(HabitsOf(resolved), absmax, static_cast<int64_t>(count),
                                     global, scales);
    ranges = ranges.subspan(count);
    scales += count;
  }
}

// Finds the factors of the blocks of a segment, which lie in one layout row: group after group.
void FactorsOf(const Resolved& resolved, const ParamView& params, int64_t first_elem,
               int64_t num_elems, nvfp4::Factors& factors) {
  const int64_t group = resolved.layout.groups.RunAt(first_elem).group - params.first_group;
  nvfp4::ChosenTable().find_factors(HabitsOf(resolved), params.planes[kScalePlane].data() + group,
                                    CeilDiv(num_elems, kBlockElems), LoadGlobal(params), factors);
}

void EncodeNvfp4(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                 Counts* counts, Meter* meter) {
  const int64_t num_elems = segment.values.num_elems;
  nvfp4::Factors factors;
  FactorsOf(resolved, segment.params, segment.first_elem, num_elems, factors);
  counts->clipped += segment.values.Visit([&]<typename T>(const T* values) {
    return nvfp4::ChosenTable().Of<T>().encode(HabitsOf(resolved), values, num_elems, factors,
                                               out.data(), LanesOf<T>(meter));
  });
}

void DecodeNvfp4(const Resolved& resolved, std::span<const std::byte> packed,
                 const ParamView& params, int64_t first_elem, TileSpan out) {
  nvfp4::Factors factors;
  FactorsOf(resolved, params, first_elem, out.num_elems, factors);
  out.Visit([&]<typename T>(T* values) {
    nvfp4::ChosenTable().Of<T>().decode(packed.data(), out.num_elems, factors, values);
  });
}

// --- The scalar definitions ---

// Returns d of element `elem`.
float FactorRef(const Resolved& resolved, const ParamView& params, int64_t elem) {
  const int64_t group = resolved.layout.groups.RunAt(elem).group - params.first_group;
  const auto code = std::to_integer<uint32_t>(params.planes[1][static_cast<size_t>(group)]);
  float global = 1;
  if (resolved.spec.dialect != "mlx") {
    std::memcpy(&global, params.planes[2].data(), sizeof(global));
  }
  const float scale = WidenFloat<float>(kE4m3Format, code);
  return resolved.spec.dialect == "modelopt" ? scale * global : scale / global;
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
uint32_t MlxCodeRef(T q) {
  const T reach = std::fabs(q);
  uint32_t code = 0;
  for (const double middle : {0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0}) {
    code += reach > static_cast<T>(middle);
  }
  return q < 0 && code > 0 ? code | 8 : code;
}

template <typename T>
void EncodeRef(const Resolved& resolved, const Segment& segment, const T* values,
               std::span<std::byte> out, Counts* counts) {
  std::fill(out.begin(), out.end(), std::byte{0});
  for (int64_t i = 0; i < segment.values.num_elems; ++i) {
    const T d = static_cast<T>(FactorRef(resolved, segment.params, segment.first_elem + i));
    const T q = d == 0 ? 0 : LoadAt(values, i) / d;
    counts->clipped += std::fabs(q) >= 7;
    const uint32_t code = resolved.spec.dialect == "mlx" ? MlxCodeRef(q) : CodeRef(q);
    out[static_cast<size_t>(i / 2)] |= static_cast<std::byte>(code << (i % 2 == 0 ? 0 : 4));
  }
}

void EncodeNvfp4Ref(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                    Counts* counts) {
  segment.values.Visit(
      [&](const auto* values) { EncodeRef(resolved, segment, values, out, counts); });
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
      CopyBytes(out.f32 + i, &y, sizeof(y));
    } else {
      const double y = double{value} * double{factor};
      CopyBytes(out.f64 + i, &y, sizeof(y));
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
    info.source =
        "compressed-tensors 0.20 nvfp4-pack-quantized, of NVIDIA's NVFP4; MLX 0.32.4; ModelOpt "
        "0.47.0";
    info.definition = kDefinition;
    info.bits_per_code = 4;
    info.granularities = {{.kind = GranularityKind::kGroup, .group_elems = kBlockElems}};
    info.roundings = {Rounding::kHalfEven};
    info.dialects = {{.name = "compressed_tensors"}, {.name = "mlx"}, {.name = "modelopt"}};
    info.nonfinites = {NonFinite::kReject, NonFinite::kSaturate};
    info.tails = {Tail::kReject, Tail::kPad};
    return scheme;
  }();
  return kScheme;
}

}  // namespace quantd
