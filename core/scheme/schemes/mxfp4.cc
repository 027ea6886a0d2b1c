// mxfp4: OCP MX (core/scheme/mx.h) with E2M1 codes, as gpt-oss has its weights; 4.25 bits a value.
// In dialect ggml scales lie with their codes (core/scheme/ggml_mxfp4.h).
//
// Entry: mxfp4_scheme. Tested by tests/core/scheme/segments_test.cc, reference_test.cc and
// golden_test.cc.
#include "absl/strings/str_cat.h"
#include "core/scheme/ggml_mxfp4.h"
#include "core/scheme/mx.h"

namespace quantd {
namespace {

constexpr char kGgmlDialect[] =
    R"(
Dialect ggml has one plane, codes of [.., ceil(L / 32) * 17]: blocks of | u8 e | 16 x u8 codes |. Byte j of
the codes has code j in its low nibble, code j + 16 in the high one. All is in f32; values of f64 beyond
f32's largest are that, and all are rounded to f32.

    e = floor(f32(log2(absmax))) + 125 mod 256, 0 where absmax is 0;  d = 2^(e - 128)
    code = the i of least |T[i] * d - x|, of two the lower one;  T = 0, 1, 2, 3, 4, 6, 8, 12, then 0, -1 ..
    x' = T[code] * d                                     in f32; wider types take that value

log2 is exact before it is rounded to f32, which takes it up to a whole number where absmax lies up to 44
ulp below a power of two. Code 8 is never made. Clipped: |x| of 14 * d and more, or where 8 * d is
infinite, which is for e of 253, 7 * d.
)";

const Scheme& Planar() {
  static const Scheme kScheme = MxScheme(
      MxElement::kE2m1, "mxfp4", "MX FP4: E2M1 codes in blocks of 32 with a power of two each");
  return kScheme;
}

bool IsGgml(const QuantSpec& spec) { return spec.dialect == "ggml"; }

}  // namespace

const Scheme& mxfp4_scheme() {
  static const Scheme kScheme = [] {
    Scheme scheme = Planar();
    scheme.info.dialects.push_back({.name = "ggml"});
    absl::StrAppend(&scheme.info.definition, kGgmlDialect);
    scheme.plan = [](const SchemeInfo& info, const QuantSpec& spec, const TensorDesc& tensor) {
      return IsGgml(spec) ? PlanGgmlMxfp4(spec, tensor) : Planar().plan(info, spec, tensor);
    };
    scheme.resolve = [](const Resolved& resolved, std::span<const Range> ranges, ParamPlanes out) {
      if (!IsGgml(resolved.spec)) Planar().resolve(resolved, ranges, out);
    };
    scheme.encode = [](const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                       Counts* counts, Meter* meter) {
      if (IsGgml(resolved.spec)) return EncodeGgmlMxfp4(segment, out, counts, meter);
      Planar().encode(resolved, segment, out, counts, meter);
    };
    scheme.decode = [](const Resolved& resolved, std::span<const std::byte> codes,
                       const ParamView& params, int64_t first_elem, TileSpan out) {
      if (IsGgml(resolved.spec)) return DecodeGgmlMxfp4(codes, out);
      Planar().decode(resolved, codes, params, first_elem, out);
    };
    scheme.encode_ref = [](const Resolved& resolved, const Segment& segment,
                           std::span<std::byte> out, Counts* counts) {
      if (IsGgml(resolved.spec)) return EncodeGgmlMxfp4Ref(segment, out, counts);
      Planar().encode_ref(resolved, segment, out, counts);
    };
    scheme.decode_ref = [](const Resolved& resolved, std::span<const std::byte> codes,
                           const ParamView& params, int64_t first_elem, TileSpan out) {
      if (IsGgml(resolved.spec)) return DecodeGgmlMxfp4Ref(codes, out);
      Planar().decode_ref(resolved, codes, params, first_elem, out);
    };
    return scheme;
  }();
  return kScheme;
}

}  // namespace quantd
