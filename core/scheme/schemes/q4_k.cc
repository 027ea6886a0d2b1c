// q4_k: ggml's Q4_K, what most GGUF files of "4 bits" are made of: super-blocks of 256 values in 8
// runs of 32, each with a scale and a minimum of 6 bits under an f16 scale of each; 4.5 bits a
// value.
//
//   | f16 d | f16 dmin | 12 x u8 scales | 128 x u8 codes |                            144 bytes
//
//   scales, run j < 4: low 6 bits of byte j the scale's code, of byte j + 4 the minimum's;
//           run j >= 4: byte j + 4 has both's low 4 bits, the minimum's in the high nibble; their
//           upper 2 bits are the upper bits of bytes j - 4 and j
//   codes: byte l of 32 for each 64 values: value l in the low nibble, value l + 32 in the high one
//
//   x' = (d * scale) * code - (dmin * min)                 each product and the sum rounded
//
// Scale and minimum of each run are searched for (k_quant.h); the largest of the block becomes 63 *
// d (63 * dmin). With importance, these codes are searched for as well. Then codes are made again,
// with what is stored: nearest((x + dmin * min) / (d * scale)), or where that divisor is 0, as
// found first.
//
// The bytes are those of ggml built without contraction (x86-64 base), quantize_row_q4_K_ref and
// quantize_row_q4_K_impl of ggml 0.20.2; with fused multiply-add most tensors differ somewhere
// (ggml-org/llama.cpp#25353). The format is defined on f32: f64 values are rounded to f32 first,
// beyond its range to the largest, and decoded ones widen. A block with values beyond about 6e7 has
// an infinite d in ggml, and here; a d that is NaN (values above 1e18) is 0 here. All values that do
// not come back for that count as clipped.
//
// The search makes it the slowest of rows: 0.7 GB/s on a thread, where others have 8 to 15.
//
// The entry is q4_k_scheme. Tested by tests/core/scheme/segments_test.cc and golden_test.cc.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/minifloat.h"
#include "core/base/status_macros.h"
#include "core/scheme/block.h"
#include "core/scheme/k_quant.h"
#include "core/scheme/k_quant_codes.h"
#include "core/scheme/k_quant_ref.h"
#include "core/scheme/scheme.h"

namespace quantd {
namespace {

constexpr int kMaxCode = 15;
constexpr KSearch kPlainSearch = {kMaxCode, -1.0f, 0.1f, 20};
constexpr KSearch kWeightedSearch = {kMaxCode, -0.9f, 0.05f, 36};

constexpr char kDefinition[] =
    R"(Blocks of 256 values of a row of the last axis, which must be whole blocks: 8 runs of 32. Everything is
in f32, each operation rounded, sums in the order of elements from 0 on unless said. Values of f64
beyond f32's largest are that, and all are rounded to f32. A block is 144 bytes:

    | f16 d | f16 dmin | 12 x u8 scales | 128 x u8 codes |

Run j has a scale code sc and a minimum code mn of 6 bits, with B the bytes of `scales`:

    j < 4    sc = B[j] & 63                              mn = B[j + 4] & 63
    j >= 4   sc = B[j + 4] & 15 | (B[j - 4] >> 6) << 4   mn = B[j + 4] >> 4 | (B[j] >> 6) << 4

Byte 32 * p + l of the codes, p from 0 to 3, has the code of value 64 * p + l in its low nibble, that
of value 64 * p + 32 + l in the high one.

    x' = (d * sc) * code - (dmin * mn)                   in f32; wider types take that value

*Encoding.* near(v) = (bits(v + 12582912) & 0x7FFFFF) - 0x400000, bits the binary32 as an integer: rint
for |v| up to 2^22. Weights of a run without importance: w = sqrt(sum of x * x / 32) + |x|; with
importance q, one of each column: w = q * sqrt(2 * (sum of x * x of the block) / 256 + x * x).

    search(run; first, step, steps):        first -1, step 0.1, steps 20
                                            with importance -0.9, 0.05, 36
      lo, hi = least and largest x;  W = sum of w;  X = sum of w * x;  lo = min(lo, 0)
      hi <= lo: scale = 0, minimum = -lo, codes 0, done
      i = 15 / (hi - lo);  scale = 1 / i
      codes = clamp(near(i * (x - lo)), 0, 15)
      best = sum of w * (e * e), e = scale * code + lo - x
      for k = 0 to steps:
        i = (first + step * k + 15) / (hi - lo)
        c = clamp(near(i * (x - lo)), 0, 15)
        L = sum of w * c;  LL = sum of (w * c) * c;  XL = sum of (w * c) * x
        D = W * LL - L * L;  next k unless D > 0
        a = (W * XL - X * L) / D;  b = (LL * X - L * XL) / D
        b > 0: b = 0, a = XL / LL
        E = sum of w * (e * e), e = a * c + b - x
        E < best: best = E, codes = c, scale = a, lo = b    (hi stays, lo is used from here on)
      minimum = -lo

W and X begin with the first value, not with 0. Without importance, of the 8 scales S (and likewise of
the minima): top = the largest, at least 0;  code = min(63, near((63 / top) * S)), 0 where top is 0;
d = top / 63. With importance, by the W of the runs, u, of the 8 scales S (likewise the minima):

      top = max(0, largest S);  top < 1e-15: d = 0, codes 0, done
      i = 63 / top;  codes = near(i * S);  r = 1 / i;  best = sum of (u * e) * e, e = S - r * code
      for k = -4 to 4 but 0:  j = (0.1 * k + 63) / top;  c = min(63, near(j * S));  r = 1 / j
        E = sum of (u * e) * e, e = S - r * c;  E < best: best = E, i = j
      codes = min(63, near(i * S));  A = sum of (u * S) * code;  Q = sum of (u * code) * code
      up to 5 times, until no code changes, for each of the 8 in order:
        a = A - (u * S) * code;  q = Q - (u * code) * code;  next one unless a > 0 and q > 0
        c = min(63, near((S * q) / a));  next one if c is the code
        a = a + (u * S) * c;  q = q + (u * c) * c
        (a * a) * Q > (A * A) * q: code = c, A = a, Q = q
      d = A / Q, 0 where Q is not above 0

d and dmin are rounded to f16, ties to even, NaN to 0, what is too large to infinity. Then, with what
is stored, of runs where t = d * sc is not 0: code = clamp(near((x + dmin * mn) / t), 0, 15); of others
those of the search stay. Clipped: (x + dmin * mn) / t at most -0.5 or at least 15.5; all of a run where
t is not finite, or t is 0 and dmin * mn not finite; all of a block whose d was NaN.

| plane | dtype | shape |
| --- | --- | --- |
| codes | uint8 | [.., L / 256 * 144] |
)";

// ggml/src/ggml-common.h, block_q4_K.
struct Block {
  uint8_t d[2], dmin[2];  // f16
  uint8_t scales[12];
  uint8_t codes[kSuperBlockElems / 2];
};
static_assert(sizeof(Block) == 144 && alignof(Block) == 1);

// The codes of 6 bits of a block's scales and minima.
struct ScaleCodes {
  uint8_t scale[kKRunsPerBlock], min[kKRunsPerBlock];
};

void PackScales(const ScaleCodes& from, uint8_t (&to)[12]) {
  for (int j = 0; j < 4; ++j) {
    to[j] = static_cast<uint8_t>(from.scale[j] | from.scale[j + 4] >> 4 << 6);
    to[j + 4] = static_cast<uint8_t>(from.min[j] | from.min[j + 4] >> 4 << 6);
    to[j + 8] = static_cast<uint8_t>((from.scale[j + 4] & 0x0F) | from.min[j + 4] << 4);
  }
}

ScaleCodes UnpackScales(const uint8_t (&from)[12]) {
  ScaleCodes to;
  for (int j = 0; j < 4; ++j) {
    to.scale[j] = from[j] & 63;
    to.min[j] = from[j + 4] & 63;
    to.scale[j + 4] = static_cast<uint8_t>((from[j + 8] & 0x0F) | from[j] >> 6 << 4);
    to.min[j + 4] = static_cast<uint8_t>(from[j + 8] >> 4 | from[j + 4] >> 6 << 4);
  }
  return to;
}

// False if NaN was stored as 0.
bool StoreHalf(float value, uint8_t (&to)[2]) {
  const auto code = static_cast<uint16_t>(
      std::isnan(value) ? 0 : NarrowFloat(kHalfFormat, value, Rounding::kHalfEven, false));
  std::memcpy(to, &code, sizeof(code));
  return !std::isnan(value);
}

float LoadHalf(const uint8_t (&from)[2]) {
  uint16_t code;
  std::memcpy(&code, from, sizeof(code));
  return WidenFloat<float>(kHalfFormat, code);
}

// What the runs of a block are decoded with.
void ParamsOf(const Block& block, KRunParams* params) {
  const ScaleCodes codes = UnpackScales(block.scales);
  const float d = LoadHalf(block.d), dmin = LoadHalf(block.dmin);
  for (int j = 0; j < kKRunsPerBlock; ++j) params[j] = {d * codes.scale[j], dmin * codes.min[j]};
}

// Gives the largest of `values`, 0 at least, the code 63. Returns the factor of the codes.
float ScaleCodesByLargest(std::span<const float, kKRunsPerBlock> values, uint8_t* codes) {
  float largest = 0;
  for (const float value : values) {
    if (value > largest) largest = value;
  }
  const float inverse = largest > 0 ? 63 / largest : 0;
  for (size_t j = 0; j < values.size(); ++j) {
    codes[j] = std::min<uint8_t>(63, static_cast<uint8_t>(NearestByBits(inverse * values[j])));
  }
  return largest / 63;
}

// Writes all of a block but its codes; false if it has lost its d.
bool MakeScales(const KRuns& found, int64_t run, bool weighted, Block& block) {
  using Floats = std::span<const float, kKRunsPerBlock>;
  const Floats scales(found.scale + run, kKRunsPerBlock), mins(found.min + run, kKRunsPerBlock);
  ScaleCodes codes;
  bool has_d;
  if (weighted) {
    const Floats weights(found.weight + run, kKRunsPerBlock);
    has_d = StoreHalf(SearchScaleCodes(scales, weights, codes.scale), block.d);
    StoreHalf(SearchScaleCodes(mins, weights, codes.min), block.dmin);
  } else {
    has_d = StoreHalf(ScaleCodesByLargest(scales, codes.scale), block.d);
    StoreHalf(ScaleCodesByLargest(mins, codes.min), block.dmin);
  }
  PackScales(codes, block.scales);
  return has_d;
}

// Returns how many values of a block are lost to infinite or absent parameters, but for those that
// lie outside of the codes anyhow.
int64_t CountLost(const KRunParams* params, bool has_d) {
  if (!has_d) return kSuperBlockElems;
  return kKRunElems * std::count_if(params, params + kKRunsPerBlock, [](const KRunParams& run) {
           return !std::isfinite(run.scale) || (run.scale == 0 && !std::isfinite(run.min));
         });
}

void PackCodes(const uint8_t* codes, uint8_t (&to)[kSuperBlockElems / 2]) {
  for (int64_t i = 0; i < kSuperBlockElems / 2; i += kKRunElems, codes += 2 * kKRunElems) {
    for (int64_t l = 0; l < kKRunElems; ++l) {
      to[i + l] = static_cast<uint8_t>(codes[l] | codes[l + kKRunElems] << 4);
    }
  }
}

void UnpackCodes(const uint8_t (&from)[kSuperBlockElems / 2], uint8_t* codes) {
  for (int64_t i = 0; i < kSuperBlockElems / 2; i += kKRunElems, codes += 2 * kKRunElems) {
    for (int64_t l = 0; l < kKRunElems; ++l) {
      codes[l] = from[i + l] & 0x0F;
      codes[l + kKRunElems] = from[i + l] >> 4;
    }
  }
}

// The values of a segment as the format has them, and their weights.
struct Inputs {
  alignas(64) float values[kTileElems];
  float importance[kTileElems];
  float energies[kMaxKRuns];

  explicit Inputs(const Segment& segment) {
    const TileView& from = segment.values;
    if (from.f32 != nullptr) {
      std::memcpy(values, reinterpret_cast<const char*>(from.f32),
                  static_cast<size_t>(from.num_elems) * sizeof(float));
    } else {
      constexpr double kLargest = std::numeric_limits<float>::max();
      for (int64_t i = 0; i < from.num_elems; ++i) {
        values[i] = static_cast<float>(std::clamp(LoadAt(from.f64, i), -kLargest, kLargest));
      }
    }
    if (segment.importance == nullptr) return;
    for (int64_t block = 0; block < from.num_elems; block += kSuperBlockElems) {
      std::memcpy(importance + block, segment.importance->At(segment.first_elem + block),
                  kSuperBlockElems * sizeof(float));
      float squares = 0;
      for (int64_t i = block; i < block + kSuperBlockElems; ++i) squares += values[i] * values[i];
      std::fill_n(energies + block / kKRunElems, kKRunsPerBlock, 2 * squares / kSuperBlockElems);
    }
  }
};

absl::StatusOr<PackedLayout> PlanQ4K(const SchemeInfo&, const QuantSpec& spec,
                                     const TensorDesc& tensor) {
  const Shape& shape = tensor.shape;
  if (shape.rank() > 0 && shape.last_dim() % kSuperBlockElems != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "blocks of ", kSuperBlockElems, " do not divide axis ", shape.rank() - 1, " (",
        shape.last_dim(), " elems); use rows that are whole blocks, or incompatible="));
  }
  QUANTD_ASSIGN_OR_RETURN(PackedLayout layout, PlanRowBlocks(*spec.tail, tensor.shape,
                                                             kSuperBlockElems, sizeof(Block)));
  layout.atom_scales = true;
  return layout;
}

void EncodeQ4K(const Resolved&, const Segment& segment, std::span<std::byte> out, Counts* counts,
               Meter* meter) {
  const Inputs inputs(segment);
  const int64_t num_elems = segment.values.num_elems, num_runs = num_elems / kKRunElems;
  const bool weighted = segment.importance != nullptr;
  KRuns found;
  KWeights weights;
  if (weighted) weights = {inputs.importance, inputs.energies};
  SearchKRuns(weighted ? kWeightedSearch : kPlainSearch, inputs.values, num_runs, weights, found);
  auto* blocks = reinterpret_cast<Block*>(out.data());
  KRunParams params[kMaxKRuns];
  for (int64_t run = 0; run < num_runs; run += kKRunsPerBlock) {
    Block& block = blocks[run / kKRunsPerBlock];
    const bool has_d = MakeScales(found, run, weighted, block);
    ParamsOf(block, params + run);
    counts->clipped += CountLost(params + run, has_d);
  }
  uint8_t codes[kTileElems];
  const bool is_f32 = segment.values.f32 != nullptr;
  counts->clipped +=
      EncodeKRuns(inputs.values, num_runs, params, found, kMaxCode, codes,
                  meter != nullptr && is_f32 ? &meter->lanes<float>() : nullptr);
  for (int64_t i = 0; i < num_elems; i += kSuperBlockElems) {
    PackCodes(codes + i, blocks[i / kSuperBlockElems].codes);
  }
  if (meter == nullptr || is_f32) return;
  float narrow[kTileElems];
  double y[kTileElems];
  DecodeKRuns(codes, num_runs, params, narrow);
  std::copy_n(narrow, num_elems, y);
  MeasureSegment(segment.values.f64, y, num_elems, meter->lanes<double>());
}

void DecodeQ4K(const Resolved&, std::span<const std::byte> packed, const ParamView&, int64_t,
               TileSpan out) {
  const auto* blocks = reinterpret_cast<const Block*>(packed.data());
  for (int64_t i = 0; i < out.num_elems; i += kSuperBlockElems, ++blocks) {
    uint8_t codes[kSuperBlockElems];
    KRunParams params[kKRunsPerBlock];
    UnpackCodes(blocks->codes, codes);
    ParamsOf(*blocks, params);
    if (out.f32 != nullptr) {
      DecodeKRuns(codes, kKRunsPerBlock, params, out.f32 + i);
    } else {
      float narrow[kSuperBlockElems];
      DecodeKRuns(codes, kKRunsPerBlock, params, narrow);
      std::copy_n(narrow, kSuperBlockElems, out.f64 + i);
    }
  }
}

}  // namespace

const Scheme& q4_k_scheme() {
  static const Scheme kScheme = [] {
    Scheme scheme = {.info = {},
                     .plan = PlanQ4K,
                     .resolve_constants = nullptr,
                     .resolve = nullptr,
                     .encode = EncodeQ4K,
                     .decode = DecodeQ4K,
                     .encode_ref = EncodeQ4KRef,
                     .decode_ref = DecodeQ4KRef};
    SchemeInfo& info = scheme.info;
    info.name = "q4_k";
    info.summary = "ggml super-blocks of 256 in 4 bits, scales and minima searched for";
    info.source =
        "ggml 0.20.2 quantize_row_q4_K_ref, _impl, built without FMA, while f16 holds the scales";
    info.definition = kDefinition;
    info.bits_per_code = 4.5;
    info.bits = 4;
    info.is_signed = false;
    info.granularities = {{.kind = GranularityKind::kGroup, .group_elems = kSuperBlockElems}};
    info.roundings = {Rounding::kHalfEven};
    info.dialects = {{.name = "ggml"}};
    info.nonfinites = {NonFinite::kReject};  // a scale that infinities reach would overflow
    info.tails = {Tail::kReject};
    info.takes_importance = true;
    return scheme;
  }();
  return kScheme;
}

}  // namespace quantd
