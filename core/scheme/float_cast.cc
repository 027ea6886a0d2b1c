// Entry: FloatCastScheme. Tested by tests/core/scheme/reference_test.cc, edge_values_test.cc and
// golden_test.cc.
#include "core/scheme/float_cast.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "absl/strings/substitute.h"
#include "core/base/checked_math.h"
#include "core/base/copy_bytes.h"
#include "core/base/status_macros.h"

namespace quantd {
namespace {

template <typename Code>
constexpr DType kDTypeOf = sizeof(Code) == 4 ? DType::kF32 : DType::kF64;

template <typename Code>
absl::StatusOr<PackedLayout> PlanCast(const SchemeInfo&, const QuantSpec&,
                                      const TensorDesc& tensor) {
  PackedLayout layout;
  layout.row_elems = tensor.shape.num_elems();
  layout.groups.row_elems = layout.groups.run_elems = std::max<int64_t>(layout.row_elems, 1);
  layout.atom_bytes = sizeof(Code);
  QUANTD_ASSIGN_OR_RETURN(int64_t size_bytes, CheckedMul(layout.row_elems, layout.atom_bytes));
  layout.planes.push_back({"codes", PlaneRole::kCodes, kDTypeOf<Code>, tensor.shape, size_bytes});
  return layout;
}

// Writes values as another type, both at any alignment.
template <typename From, typename To>
void Convert(const From* from, int64_t num_elems, To* to) {
  if constexpr (sizeof(From) == sizeof(To)) {
    CopyBytes(to, from, static_cast<size_t>(num_elems) * sizeof(To));
  } else {
    constexpr int64_t kSome = 64;
    To some[kSome];
    for (int64_t i = 0; i < num_elems; i += kSome) {
      const int64_t count = std::min(kSome, num_elems - i);
      for (int64_t j = 0; j < count; ++j) some[j] = static_cast<To>(LoadAt(from, i + j));
      CopyBytes(to + i, some, static_cast<size_t>(count) * sizeof(To));
    }
  }
}

// Narrows to f32; writes what the codes stand for as well, and returns how many are clipped.
int64_t Narrow(const double* from, int64_t num_elems, bool saturate, float* codes, double* back) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  Convert(from, num_elems, codes);
  int64_t clipped = 0;
  for (int64_t i = 0; i < num_elems; ++i) {
    const float code = LoadAt(codes, i);
    back[i] = double{code};
    if (!std::isinf(code)) [[likely]] continue;
    clipped += std::isfinite(LoadAt(from, i));
    if (!saturate) continue;
    const float held = std::copysign(kLargest, code);
    CopyBytes(codes + i, &held, sizeof(held));
    back[i] = double{held};
  }
  return clipped;
}

template <typename Code>
void EncodeCast(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                Counts* counts, Meter* meter) {
  const int64_t num_elems = segment.values.num_elems;
  Code* codes = reinterpret_cast<Code*>(out.data());
  segment.values.Visit([&]<typename T>(const T* from) {
    MeterLanes<T>* lanes = LanesOf<T>(meter);
    if constexpr (sizeof(T) > sizeof(Code)) {
      double back[kTileElems];
      const bool saturate = *resolved.spec.nonfinite != NonFinite::kPropagate;
      counts->clipped += Narrow(from, num_elems, saturate, codes, back);
      if (lanes != nullptr) MeasureSegment(from, back, num_elems, *lanes);
    } else {
      Convert(from, num_elems, codes);
      if (lanes != nullptr) MeasureSegment(from, from, num_elems, *lanes);
    }
  });
}

template <typename Code>
void DecodeCast(const Resolved&, std::span<const std::byte> codes, const ParamView&, int64_t,
                TileSpan out) {
  out.Visit([&](auto* to) {
    Convert(reinterpret_cast<const Code*>(codes.data()), out.num_elems, to);
  });
}

// --- The scalar definitions ---

template <typename Code>
void EncodeCastRef(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                   Counts* counts) {
  constexpr Code kLargest = std::numeric_limits<Code>::max();
  const bool saturate = *resolved.spec.nonfinite != NonFinite::kPropagate;
  for (int64_t i = 0; i < segment.values.num_elems; ++i) {
    segment.values.Visit([&]<typename T>(const T* from) {
      const T x = LoadAt(from, i);
      Code code = static_cast<Code>(x);
      const bool beyond = std::isfinite(x) && std::isinf(code);
      counts->clipped += beyond;
      if (beyond && saturate) code = x < 0 ? -kLargest : kLargest;
      std::memcpy(out.data() + i * int64_t{sizeof(code)}, &code, sizeof(code));
    });
  }
}

template <typename Code>
void DecodeCastRef(const Resolved&, std::span<const std::byte> codes, const ParamView&, int64_t,
                   TileSpan out) {
  for (int64_t i = 0; i < out.num_elems; ++i) {
    const Code code = LoadAt(reinterpret_cast<const Code*>(codes.data()), i);
    out.Visit([&]<typename T>(T* to) {
      const T y = static_cast<T>(code);
      CopyBytes(to + i, &y, sizeof(y));
    });
  }
}

// $0: the name of the type; $1: what becomes of values that it does not hold.
constexpr absl::string_view kDefinition =
    R"(Codes are IEEE 754 $0. There are no scales.

    code = x, rounded once to $0, ties to even;  x' = the value of the code in U

What T and the code have in common is copied, NaN bit for bit; where one is widened or rounded to the
other NaN becomes quiet, with its sign and the upper bits of its fraction.$1

| plane | dtype | shape |
| --- | --- | --- |
| codes | $0 | the tensor's |
)";
constexpr absl::string_view kBeyond = R"( A
finite value that rounds to infinity becomes the largest f32 with its sign, under
`nonfinite=propagate` infinity, as in numpy. Clipped: |x| of 2^128 - 2^103 and more.)";

template <typename Code>
Scheme SchemeOf() {
  Scheme scheme{};
  scheme.plan = PlanCast<Code>;
  scheme.encode = EncodeCast<Code>;
  scheme.decode = DecodeCast<Code>;
  scheme.encode_ref = EncodeCastRef<Code>;
  scheme.decode_ref = DecodeCastRef<Code>;
  return scheme;
}

}  // namespace

Scheme FloatCastScheme(DType dtype, absl::string_view name, absl::string_view summary) {
  const bool is_f32 = dtype == DType::kF32;
  Scheme scheme = is_f32 ? SchemeOf<float>() : SchemeOf<double>();
  SchemeInfo& info = scheme.info;
  info.name = name;
  info.summary = summary;
  info.source = "numpy's astype";
  if (is_f32) {
    info.source =
        "numpy's astype, which beyond f32 has infinity: here under nonfinite=propagate alone";
  }
  info.definition = absl::Substitute(kDefinition, NameOf(dtype), is_f32 ? kBeyond : "");
  info.bits_per_code = info.bits = static_cast<int>(8 * SizeOf(dtype));
  info.roundings = {Rounding::kHalfEven};
  info.nonfinites = {NonFinite::kReject, NonFinite::kSaturate, NonFinite::kPropagate};
  return scheme;
}

}  // namespace quantd
