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
//   ocp                  absmax / 448 in double, rounded once to f32,     1
//                        at least 2^-126 (torchao's least is 1e-12)
//   compressed_tensors   absmax / 448 in f32, subnormal ones as well      2^-23
//   modelopt             the same, per tensor unless told otherwise       1; ModelOpt has none
//
// Of values near f32's end the scale is the largest that f32 holds 448 of.
//
//   code = E4M3(x / scale), the quotient in the type of the values; x' = value of the code * scale
//
// Two roundings: a quotient that f32 rounds onto a tie of E4M3 counts as one, as in torch. Negative
// values that round to zero keep their sign (code 0x80). Sources: OFP8 1.0 (OCP), section 4;
// compressed-tensors, calculate_qparams and quantize; NVIDIA ModelOpt 0.47.0, FP8QTensor.
#include "core/scheme/float_codes.h"

namespace quantd {
namespace {

constexpr char kDefinition[] =
    R"(Codes are OCP's E4M3: sign, 4 bits of exponent (bias 7), 3 of fraction, no infinity; 0x7E is the
largest (448), 2^-9 the least subnormal one, 0x7F NaN.

    code = narrow(x),  x' = the value of the code, exactly                  without a granularity
    code = narrow(x / s) in T,  x' = the value of the code * s in U         with one, s of the group

A granularity alone says that there are scales: `range=` without one means `per=tensor`. s is the
larger one of |min| and |max|, divided by 448 in f64, rounded to f32 (at most its largest). In dialect
ocp it is at least 2^-126, and 1 for an all-zero group; in dialect compressed_tensors subnormal ones
stay, and 0 becomes 2^-23; in dialect modelopt (0.47.0), which rounds half_even and has `per=tensor`
unless told otherwise, they stay, and 0 becomes 1. Where T is f32 and s * 448 infinite in f32, s is
f32's largest / 448, rounded toward 0.

What rounds to more than 448 becomes 448 with its sign, whatever the rounding, and so do infinities
under `nonfinite=propagate`, where NaN becomes 0x7F with its sign. Clipped: |x| or |x / s| of 464 and
more. `block=` has `tail=short` unless told otherwise.

| plane | dtype | shape |
| --- | --- | --- |
| codes | f8_e4m3 | the tensor's |
| scale | f32 | of the groups; not without a granularity |
)";

}  // namespace

const Scheme& fp8_e4m3_scheme() {
  static const Scheme kScheme = [] {
    SchemeInfo info = ScaledFloatInfo();
    info.name = "fp8_e4m3";
    info.summary = "OCP FP8 E4M3: a cast, or with granularity= f32 scales beside it";
    info.source =
        "OCP OFP8 1.0, saturating; scaled as compressed-tensors float-quantized, or ModelOpt";
    info.definition = kDefinition;
    info.dialects = {{.name = "ocp"},
                     {.name = "compressed_tensors"},
                     {.name = "modelopt",
                      .defaults = {.granularity = Granularity{}, .rounding = Rounding::kHalfEven},
                      .fixed = {"round"}}};
    return FloatScheme<kE4m3Format>(std::move(info));
  }();
  return kScheme;
}

}  // namespace quantd
