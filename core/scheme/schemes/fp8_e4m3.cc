// fp8_e4m3: OCP's E4M3, finite but for NaN: 448 is the largest code, 2^-9 the smallest.
//
//   fp8_e4m3                 the values as they are, cast; one plane
//   fp8_e4m3:per=tensor      one scale for all, and so on: planes "codes" and "scale"; so has
//                            fp8_e4m3:range=..., for without scales there is no range
//   fp8_e4m3:block=128x128   as DeepSeek-V3 has its weights, where "scale", of shape
//                            [ceil(rows / 128), ceil(columns / 128)], is called weight_scale_inv
//
// A granularity is what tells that there are scales, so the cast, which is the default, has none in
// its resolved spec.
//
//   dialect              scale of a group                                 of an all-zero group
//   ocp                  absmax / 448 in double, rounded once to f32      1
//   compressed_tensors   the same                                        2^-23
//
// Subnormal scales stay; what f32 rounds to 0 is 2^-149 (ocp) or 2^-23. Of values near f32's end
// the scale is the largest that f32 holds 448 of.
//
//   code = E4M3(x / scale), the quotient in the type of the values; x' = value of the code * scale
//
// Two roundings: a quotient that f32 rounds onto a tie of E4M3 counts as one, as in torch. Negative
// values that round to zero keep their sign (code 0x80). Sources: OFP8 1.0 (OCP), section 4;
// compressed-tensors, calculate_qparams and quantize.
#include "core/scheme/float_codes.h"

namespace quantd {
namespace {

// A range is of use for scales alone: for one of the tensor where no granularity is given. Blocks
// at the edges are short, as their consumers have them.
absl::Status CompleteFp8(const SchemeInfo&, const TensorDesc&, QuantSpec& spec) {
  const bool any_range =
      spec.given_range.has_value() || (!spec.range.empty() && spec.range != "minmax");
  if (any_range && !spec.granularity) spec.granularity = Granularity{};
  const bool blocks = spec.granularity && spec.granularity->kind == GranularityKind::kBlock;
  if (blocks && !spec.tail) spec.tail = Tail::kShort;
  return absl::OkStatus();
}

}  // namespace

const Scheme& fp8_e4m3_scheme() {
  static const Scheme kScheme = [] {
    SchemeInfo info;
    info.name = "fp8_e4m3";
    info.summary = "OCP FP8 E4M3: a cast, or with granularity= f32 scales beside it";
    info.source = "OCP OFP8 1.0; compressed-tensors float-quantized";
    info.granularities = {{.kind = GranularityKind::kTensor},
                          {.kind = GranularityKind::kAxis},
                          {.kind = GranularityKind::kGroup},
                          {.kind = GranularityKind::kBlock}};
    info.granularity_optional = true;
    info.dialects = {{.name = "ocp"}, {.name = "compressed_tensors"}};
    info.tails = {Tail::kReject, Tail::kShort};
    info.takes_range = true;
    Scheme scheme = FloatScheme(DType::kF8E4M3, std::move(info));
    scheme.complete = CompleteFp8;
    return scheme;
  }();
  return kScheme;
}

}  // namespace quantd
