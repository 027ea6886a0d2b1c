// fbgemm_rowwise8: FBGEMM's fused 8-bit rows, what PyTorch keeps embedding tables in: an 8-bit code
// for each value and what decodes a row behind it, so that a look-up reads one stretch of memory:
//
//   | u8 x columns | f32 scale | f32 bias |         next to each other, at any alignment
//
//   span = max - min of the row,  scale = span / 255,  bias = min,  inverse = 255 / (span + 1e-8)
//   code = round((x - min) * inverse), half-even,  x' = code * scale + bias, rounded once
//
// all in f32 (code and x' in f64 for inputs that work as f64). 1e-8 keeps a row of one value from
// dividing by zero, and is why rows with a span far below it lose most of their codes: span 1e-9
// reaches code 23. FBGEMM decodes with a fused multiply-add. Beyond FBGEMM: codes are clamped, for
// rows of given ranges; a span that f32 cannot hold is the largest f32; a scale whose largest value
// is infinite is the next smaller one. -0 as a row's least value is stored as +0.
//
// Source: FloatOrHalfToFused8BitRowwiseQuantizedSBFloat (FBGEMM, src/QuantUtils.cc). Costs what
// int8 by row does; decoding is bound by memory.
//
// The entry is fbgemm_rowwise8_scheme. Tested by tests/core/scheme/segments_test.cc and
// golden_test.cc.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/checked_math.h"
#include "core/base/status_macros.h"
#include "core/scheme/fbgemm.h"
#include "core/scheme/scheme.h"

namespace quantd {
namespace {

constexpr int kMaxCode = 255;

constexpr char kDefinition[] =
    R"(Rows of the last axis, which must not be empty; `axis=0` in the spec stands for them at any rank. A row
is | uint8 code x L | f32 scale | f32 bias |, at any alignment. Of its range, rounded to f32 (beyond
it: its largest), all in f32:

    span = max - min, at most f32's largest
    scale = span / 255,  bias = min,  inverse = 255 / (span + f32(1e-8))
    fma(255, scale, bias) infinite: scale becomes the next f32 below it
    code = rint(clamp((x - bias) * inverse, 0, 255))    in T
    x' = fma(code, scale, bias)                         in U, rounded once

A row of one value has scale 0 and codes 0. Clipped: (x - bias) * inverse at most -0.5 or at least
255.5.

| plane | dtype | shape |
| --- | --- | --- |
| codes | uint8 | [.., L + 8] |
)";

absl::StatusOr<PackedLayout> PlanRows(const SchemeInfo&, const QuantSpec&,
                                      const TensorDesc& tensor) {
  const Shape& shape = tensor.shape;
  if (shape.rank() == 0) {
    return absl::InvalidArgumentError("shape [] has no rows; rows of codes need rank 1 or more");
  }
  if (shape.last_dim() == 0) {  // what would be scale and bias of nothing?
    return absl::InvalidArgumentError(
        absl::StrCat("shape ", shape.Text(), " has rows without elements; rows need at least one"));
  }
  PackedLayout layout;
  layout.row_elems = shape.last_dim();
  layout.trailer_bytes = sizeof(FbgemmTrailer);
  layout.groups.row_elems = layout.groups.run_elems = std::max<int64_t>(layout.row_elems, 1);
  layout.groups.num_groups = layout.groups.batch_rows =
      std::max<int64_t>(shape.num_elems() / layout.groups.row_elems, 1);
  layout.working_bytes = sizeof(FbgemmRow);
  layout.band_evidence = kRange;
  std::vector<int64_t> dims(shape.dims().begin(), shape.dims().end());
  QUANTD_ASSIGN_OR_RETURN(dims.back(), CheckedAdd(dims.back(), int64_t{sizeof(FbgemmTrailer)}));
  QUANTD_ASSIGN_OR_RETURN(Shape packed, Shape::Make(std::move(dims)));
  const int64_t size_bytes = packed.num_elems();
  layout.planes = {{"codes", PlaneRole::kCodes, DType::kUint8, std::move(packed), size_bytes}};
  return layout;
}

void ResolveRows(const Resolved&, std::span<const Range> ranges, ParamPlanes out) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  std::byte* to = out.working.data();
  for (const Range& range : ranges) {
    const bool empty = !(range.min <= range.max);
    const auto narrow = [](double x) {
      return static_cast<float>(std::clamp<double>(x, -kLargest, kLargest));
    };
    const float min = empty ? 0 : narrow(range.min), max = empty ? 0 : narrow(range.max);
    const float span = std::min(max - min, kLargest);
    FbgemmRow row = {{span / kMaxCode, min}, kMaxCode / (span + 1e-8f)};
    if (!std::isfinite(std::fma(float{kMaxCode}, row.stored.scale, min))) {
      row.stored.scale = std::nextafter(row.stored.scale, 0.0f);
    }
    std::memcpy(to, &row, sizeof(row));
    to += sizeof(row);
  }
}

void EncodeRows(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                Counts* counts, Meter* meter) {
  const TileView& values = segment.values;
  const int64_t row_elems = resolved.layout.row_elems;
  const int64_t group = segment.first_elem / row_elems - segment.params.first_group;
  FbgemmRow row;
  std::memcpy(&row, segment.params.working.data() + group * int64_t{sizeof(row)}, sizeof(row));
  auto* codes = reinterpret_cast<uint8_t*>(out.data());
  counts->clipped += values.Visit([&]<typename T>(const T* from) {
    return FbgemmTable().Of<T>().encode(row, kMaxCode, from, values.num_elems, codes,
                                        LanesOf<T>(meter));
  });
  if ((segment.first_elem + values.num_elems) % row_elems == 0) {
    std::memcpy(codes + values.num_elems, &row.stored, sizeof(FbgemmTrailer));
  }
}

void DecodeRows(const Resolved&, std::span<const std::byte> packed, const ParamView&, int64_t,
                TileSpan out) {
  FbgemmTrailer row;
  std::memcpy(&row, packed.data() + packed.size() - sizeof(row), sizeof(row));
  const auto* codes = reinterpret_cast<const uint8_t*>(packed.data());
  out.Visit([&]<typename T>(T* to) {
    FbgemmTable().Of<T>().decode(row, codes, out.num_elems, to);
  });
}

// --- The scalar definitions ---

template <typename T>
uint8_t EncodeOne(T x, float min, float inverse, Counts* counts) {
  const T steps = (x - static_cast<T>(min)) * static_cast<T>(inverse);
  counts->clipped += steps <= static_cast<T>(-0.5) || steps >= static_cast<T>(255.5);
  if (!(steps > 0)) return 0;
  return steps >= 255 ? 255 : static_cast<uint8_t>(std::nearbyint(steps));
}

void EncodeRowsRef(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                   Counts* counts) {
  const int64_t columns = resolved.tensor.shape.last_dim();
  const TileView& values = segment.values;
  float row[3];  // scale, bias, inverse
  const int64_t group = segment.first_elem / columns - segment.params.first_group;
  std::memcpy(row, segment.params.working.data() + group * 12, 12);
  for (int64_t i = 0; i < values.num_elems; ++i) {
    const uint8_t code = values.Visit(
        [&](const auto* from) { return EncodeOne(LoadAt(from, i), row[1], row[2], counts); });
    out[static_cast<size_t>(i)] = static_cast<std::byte>(code);
    const bool ends_row = (segment.first_elem + i + 1) % columns == 0;
    if (ends_row) std::memcpy(&out[static_cast<size_t>(i) + 1], row, 8);
  }
}

void DecodeRowsRef(const Resolved&, std::span<const std::byte> packed, const ParamView&, int64_t,
                   TileSpan out) {
  float row[2];  // scale, bias
  std::memcpy(row, &packed[packed.size() - 8], 8);
  for (int64_t i = 0; i < out.num_elems; ++i) {
    const auto code = std::to_integer<uint8_t>(packed[static_cast<size_t>(i)]);
    out.Visit([&]<typename T>(T* to) {
      to[i] = std::fma(static_cast<T>(code), T{row[0]}, T{row[1]});
    });
  }
}

}  // namespace

const Scheme& fbgemm_rowwise8_scheme() {
  static const Scheme kScheme = [] {
    Scheme scheme = {.info = {},
                     .plan = PlanRows,
                     .resolve_constants = nullptr,
                     .resolve = ResolveRows,
                     .encode = EncodeRows,
                     .decode = DecodeRows,
                     .encode_ref = EncodeRowsRef,
                     .decode_ref = DecodeRowsRef};
    SchemeInfo& info = scheme.info;
    info.name = "fbgemm_rowwise8";
    info.summary = "8-bit codes by row, its f32 scale and bias behind each row";
    info.source = "FBGEMM FloatOrHalfToFused8BitRowwiseQuantizedSBFloat";
    info.definition = kDefinition;
    info.is_signed = false;
    info.granularities = {{.kind = GranularityKind::kAxis, .axis = 0}};
    info.roundings = {Rounding::kHalfEven};
    info.dialects = {{.name = "fbgemm"}};
    info.nonfinites = {NonFinite::kReject};  // a scale that infinities reach would overflow
    info.takes_range = true;
    return scheme;
  }();
  return kScheme;
}

}  // namespace quantd
