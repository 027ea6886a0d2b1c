// Entries: SentenceTransformersRow and UsearchRow. Loops are plain: columns have a scale and a
// start for each element, rows a norm for all. Tested by tests/core/scheme/segments_test.cc,
// reference_test.cc, golden_test.cc and embeddings_test.cc.
#include "core/scheme/embeddings.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/checked_math.h"
#include "core/base/copy_bytes.h"
#include "core/base/status_macros.h"
#include "core/scheme/block.h"
#include "core/scheme/elem_scales.h"

namespace quantd {

const absl::string_view kSentenceTransformersDefinition = R"(
`dialect=sentence_transformers` (6.2.0, quantize_embeddings) has mode asymmetric, rounding floor,
and axis=-1 unless told otherwise. low and high are min and max rounded to f32 (beyond it: its
largest), not widened to hold 0:

    start = low;  s = (high - low) / 255 in f32, or f32((high - low) / 255) in f64 where the width
                  overflows f32;  1 where that is 0
    h = 0.5 where s is 2^119 and more, else 1
    v = (x * h - start * h) / (s * h)                   in T
    code = floor(clamp(v, 0, 255))$0
    x' = $1 * s + start                                 in f64, rounded once to f32 where that is U

Planes are codes, scale (s) and start, both f32 and of the groups. Clipped: v of -0.5 and less, or
255.5 and more.
)";

const absl::string_view kUsearchDefinition = R"(
`dialect=usearch` (2.26.6) has one plane, codes, and no parameters; of vectors, the rows of the last
axis, of at most 4096 elements. An infinity counts as the largest finite |x| of its vector, if that is
not 0.

    norm = sqrt(the sum of x * x, added one after the other from 0)     in f64
    code = trunc(clamp(x * 127 / norm, -127, 127)) in f64, 0 where norm is 0 or infinite
    x' = code / 127                                     in U

Clipped: |x| of 127.5 / 127 and more.
)";

namespace {

// --- sentence_transformers ---

constexpr size_t kScalePlane = 1, kStartPlane = 2;
constexpr float kLargeStep = 0x1p119f;  // of less, no difference of two values in range overflows

absl::Status CompleteColumns(const SchemeInfo& info, const TensorDesc&, QuantSpec& spec) {
  if (!spec.scale) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("dialect ", spec.dialect, " of scheme ", info.name,
                   " takes no scale= or zero=; use range=, or give ranges"));
}

absl::StatusOr<PackedLayout> PlanColumns(const SchemeInfo& info, const QuantSpec& spec,
                                         const TensorDesc& tensor) {
  QUANTD_ASSIGN_OR_RETURN(Grouping grouping,
                          MakeGrouping(*spec.granularity, *spec.tail, tensor.shape));
  QUANTD_ASSIGN_OR_RETURN(const int64_t param_bytes,
                          CheckedMul(grouping.map.num_groups, int64_t{sizeof(float)}));
  PackedLayout layout;
  layout.groups = grouping.map;
  layout.row_elems = tensor.shape.num_elems();
  layout.band_evidence = kRange;
  layout.planes = {{"codes", PlaneRole::kCodes, info.is_signed ? DType::kInt8 : DType::kUint8,
                    tensor.shape, tensor.shape.num_elems()},
                   {"scale", PlaneRole::kPerGroup, DType::kF32, grouping.plane_shape, param_bytes},
                   {"start", PlaneRole::kPerGroup, DType::kF32, grouping.plane_shape, param_bytes}};
  return layout;
}

void ResolveColumns(const Resolved&, std::span<const Range> ranges, ParamPlanes out) {
  constexpr double kLargest = std::numeric_limits<float>::max();
  for (size_t i = 0; i < ranges.size(); ++i) {
    const Range range = ranges[i].min <= ranges[i].max ? ranges[i] : Range{};  // no finite value
    const auto low = static_cast<float>(std::clamp(range.min, -kLargest, kLargest));
    const auto high = static_cast<float>(std::clamp(range.max, -kLargest, kLargest));
    float scale = (high - low) / 255;
    if (std::isinf(scale)) scale = static_cast<float>((double{high} - double{low}) / 255);
    if (scale == 0) scale = 1;
    std::memcpy(out.planes[kScalePlane].data() + i * sizeof(scale), &scale, sizeof(scale));
    std::memcpy(out.planes[kStartPlane].data() + i * sizeof(low), &low, sizeof(low));
  }
}

// What int8 has less than uint8 flips the highest bit.
uint8_t FlipOf(const Resolved& resolved) { return resolved.info->is_signed ? 0x80 : 0; }

// Scales and starts of the elements of a segment.
struct ColumnParams {
  ColumnParams(const Resolved& resolved, const ParamView& params, int64_t first_elem,
               int64_t num_elems)
      : scales(resolved, kScalePlane, params, first_elem, num_elems),
        starts(resolved, kStartPlane, params, first_elem, num_elems) {}
  ElemScales scales, starts;
};

template <typename T>
void DecodeColumnsTo(const ColumnParams& params, const uint8_t* codes, int64_t num_elems,
                     uint8_t flip, T* values) {
  for (int64_t i = 0; i < num_elems; ++i) {
    const double steps = static_cast<uint8_t>(codes[i] ^ flip);
    const auto value = static_cast<T>(steps * double{LoadAt(params.scales.data(), i)} +
                                      double{LoadAt(params.starts.data(), i)});
    CopyBytes(values + i, &value, sizeof(value));
  }
}

template <typename T>
int64_t EncodeColumnsAs(const ColumnParams& params, const T* values, int64_t num_elems,
                        uint8_t flip, uint8_t* codes) {
  int64_t clipped = 0;
  for (int64_t i = 0; i < num_elems; ++i) {
    const float scale = LoadAt(params.scales.data(), i), start = LoadAt(params.starts.data(), i);
    const T half = scale >= kLargeStep ? T{0.5} : T{1};
    const T v = (LoadAt(values, i) * half - T{start} * half) / (T{scale} * half);
    clipped += v <= T{-0.5} || v >= T{255.5};
    const T held = v > 0 ? (v < 255 ? v : T{255}) : T{0};
    codes[i] = static_cast<uint8_t>(static_cast<int>(held)) ^ flip;
  }
  return clipped;
}

void EncodeColumns(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                   Counts* counts, Meter* meter) {
  const int64_t num_elems = segment.values.num_elems;
  const ColumnParams params(resolved, segment.params, segment.first_elem, num_elems);
  const uint8_t flip = FlipOf(resolved);
  auto* codes = reinterpret_cast<uint8_t*>(out.data());
  segment.values.Visit([&]<typename T>(const T* values) {
    counts->clipped += EncodeColumnsAs(params, values, num_elems, flip, codes);
    if (meter == nullptr) return;
    T decoded[kTileElems];
    DecodeColumnsTo(params, codes, num_elems, flip, decoded);
    ForEachRun(resolved.layout.groups, segment.first_elem, num_elems,
               [&](int64_t begin, int64_t count) {
                 MeasureSegment(values + begin, decoded + begin, count, meter->lanes<T>());
               });
  });
}

void DecodeColumns(const Resolved& resolved, std::span<const std::byte> codes,
                   const ParamView& params, int64_t first_elem, TileSpan out) {
  const ColumnParams own(resolved, params, first_elem, out.num_elems);
  out.Visit([&](auto* values) {
    DecodeColumnsTo(own, reinterpret_cast<const uint8_t*>(codes.data()), out.num_elems,
                    FlipOf(resolved), values);
  });
}

// --- usearch ---

absl::Status CompleteVectors(const SchemeInfo& info, const TensorDesc&, QuantSpec& spec) {
  constexpr Granularity kRows = {.kind = GranularityKind::kGroup, .group_elems = kWholeRow};
  const bool has_range = spec.given_range || (!spec.range.empty() && spec.range != "minmax");
  if (spec.granularity == kRows && !spec.scale && !has_range) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("dialect ", spec.dialect, " of scheme ", info.name,
                   " takes a scale from each vector, group=-1; it has no other granularity, and no "
                   "range=, scale= or zero="));
}

absl::StatusOr<PackedLayout> PlanVectors(const SchemeInfo& info, const QuantSpec& spec,
                                         const TensorDesc& tensor) {
  const int64_t vector_elems = tensor.shape.rank() == 0 ? 1 : tensor.shape.last_dim();
  if (vector_elems > kTileElems) {
    return absl::InvalidArgumentError(absl::StrCat(
        "dialect ", spec.dialect, " of scheme ", info.name, " takes vectors of at most ",
        kTileElems, " elems; axis ", tensor.shape.rank() - 1, " has ", vector_elems));
  }
  const int64_t atom_elems = std::max<int64_t>(vector_elems, 1);
  QUANTD_ASSIGN_OR_RETURN(PackedLayout layout,
                          PlanRowBlocks(Tail::kReject, tensor.shape, atom_elems, atom_elems));
  layout.planes[0].dtype = DType::kInt8;
  layout.atom_scales = true;
  return layout;
}

void ResolveVectors(const Resolved&, std::span<const Range>, ParamPlanes) {}

template <typename T>
void DecodeVectorsTo(const int8_t* codes, int64_t num_elems, T* values) {
  for (int64_t i = 0; i < num_elems; ++i) {
    const T value = static_cast<T>(codes[i]) / T{127};
    CopyBytes(values + i, &value, sizeof(value));
  }
}

template <typename T>
double NormOf(const T* values, int64_t num_elems) {
  double sum = 0;
  for (int64_t i = 0; i < num_elems; ++i) {
    const double x = LoadAt(values, i);
    sum += x * x;
  }
  return std::sqrt(sum);
}

template <typename T>
int64_t EncodeVector(const T* values, int64_t num_elems, int8_t* codes) {
  const double norm = NormOf(values, num_elems);
  int64_t clipped = 0;
  for (int64_t i = 0; i < num_elems; ++i) {
    const double x = LoadAt(values, i);
    clipped += std::fabs(x) >= 127.5 / 127;
    const double steps = x * 127 / norm;
    const double held = steps > -127 ? (steps < 127 ? steps : 127.0) : -127.0;
    codes[i] = norm > 0 && std::isfinite(norm) ? static_cast<int8_t>(held) : int8_t{0};
  }
  return clipped;
}

void EncodeVectors(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                   Counts* counts, Meter* meter) {
  const int64_t num_elems = segment.values.num_elems, step = resolved.layout.atom_elems;
  auto* codes = reinterpret_cast<int8_t*>(out.data());
  segment.values.Visit([&]<typename T>(const T* values) {
    for (int64_t i = 0; i < num_elems; i += step) {
      counts->clipped += EncodeVector(values + i, step, codes + i);
    }
    if (meter == nullptr) return;
    T decoded[kTileElems];
    DecodeVectorsTo(codes, num_elems, decoded);
    MeasureSegment(values, decoded, num_elems, meter->lanes<T>());
  });
}

void DecodeVectors(const Resolved&, std::span<const std::byte> codes, const ParamView&, int64_t,
                   TileSpan out) {
  out.Visit([&](auto* values) {
    DecodeVectorsTo(reinterpret_cast<const int8_t*>(codes.data()), out.num_elems, values);
  });
}

// --- The scalar definitions ---

float EntryRef(const Resolved& resolved, const ParamView& params, size_t plane, int64_t elem) {
  const int64_t entry = resolved.layout.groups.RunAt(elem).group - params.first_group;
  float value;
  std::memcpy(&value, &params.planes[plane][static_cast<size_t>(entry) * 4], 4);
  return value;
}

void EncodeColumnsRef(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                      Counts* counts) {
  for (int64_t i = 0; i < segment.values.num_elems; ++i) {
    const float scale = EntryRef(resolved, segment.params, 1, segment.first_elem + i);
    const float start = EntryRef(resolved, segment.params, 2, segment.first_elem + i);
    const float h = scale >= std::ldexp(1.0f, 119) ? 0.5f : 1.0f;
    segment.values.Visit([&]<typename T>(const T* from) {
      const T v = (LoadAt(from, i) * h - T{start} * h) / (T{scale} * h);
      counts->clipped += v <= T{-0.5} || v >= T{255.5};
      const int code = static_cast<int>(std::floor(std::clamp(v, T{0}, T{255})));
      out[static_cast<size_t>(i)] =
          static_cast<std::byte>(resolved.info->is_signed ? code - 128 : code);
    });
  }
}

void DecodeColumnsRef(const Resolved& resolved, std::span<const std::byte> codes,
                      const ParamView& params, int64_t first_elem, TileSpan out) {
  for (int64_t i = 0; i < out.num_elems; ++i) {
    int code = std::to_integer<int>(codes[static_cast<size_t>(i)]);
    if (resolved.info->is_signed) code = static_cast<int8_t>(code) + 128;
    const double y = code * double{EntryRef(resolved, params, 1, first_elem + i)} +
                     double{EntryRef(resolved, params, 2, first_elem + i)};
    out.Visit([&]<typename T>(T* to) {
      const auto value = static_cast<T>(y);
      CopyBytes(to + i, &value, sizeof(value));
    });
  }
}

void EncodeVectorsRef(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                      Counts* counts) {
  const int64_t length = resolved.tensor.shape.last_dim();
  segment.values.Visit([&](const auto* from) {
    double sum = 0;
    for (int64_t i = 0; i < segment.values.num_elems; ++i) {
      if (i % length == 0) {
        sum = 0;
        for (int64_t j = i; j < i + length; ++j) sum += double{LoadAt(from, j)} * LoadAt(from, j);
      }
      const double x = LoadAt(from, i);
      counts->clipped += x >= 127.5 / 127 || x <= -127.5 / 127;
      const bool none = sum == 0 || std::isinf(sum);
      const double steps = none ? 0 : std::clamp(x * 127 / std::sqrt(sum), -127.0, 127.0);
      out[static_cast<size_t>(i)] = static_cast<std::byte>(static_cast<int>(std::trunc(steps)));
    }
  });
}

void DecodeVectorsRef(const Resolved&, std::span<const std::byte> codes, const ParamView&, int64_t,
                      TileSpan out) {
  for (int64_t i = 0; i < out.num_elems; ++i) {
    const auto code = static_cast<int8_t>(codes[static_cast<size_t>(i)]);
    out.Visit([&]<typename T>(T* to) {
      const T value = T{static_cast<T>(code)} / 127;
      CopyBytes(to + i, &value, sizeof(value));
    });
  }
}

}  // namespace

const Scheme& SentenceTransformersRow() {
  static const Scheme kRow = {.info = {},
                              .complete = CompleteColumns,
                              .plan = PlanColumns,
                              .resolve_constants = nullptr,
                              .resolve = ResolveColumns,
                              .encode = EncodeColumns,
                              .decode = DecodeColumns,
                              .encode_ref = EncodeColumnsRef,
                              .decode_ref = DecodeColumnsRef};
  return kRow;
}

const Scheme& UsearchRow() {
  static const Scheme kRow = {.info = {},
                              .complete = CompleteVectors,
                              .plan = PlanVectors,
                              .resolve_constants = nullptr,
                              .resolve = ResolveVectors,
                              .encode = EncodeVectors,
                              .decode = DecodeVectors,
                              .encode_ref = EncodeVectorsRef,
                              .decode_ref = DecodeVectorsRef};
  return kRow;
}

Dialect SentenceTransformersDialect(bool is_signed) {
  Dialect dialect = {.name = "sentence_transformers",
                     .defaults = {.granularity = Granularity{.kind = GranularityKind::kAxis,
                                                             .axis = -1},
                                  .mode = Mode::kAsymmetric,
                                  .rounding = Rounding::kFloor,
                                  .scale_type = ScaleType::kF32},
                     .fixed = {"mode", "round", "scale_type"}};
  if (is_signed) {
    dialect.defaults.layout = "flat";
    dialect.fixed.push_back("layout");
  }
  return dialect;
}

Dialect UsearchDialect() {
  return {.name = "usearch",
          .defaults = {.granularity = Granularity{.kind = GranularityKind::kGroup,
                                                  .group_elems = kWholeRow},
                       .mode = Mode::kSymmetric,
                       .rounding = Rounding::kTruncate,
                       .scale_type = ScaleType::kF32,
                       .layout = "flat"},
          .fixed = {"mode", "round", "scale_type", "layout"}};
}

}  // namespace quantd
