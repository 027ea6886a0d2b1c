// The row's functions, by the rules of mlx.h, and the scalar definitions. A group from -1 to 2 in 3
// bits shows what makes 0 and the edge exact: scale = -3 / 7, 2 / scale = -4.67, rounded -5, so the
// scale becomes 2 / -5 = -0.4 and the bias 2. Codes count down from the edge: 2 is 0, 0 is 5 and
// -1, which would be 7.5, is 7, the last, and comes back as -0.8.
//
// Entry: MlxScheme. Tested by tests/core/scheme/segments_test.cc, reference_test.cc and
// golden_test.cc.
#include "core/scheme/mlx.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/substitute.h"
#include "core/base/checked_math.h"
#include "core/base/copy_bytes.h"
#include "core/base/minifloat.h"
#include "core/base/status_macros.h"
#include "core/scheme/mlx_codes.h"
#include "core/simd/bits.h"
#include "core/simd/convert.h"

namespace quantd {
namespace {

constexpr size_t kScalePlane = 1;
constexpr size_t kBiasPlane = 2;
constexpr int64_t kAtomElems = 32;  // a whole number of words in all widths
constexpr int64_t kMaxRuns = kTileElems / 32 + 2;  // of a segment, with cut ends

using Working = MlxWorking;

DType StoredType(DType dtype) {
  return dtype == DType::kF16 || dtype == DType::kBf16 ? dtype : DType::kF32;
}

absl::StatusOr<PackedLayout> PlanMlx(const SchemeInfo& info, const QuantSpec& spec,
                                     const TensorDesc& tensor) {
  QUANTD_ASSIGN_OR_RETURN(Grouping grouping,
                          MakeGrouping(*spec.granularity, Tail::kReject, tensor.shape));
  PackedLayout layout;
  layout.groups = grouping.map;
  layout.row_elems = tensor.shape.num_elems();  // rows are whole atoms
  layout.atom_elems = kAtomElems;
  layout.atom_bytes = kAtomElems / 8 * info.bits;
  layout.working_bytes = sizeof(Working);
  layout.band_evidence = kRange;
  const DType stored = StoredType(tensor.dtype);
  std::vector<int64_t> dims(tensor.shape.dims().begin(), tensor.shape.dims().end());
  dims.back() = dims.back() / kAtomElems * info.bits;
  QUANTD_ASSIGN_OR_RETURN(Shape words, Shape::Make(std::move(dims)));
  QUANTD_ASSIGN_OR_RETURN(int64_t code_bytes,
                          CheckedMul(words.num_elems(), SizeOf(DType::kUint32)));
  QUANTD_ASSIGN_OR_RETURN(int64_t param_bytes,
                          CheckedMul(grouping.map.num_groups, SizeOf(stored)));
  layout.planes = {
      {"codes", PlaneRole::kCodes, DType::kUint32, std::move(words), code_bytes},
      {"scale", PlaneRole::kPerGroup, stored, grouping.plane_shape, param_bytes},
      {"bias", PlaneRole::kPerGroup, stored, grouping.plane_shape, param_bytes}};
  return layout;
}

// Returns `scale`, or one nearer to 0 that f32 holds `steps` of.
float HoldSteps(float scale, float steps) {
  if (std::isfinite(scale * steps)) return scale;
  float most = std::numeric_limits<float>::max() / steps;
  if (std::isinf(most * steps)) most = std::nextafter(most, 0.0f);
  return std::copysign(most, scale);
}

// Rounds to `dtype`; toward 0 where f32 would not hold `steps` of what is stored.
void Store(DType dtype, float value, float steps, int64_t i, std::span<std::byte> plane) {
  if (dtype == DType::kF32) {
    std::memcpy(plane.data() + i * 4, &value, 4);
    return;
  }
  const MiniFormat& format = dtype == DType::kF16 ? kHalfFormat : kBfloatFormat;
  auto code =
      static_cast<uint16_t>(NarrowFloat(format, value, Rounding::kHalfEven, /*saturate=*/true));
  if (std::isinf(WidenFloat<float>(format, code) * steps)) --code;
  std::memcpy(plane.data() + i * 2, &code, 2);
}

void ResolveMlx(const Resolved& resolved, std::span<const Range> ranges, ParamPlanes out) {
  const DType stored = resolved.layout.planes[kScalePlane].dtype;
  const int bits = resolved.info->bits;
  const float steps = static_cast<float>((1 << bits) - 1);
  const bool in_f32 = WorksAsF32(resolved.tensor.dtype);
  constexpr int64_t kBatch = 64;
  Working found[kBatch];
  for (int64_t begin = 0; begin < std::ssize(ranges); begin += kBatch) {
    const int64_t count = std::min(kBatch, std::ssize(ranges) - begin);
    static_assert(sizeof(Range) == 2 * sizeof(double));
    MlxTable().find_params(&ranges[static_cast<size_t>(begin)].min, count, steps, found);
    for (int64_t i = 0; i < count; ++i) {
      // Codes times the scale stay in f32's range.
      if (in_f32) found[i].scale = HoldSteps(found[i].scale, steps);
      Store(stored, found[i].scale, steps, begin + i, out.planes[kScalePlane]);
      Store(stored, found[i].bias, 1, begin + i, out.planes[kBiasPlane]);
    }
    CopyBytes(out.working.data() + begin * int64_t{sizeof(Working)}, found,
              static_cast<size_t>(count) * sizeof(Working));
  }
}

// The runs of a segment.
template <typename T>
class Runs {
 public:
  Runs(const Resolved& resolved, const ParamView& params, int64_t first_elem, int64_t num_elems) {
    const GroupMap& groups = resolved.layout.groups;
    const DType stored = resolved.layout.planes[kScalePlane].dtype;
    const int64_t first = groups.RunAt(first_elem).group - params.first_group;
    for (RunWalker run(groups, first_elem, first_elem + num_elems); !run.done(); run.Next()) {
      runs_[count_++] = {.num_elems = run.num_elems()};
    }
    const auto count = static_cast<int64_t>(count_);
    float scales[kMaxRuns], biases[kMaxRuns];
    WidenToF32(stored, params.planes[kScalePlane].data() + first * SizeOf(stored), count, scales);
    WidenToF32(stored, params.planes[kBiasPlane].data() + first * SizeOf(stored), count, biases);
    for (size_t i = 0; i < count_; ++i) {
      Working working = {};
      if (!params.working.empty()) {
        const size_t at = static_cast<size_t>(first) + i;
        std::memcpy(&working, &params.working[at * sizeof(working)], sizeof(working));
      }
      runs_[i] = {runs_[i].num_elems, working.scale, working.bias, scales[i], biases[i]};
    }
  }
  operator std::span<const MlxRun<T>>() const { return {runs_, count_}; }  // NOLINT

 private:
  MlxRun<T> runs_[kMaxRuns];
  size_t count_ = 0;
};

void EncodeMlx(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
               Counts* counts, Meter* meter) {
  const TileView& values = segment.values;
  const int bits = resolved.info->bits;
  uint8_t codes[kTileElems];
  counts->clipped += values.Visit([&]<typename T>(const T* from) {
    const Runs<T> runs(resolved, segment.params, segment.first_elem, values.num_elems);
    return MlxTable().Of<T>().encode((1 << bits) - 1, runs, from, codes, LanesOf<T>(meter));
  });
  PackBits(codes, values.num_elems, bits, reinterpret_cast<uint8_t*>(out.data()));
}

void DecodeMlx(const Resolved& resolved, std::span<const std::byte> packed, const ParamView& params,
               int64_t first_elem, TileSpan out) {
  uint8_t codes[kTileElems];
  UnpackBits(reinterpret_cast<const uint8_t*>(packed.data()), out.num_elems, resolved.info->bits,
             codes);
  out.Visit([&]<typename T>(T* to) {
    const Runs<T> runs(resolved, params, first_elem, out.num_elems);
    MlxTable().Of<T>().decode(runs, codes, to);
  });
}

// --- The scalar definitions ---

template <typename T>
int EncodeOne(T x, const float* scale_and_bias, int max_code, Counts* counts) {
  const T steps = (x - static_cast<T>(scale_and_bias[1])) / static_cast<T>(scale_and_bias[0]);
  counts->clipped +=
      steps <= static_cast<T>(-0.5) || steps >= static_cast<T>(max_code) + static_cast<T>(0.5);
  if (!(steps > 0)) return 0;
  return steps >= static_cast<T>(max_code) ? max_code : static_cast<int>(std::nearbyint(steps));
}

int64_t GroupRef(const Resolved& resolved, const ParamView& params, int64_t elem) {
  return elem / resolved.spec.granularity->group_elems - params.first_group;
}

void EncodeMlxRef(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                  Counts* counts) {
  const TileView& values = segment.values;
  const int bits = resolved.info->bits;
  std::fill(out.begin(), out.end(), std::byte{0});
  for (int64_t i = 0; i < values.num_elems; ++i) {
    float params[2];
    const int64_t group = GroupRef(resolved, segment.params, segment.first_elem + i);
    std::memcpy(params, segment.params.working.data() + group * 8, 8);
    const int code = values.Visit([&](const auto* from) {
      return EncodeOne(LoadAt(from, i), params, (1 << bits) - 1, counts);
    });
    for (int bit = 0; bit < bits; ++bit) {
      const auto at = static_cast<size_t>(i * bits + bit);
      out[at / 8] |= static_cast<std::byte>((code >> bit & 1) << at % 8);
    }
  }
}

float ParamRef(const Resolved& resolved, const ParamView& params, size_t plane, int64_t group) {
  const std::byte* at = params.planes[plane].data();
  if (resolved.tensor.dtype == DType::kF16 || resolved.tensor.dtype == DType::kBf16) {
    const bool half = resolved.tensor.dtype == DType::kF16;
    uint16_t code;
    std::memcpy(&code, at + group * 2, 2);
    return WidenFloat<float>(half ? kHalfFormat : kBfloatFormat, code);
  }
  float value;
  std::memcpy(&value, at + group * 4, 4);
  return value;
}

void DecodeMlxRef(const Resolved& resolved, std::span<const std::byte> packed,
                  const ParamView& params, int64_t first_elem, TileSpan out) {
  const int bits = resolved.info->bits;
  for (int64_t i = 0; i < out.num_elems; ++i) {
    int code = 0;
    for (int bit = 0; bit < bits; ++bit) {
      const auto at = static_cast<size_t>(i * bits + bit);
      code |= (std::to_integer<int>(packed[at / 8]) >> at % 8 & 1) << bit;
    }
    const int64_t group = GroupRef(resolved, params, first_elem + i);
    const float scale = ParamRef(resolved, params, 1, group);
    const float bias = ParamRef(resolved, params, 2, group);
    out.Visit([&]<typename T>(T* to) { to[i] = static_cast<T>(code) * T{scale} + T{bias}; });
  }
}

constexpr absl::string_view kDefinition =
    R"(Codes of $0 bits in groups of 64, 32 or 128 on the last axis, which must be whole groups. Of the range,
rounded to f32 (beyond it: its largest), all in f32:

    size = max((max - min) / $1, f32(1e-7))             max - min at most f32's largest
    |min| > |max|: scale = size, edge = min;  else scale = -size, edge = max
    e = rint(edge / scale)
    e != 0: scale = edge / e, bias = edge;  e = 0: bias = 0
    T is f32, scale * $1 infinite: |scale| is the largest f32 of which it is not, the sign stays
    code = rint(clamp((x - bias) / scale, 0, $1))       in T, with these
    x' = code * scale' + bias'                          in U, rounded twice, with what is stored

scale' and bias' are scale and bias rounded, ties to even, to the stored type, which is that of the
original where it is f16 or bf16, else f32; what it cannot hold is its largest, and a bf16 scale' of
which f32 does not hold $1 is the next one toward 0. An all-zero group has scale -1e-7 and bias 0,
both as f32. Clipped: (x - bias) / scale at most -0.5 or at least $2.

The codes of a row are one stream of bits: bit b of code k is bit $0 * k + b, bit j of the stream is
bit j mod 8 of byte j / 8; seen as little-endian words of 32 bits.

| plane | dtype | shape |
| --- | --- | --- |
| codes | uint32 | [.., L / 32 * $0] |
| scale, bias (two planes) | f16, bf16 or f32, as above | [.., L / group] |
)";

}  // namespace

SchemeInfo MlxInfo(absl::string_view name, absl::string_view summary, int bits) {
  SchemeInfo info;
  info.name = name;
  info.summary = summary;
  info.source = "MLX 0.32.4, mx.quantize, affine mode";
  const int most = (1 << bits) - 1;
  info.definition = absl::Substitute(kDefinition, bits, most, absl::StrCat(most, ".5"));
  info.bits_per_code = info.bits = bits;
  info.is_signed = false;
  for (const int64_t group_elems : {64, 32, 128}) {
    info.granularities.push_back({.kind = GranularityKind::kGroup, .group_elems = group_elems});
  }
  info.roundings = {Rounding::kHalfEven};
  info.dialects = {{.name = "mlx"}};
  info.nonfinites = {NonFinite::kReject};  // a scale that infinities reach would overflow
  info.tails = {Tail::kReject};
  info.takes_range = true;
  return info;
}

Scheme MlxScheme(SchemeInfo info) {
  return {.info = std::move(info),
          .plan = PlanMlx,
          .resolve_constants = nullptr,
          .resolve = ResolveMlx,
          .encode = EncodeMlx,
          .decode = DecodeMlx,
          .encode_ref = EncodeMlxRef,
          .decode_ref = DecodeMlxRef};
}

}  // namespace quantd
