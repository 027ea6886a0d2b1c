// Entry: AffineScheme. Tested by tests/core/scheme/affine_test.cc and reference_test.cc.
#include "core/scheme/affine.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/substitute.h"
#include "core/base/philox.h"
#include "core/base/status_macros.h"
#include "core/scheme/embeddings.h"
#include "core/simd/affine.h"
#include "core/simd/bits.h"

namespace quantd {
namespace {

static_assert(kMaxRuns <= kMaxAffineRuns);

using CodeRange = AffineCodeRange;

// Returns the row of a dialect that is not affine; null: it is.
const Scheme* RowOf(const QuantSpec& spec) {
  if (spec.dialect == "sentence_transformers") return &SentenceTransformersRow();
  return spec.dialect == "usearch" ? &UsearchRow() : nullptr;
}

bool HasZeroPlane(const SchemeInfo& info, const QuantSpec& spec) {
  if (spec.scale.has_value()) return spec.zero_point.value_or(0) != 0;
  return !info.is_signed || spec.mode == Mode::kAsymmetric;
}

// The type of zero points, and of codes but where they share bytes.
DType CodeType(const SchemeInfo& info) {
  if (info.bits == 16) return info.is_signed ? DType::kInt16 : DType::kUint16;
  return info.is_signed ? DType::kInt8 : DType::kUint8;
}

// Codes as rows of words of 32 bits.
bool IsWords(const QuantSpec& spec) { return spec.layout == "words"; }

// Codes that share bytes, as one stream of bits over the flat tensor.
bool IsStream(const SchemeInfo& info) { return info.bits < 8; }

// Returns the layout of the codes, without their plane.
PackedLayout AtomsOf(const SchemeInfo& info) {
  PackedLayout layout;
  const int shared = std::gcd(info.bits, 8);  // an atom ends where a code and a byte do
  layout.atom_elems = 8 / shared;
  layout.atom_bytes = info.bits / shared;
  layout.cut_atoms = IsStream(info);
  return layout;
}

// Rows that do not end with a word have what is left of it behind their codes.
absl::StatusOr<PackedLayout> PlanWords(const SchemeInfo& info, const Shape& shape) {
  if (shape.rank() == 0) {
    return absl::InvalidArgumentError("shape [] has no rows; layout=words needs rank 1 or more");
  }
  constexpr int64_t kWordBytes = 4;
  QUANTD_ASSIGN_OR_RETURN(const int64_t row_bits, CheckedMul(shape.last_dim(), info.bits));
  const int64_t row_words = CeilDiv(row_bits, 8 * kWordBytes);
  PackedLayout layout = AtomsOf(info);
  const bool flat = row_bits % (8 * kWordBytes) == 0;
  layout.row_elems = flat ? shape.num_elems() : shape.last_dim();
  if (!flat) layout.trailer_bytes = row_words * kWordBytes - CeilDiv(row_bits, 8);
  std::vector<int64_t> dims(shape.dims().begin(), shape.dims().end());
  dims.back() = row_words;
  QUANTD_ASSIGN_OR_RETURN(Shape code_shape, Shape::Make(std::move(dims)));
  QUANTD_ASSIGN_OR_RETURN(const int64_t code_bytes,
                          CheckedMul(code_shape.num_elems(), kWordBytes));
  layout.planes.push_back(
      {"codes", PlaneRole::kCodes, DType::kInt32, std::move(code_shape), code_bytes});
  return layout;
}

absl::StatusOr<PackedLayout> PlanFlat(const SchemeInfo& info, const Shape& shape) {
  PackedLayout layout = AtomsOf(info);
  layout.row_elems = shape.num_elems();
  QUANTD_RETURN_IF_ERROR(
      CheckedMul(CeilDiv(layout.row_elems, layout.atom_elems), layout.atom_bytes).status());
  const int64_t code_bytes = layout.row_bytes();
  Shape code_shape = shape;
  if (IsStream(info)) {
    QUANTD_ASSIGN_OR_RETURN(code_shape, Shape::Make({code_bytes}));
  }
  layout.planes.push_back({"codes", PlaneRole::kCodes,
                           IsStream(info) ? DType::kUint8 : CodeType(info), std::move(code_shape),
                           code_bytes});
  return layout;
}

absl::StatusOr<PackedLayout> PlanAffine(const SchemeInfo& info, const QuantSpec& spec,
                                        const TensorDesc& tensor) {
  if (const Scheme* row = RowOf(spec)) return row->plan(info, spec, tensor);
  QUANTD_ASSIGN_OR_RETURN(Grouping grouping,
                          MakeGrouping(*spec.granularity, *spec.tail, tensor.shape));
  QUANTD_ASSIGN_OR_RETURN(PackedLayout layout, IsWords(spec) ? PlanWords(info, tensor.shape)
                                                             : PlanFlat(info, tensor.shape));
  layout.groups = grouping.map;
  if (!spec.scale.has_value()) layout.band_evidence = kRange;
  const auto add_param = [&](const char* name, DType dtype) -> absl::Status {
    QUANTD_ASSIGN_OR_RETURN(int64_t size_bytes, CheckedMul(grouping.map.num_groups, SizeOf(dtype)));
    layout.planes.push_back({name, PlaneRole::kPerGroup, dtype, grouping.plane_shape, size_bytes});
    return absl::OkStatus();
  };
  const bool dyadic = spec.scale_type == ScaleType::kDyadic16;
  QUANTD_RETURN_IF_ERROR(
      add_param(dyadic ? "multiplier" : "scale", ScaleDType(*spec.scale_type)));
  if (dyadic) QUANTD_RETURN_IF_ERROR(add_param("shift", DType::kInt8));
  if (HasZeroPlane(info, spec)) QUANTD_RETURN_IF_ERROR(add_param("zero_point", CodeType(info)));
  return layout;
}

// The parameters of a segment.
class SegmentParams {
 public:
  SegmentParams(const Resolved& resolved, const ParamView& params, int64_t first_elem,
                int64_t num_elems) {
    const std::vector<PlaneDesc>& planes = resolved.layout.planes;
    const ParamMap map(resolved.layout.groups, first_elem, num_elems);
    if (!map.per_elem()) {
      view_.num_runs = map.RunEnds(ends_);
      view_.ends = ends_;
    }
    const std::span<const std::byte> scales = params.planes[kAffineScalePlane];
    view_.scales = resolved.spec.scale_type == ScaleType::kDyadic16
                       ? ReadDyadicScales(scales, params.planes[kAffineShiftPlane],
                                          params.first_group, map, scales_)
                       : ReadScales(planes[kAffineScalePlane], scales, params.first_group, map,
                                    scales_);
    const size_t zero_plane = AffineZeroPlane(resolved.spec);
    if (resolved.layout.scheme_planes() > zero_plane) {
      ReadZeroPoints(planes[zero_plane], params.planes[zero_plane], params.first_group, map,
                     zero_points_);
      view_.zero_points = zero_points_;
    } else if (!resolved.spec.scale.has_value()) {
      view_.zero_point = RangeOfAffineCodes(*resolved.info, resolved.spec).centre;
    }
  }

  const AffineParams& view() const { return view_; }

 private:
  AffineParams view_;
  float scales_[kTileElems];
  int32_t zero_points_[kTileElems];
  int32_t ends_[kMaxRuns];
};

// Adds half of the codes to each: what is above the lowest `bits` does not count.
void FlipSigns(int bits, int64_t num_codes, uint8_t* codes) {
  for (int64_t i = 0; i < num_codes; ++i) codes[i] ^= static_cast<uint8_t>(1 << (bits - 1));
}

template <typename T>
int64_t EncodeAs(const Resolved& resolved, const Segment& segment, const T* values,
                 std::span<std::byte> out, MeterLanes<T>* lanes) {
  const int64_t num_elems = segment.values.num_elems;
  const CodeRange codes = RangeOfAffineCodes(*resolved.info, resolved.spec);
  AffineRule rule;
  rule.rounding = *resolved.spec.rounding;
  rule.zero_first = resolved.spec.dialect == kCompressedTensors;
  rule.min_code = codes.min;
  rule.max_code = codes.max;
  uint32_t noise[kTileElems];
  if (rule.rounding == Rounding::kStochastic) {
    FillNoise(*resolved.spec.seed, resolved.name_hash, segment.first_elem,
              {noise, static_cast<size_t>(num_elems)});
    rule.noise = noise;
  }
  const SegmentParams params(resolved, segment.params, segment.first_elem, num_elems);
  uint8_t* bytes = reinterpret_cast<uint8_t*>(out.data());
  if (resolved.info->bits == 16) {
    return EncodeAffine(rule, params.view(), values, num_elems,
                        reinterpret_cast<uint16_t*>(out.data()), lanes);
  }
  const bool words = IsWords(resolved.spec);
  if (resolved.info->bits == 8 && !words) {
    return EncodeAffine(rule, params.view(), values, num_elems, bytes, lanes);
  }
  uint8_t unpacked[kTileElems];
  const int64_t clipped =
      EncodeAffine(rule, params.view(), values, num_elems, unpacked, lanes);
  if (words) FlipSigns(resolved.info->bits, num_elems, unpacked);
  PackBits(unpacked, num_elems, resolved.info->bits, bytes);
  std::fill(bytes + CeilDiv(num_elems * resolved.info->bits, 8), bytes + out.size(), uint8_t{0});
  return clipped;
}

void EncodeAffineScheme(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                        Counts* counts, Meter* meter) {
  if (const Scheme* row = RowOf(resolved.spec)) {
    return row->encode(resolved, segment, out, counts, meter);
  }
  counts->clipped += segment.values.Visit([&]<typename T>(const T* values) {
    return EncodeAs(resolved, segment, values, out, LanesOf<T>(meter));
  });
}

void DecodeAffineScheme(const Resolved& resolved, std::span<const std::byte> codes,
                        const ParamView& params, int64_t first_elem, TileSpan out) {
  if (const Scheme* row = RowOf(resolved.spec)) {
    return row->decode(resolved, codes, params, first_elem, out);
  }
  const SchemeInfo& info = *resolved.info;
  const SegmentParams segment(resolved, params, first_elem, out.num_elems);
  const bool wide = info.bits == 16;
  const AffineCode type = info.is_signed ? (wide ? AffineCode::kInt16 : AffineCode::kInt8)
                                         : (wide ? AffineCode::kUint16 : AffineCode::kUint8);
  const void* from = codes.data();
  uint8_t unpacked[kTileElems];
  if (const bool words = IsWords(resolved.spec); words || IsStream(info)) {
    const uint8_t* packed = reinterpret_cast<const uint8_t*>(codes.data());
    if (words) {
      UnpackBits(packed, out.num_elems, info.bits, unpacked);
      const int middle = 1 << (info.bits - 1);
      for (int64_t i = 0; i < out.num_elems; ++i) {
        unpacked[i] = static_cast<uint8_t>(unpacked[i] - middle);
      }
    } else if (info.is_signed) {
      UnpackSignedBits(packed, out.num_elems, info.bits, reinterpret_cast<int8_t*>(unpacked));
    } else {
      UnpackBits(packed, out.num_elems, info.bits, unpacked);
    }
    from = unpacked;
  }
  out.Visit([&](auto* to) { DecodeAffine(type, from, out.num_elems, segment.view(), to); });
}

// compressed-tensors has no codes from -(2^(b-1)-1).
// A scale that is given becomes what is stored.
absl::Status CompleteAffine(const SchemeInfo& info, const TensorDesc& tensor, QuantSpec& spec) {
  if (const Scheme* row = RowOf(spec)) return row->complete(info, tensor, spec);
  if (spec.scale) {
    QUANTD_ASSIGN_OR_RETURN(
        spec.scale, NearestScale(*spec.scale, spec.scale_type.value_or(info.scale_types.front())));
  }
  if (spec.dialect != kCompressedTensors || spec.mode != Mode::kSymmetric) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("dialect ", kCompressedTensors, " of scheme ", info.name,
                   " does not have mode=symmetric; it has full, asymmetric"));
}

// Returns the opset from which on ONNX has integers of `bits`; 0: it has none.
int OnnxOpset(int bits) {
  if (bits == 2) return 25;
  return bits == 4 || bits == 8 || bits == 16 ? 21 : 0;
}

absl::string_view SourceOf(int bits) {
  switch (OnnxOpset(bits)) {
    case 0:
      return "ONNX's rule for codes of a width that it does not have, as a stream of bits";
    case 25:
      return "ONNX QuantizeLinear, opset 25, which wants zero points packed as well";
    default:
      return bits == 4 ? "ONNX QuantizeLinear, opset 21, which wants zero points packed as well"
                       : "ONNX QuantizeLinear, opset 21, of the same scales and zero points";
  }
}

// The definition of codes of $1 bits. $2 to $3: all codes; $4: the middle one; $5: the largest of
// mode symmetric without its zero point; $6: the steps between all codes, $7 half of them.
constexpr absl::string_view kDefinition =
    R"(Codes are $0 integers of $1 bits. By mode, with reach the larger one of |min| and |max|,
low = min(min, 0) and high = max(max, 0), so that 0 is always in the range:

| mode | codes lo..hi | zero point z | scale, in f64, before it is stored |
| --- | --- | --- | --- |
| symmetric | $8..$3 | $4 | reach / $5 |
| full | $2..$3 | $4 | reach / $7 |
| asymmetric | $2..$3 | clamp(rint(lo - low / s), lo, hi) | (high - low) / $6 |

s is the stored scale. Zero points are made in f64, with s as stored, or, where that is less than $9
of w = high / $6 - low / $6, with w. Under `scale=` s is what is stored of it, z is `zero=` or 0,
codes are $2..$3, there is no mode, and no range is looked at.

    code = round(clamp(x / s, lo - z, hi - z)) + z      in T, rounded as `round` says
    x' = (code - z) * s                                 in U, code - z exactly

Near f32's end, where T is f32: let k = max(hi - z, z - lo). If f32(s) * k is infinite in f32, then in
mode asymmetric z is made again, with w, and s is at most f32's largest / k (with that z) in f64,
rounded toward 0 to `scale_type`. A scale that is given stays as it is.

An all-zero group has s = 1, and in mode asymmetric z = lo. Clipped: x / s at most lo - z - 0.5, or at
least hi - z + 0.5.

| plane | dtype | shape |
| --- | --- | --- |
)";

constexpr absl::string_view kCompressedTensorsDefinition = R"(
`dialect=compressed_tensors` (0.20.0): mode full is the default, symmetric is not there, rounding is
half_even. Ranges are rounded to f32 first (beyond it: its largest), and all is in f32:

    full         s = max(-low, high) / $3
    asymmetric   s = (high - low) / $2, or f32((high - low) / $2) in f64 where the width overflows f32
                 z = rint(clamp($0 - low / s, $0, $1)), 0 where low / s is 0 / 0
    code = rint(clamp(x / s + z, $0, $1))               in T

An s of 0 is 2^-23 from there on (z is made with the 0); subnormal ones stay; what is said of f32's end
holds here as well. Clipped: x / s + z at
most $0 - 0.5, or at least $1 + 0.5.
)";

// True of widths that compressed-tensors has in words alone; bytes of 8 are its int-quantized, and
// int4's were flat before there were words.
bool PrefersWords(int bits) { return bits != 4 && bits != 8; }

constexpr absl::string_view kWordsDefinition = R"(
`layout=words`, the default of dialect compressed_tensors for 2, 3, 5 and 6 bits, is that project's
pack-quantized: each row of the last axis is a stream of bits of its own, of codes with $0 added,
and ends with a whole word of 32 bits, filled with 0. The project packs zero points likewise, down the
columns; here they are int8.
)";

// Returns dtype and shape of the plane.
std::string CodesPlaneOf(const SchemeInfo& info) {
  if (!IsStream(info)) return absl::StrCat(NameOf(CodeType(info)), " | the tensor's");
  if (info.bits == 4) {
    return "uint8 | [ceil(n / 2)]: nibbles low first, over the flat tensor, "
           "0 beside an odd last one";
  }
  return absl::StrCat("uint8 | [ceil(", info.bits,
                      " * n / 8)]: a stream of bits over the flat tensor");
}

std::string DefinitionOf(const SchemeInfo& info) {
  const int middle = 1 << (info.bits - 1), steps = 2 * middle - 1;
  const int low = info.is_signed ? -middle : 0, high = low + steps;
  const std::string half_steps = absl::StrCat(steps / 2, ".5");
  std::string text =
      absl::Substitute(kDefinition, info.is_signed ? "signed" : "unsigned", info.bits, low, high,
                       low + middle, middle - 1, steps, half_steps, low + 1,
                       info.bits < 4 ? "two thirds" : "half");
  const absl::string_view type = NameOf(CodeType(info));
  absl::StrAppend(&text, "| codes | ", CodesPlaneOf(info),
                  info.layouts.empty()
                      ? ""
                      : absl::StrCat("; words: int32 [.., ceil(", info.bits, " * L / 32)]"),
                  " |\n| scale | by scale_type | of the groups |\n| zero_point | ", type,
                  " | of the groups; only ",
                  info.is_signed ? "in mode asymmetric" : "without `scale=`",
                  ", or where `zero=` is not 0 |\n\nWithout plane zero_point z is 0. ");
  if (const int opset = OnnxOpset(info.bits); opset != 0) {
    absl::StrAppend(&text, "ONNX QuantizeLinear (opset ", opset,
                    ") makes the same codes of the same s and z,\n",
                    "in f32 with half_even, but in mode symmetric, where it has ", low, " too",
                    IsStream(info) ? "; it wants zero points packed as codes are.\n" : ".\n");
  } else {
    absl::StrAppend(&text, "\n");
  }
  if (!info.layouts.empty()) {
    absl::SubstituteAndAppend(&text, kCompressedTensorsDefinition, low, high, steps, half_steps);
    absl::SubstituteAndAppend(&text, kWordsDefinition, middle);
  }
  if (info.bits == 8) {
    absl::SubstituteAndAppend(&text, kSentenceTransformersDefinition,
                              info.is_signed ? " - 128" : "",
                              info.is_signed ? "(code + 128)" : "code");
    if (info.is_signed) absl::StrAppend(&text, kUsearchDefinition);
  }
  return text;
}

}  // namespace

AffineCodeRange RangeOfAffineCodes(const SchemeInfo& info, const QuantSpec& spec) {
  const int32_t centre = info.is_signed ? 0 : 1 << (info.bits - 1);
  const int32_t reach = (1 << (info.bits - 1)) - 1;
  // With the scale given outright there is no mode, and all codes are used.
  const bool symmetric = spec.mode == Mode::kSymmetric;
  return {centre - reach - (symmetric ? 0 : 1), centre + reach, centre};
}

SchemeInfo AffineInfo(absl::string_view name, absl::string_view summary, int bits, bool is_signed) {
  SchemeInfo info;
  info.name = name;
  info.summary = summary;
  info.source = SourceOf(bits);
  info.bits_per_code = info.bits = bits;
  info.is_signed = is_signed;
  info.granularities = {{.kind = GranularityKind::kTensor},
                        {.kind = GranularityKind::kAxis},
                        {.kind = GranularityKind::kGroup},
                        {.kind = GranularityKind::kBlock}};
  info.modes = is_signed ? std::vector{Mode::kSymmetric, Mode::kFull, Mode::kAsymmetric}
                         : std::vector{Mode::kAsymmetric, Mode::kSymmetric, Mode::kFull};
  info.roundings = {Rounding::kHalfEven, Rounding::kHalfAway,  Rounding::kHalfUp,
                    Rounding::kHalfDown, Rounding::kTruncate,  Rounding::kFloor,
                    Rounding::kCeil,     Rounding::kStochastic};
  info.scale_types = {ScaleType::kF32, ScaleType::kF16, ScaleType::kBf16, ScaleType::kPow2,
                      ScaleType::kDyadic16};
  info.dialects = {{.name = "onnx"}};
  if (is_signed && bits <= 8) {
    info.layouts = {"flat", "words"};
    info.dialects.push_back({.name = kCompressedTensors,
                             .defaults = {.mode = Mode::kFull,
                                          .rounding = Rounding::kHalfEven,
                                          .scale_type = ScaleType::kF32,
                                          .layout = PrefersWords(bits) ? "words" : ""},
                             .fixed = {"round", "scale_type"}});
  }
  if (bits == 8) info.dialects.push_back(SentenceTransformersDialect(is_signed));
  if (bits == 8 && is_signed) info.dialects.push_back(UsearchDialect());
  info.nonfinites = {NonFinite::kReject, NonFinite::kSaturate};
  info.tails = {Tail::kReject, Tail::kShort};
  info.takes_range = info.takes_scale = true;
  info.definition = DefinitionOf(info);
  return info;
}

Scheme AffineScheme(SchemeInfo info) {
  return {.info = std::move(info),
          .complete = CompleteAffine,
          .plan = PlanAffine,
          .resolve_constants = nullptr,
          .resolve =
              [](const Resolved& resolved, std::span<const Range> ranges, ParamPlanes out) {
                const Scheme* row = RowOf(resolved.spec);
                (row != nullptr ? row->resolve : ResolveAffine)(resolved, ranges, out);
              },
          .encode = EncodeAffineScheme,
          .decode = DecodeAffineScheme,
          .encode_ref =
              [](const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                 Counts* counts) {
                const Scheme* row = RowOf(resolved.spec);
                (row != nullptr ? row->encode_ref : EncodeAffineRef)(resolved, segment, out,
                                                                     counts);
              },
          .decode_ref =
              [](const Resolved& resolved, std::span<const std::byte> codes,
                 const ParamView& params, int64_t first_elem, TileSpan out) {
                const Scheme* row = RowOf(resolved.spec);
                (row != nullptr ? row->decode_ref : DecodeAffineRef)(resolved, codes, params,
                                                                     first_elem, out);
              }};
}

}  // namespace quantd
