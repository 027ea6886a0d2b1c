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
// and decoded ones widen.
//
// Beyond ggml, where d becomes infinite for values beyond about 6e7, and NaN for those above 1e18:
// a d or dmin that f16 does not hold is 65504, its largest, so that blocks reach from -4.1e6 to
// 6.2e7; values are searched for as if they were 2^30 at most. What does not come back counts as
// clipped. A d that is still NaN, of weights near f32's end, is 0.
//
// The search makes it the slowest of rows: 0.7 GB/s on a thread, where others have 8 to 15.
//
// The entry is q4_k_scheme. Tested by tests/core/scheme/segments_test.cc and golden_test.cc.
#include <algorithm>
#include <cmath>
#include <cstring>
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
constexpr float kLargestHalf = 65504;
constexpr KSearch kPlainSearch = {kMaxCode, -1.0f, 0.1f, 20};
constexpr KSearch kWeightedSearch = {kMaxCode, -0.9f, 0.05f, 36};

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

void StoreHalf(float value, uint8_t (&to)[2]) {
  const auto code = static_cast<uint16_t>(
      std::isnan(value) ? 0 : NarrowFloat(kHalfFormat, value, Rounding::kHalfEven, true));
  std::memcpy(to, &code, sizeof(code));
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

// Writes all of a block but its codes.
void MakeScales(const KRuns& found, int64_t run, bool weighted, Block& block) {
  using Floats = std::span<const float, kKRunsPerBlock>;
  const Floats scales(found.scale + run, kKRunsPerBlock), mins(found.min + run, kKRunsPerBlock);
  ScaleCodes codes;
  if (weighted) {
    const Floats weights(found.weight + run, kKRunsPerBlock);
    StoreHalf(SearchScaleCodes(scales, weights, codes.scale), block.d);
    StoreHalf(SearchScaleCodes(mins, weights, codes.min), block.dmin);
  } else {
    StoreHalf(ScaleCodesByLargest(scales, codes.scale), block.d);
    StoreHalf(ScaleCodesByLargest(mins, codes.min), block.dmin);
  }
  PackScales(codes, block.scales);
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

// Larger values, far beyond what a block can hold, would make sums of the search overflow.
constexpr float kFar = 0x1p30f;

// The values of a segment as the format has them, and their weights.
struct Inputs {
  alignas(64) float values[kTileElems];
  float importance[kTileElems];
  float energies[kMaxKRuns];
  bool exact = true;  // the values are those of the segment

  explicit Inputs(const Segment& segment) {
    const TileView& from = segment.values;
    from.Visit([&]<typename T>(const T* x) {
      for (int64_t i = 0; i < from.num_elems; ++i) {
        const T value = LoadAt(x, i);
        values[i] = static_cast<float>(std::clamp(value, static_cast<T>(-kFar), T{kFar}));
        exact &= values[i] == value;
      }
    });
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

// Returns how many values lie below a run that has a minimum alone, by half a step of minima or
// more, where those may have saturated.
int64_t CountBelow(const float* values, const KRunParams& run, const Block& block) {
  const float dmin = LoadHalf(block.dmin);
  if (run.scale != 0 || dmin < kLargestHalf) return 0;
  return std::count_if(values, values + kKRunElems,
                       [&](float x) { return x + run.min <= -dmin / 2; });
}

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
    MakeScales(found, run, weighted, block);
    ParamsOf(block, params + run);
    for (int64_t r = run; r < run + kKRunsPerBlock; ++r) {
      counts->clipped += CountBelow(inputs.values + r * kKRunElems, params[r], block);
    }
  }
  uint8_t codes[kTileElems];
  const bool measures = segment.values.f32 != nullptr && inputs.exact;
  counts->clipped +=
      EncodeKRuns(inputs.values, num_runs, params, found, kMaxCode, codes,
                  meter != nullptr && measures ? &meter->lanes<float>() : nullptr);
  for (int64_t i = 0; i < num_elems; i += kSuperBlockElems) {
    PackCodes(codes + i, blocks[i / kSuperBlockElems].codes);
  }
  if (meter == nullptr || measures) return;
  float decoded[kTileElems];
  DecodeKRuns(codes, num_runs, params, decoded);
  segment.values.Visit([&]<typename T>(const T* x) {
    T y[kTileElems];
    std::copy_n(decoded, num_elems, y);
    MeasureSegment(x, y, num_elems, meter->lanes<T>());
  });
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
    info.source = "ggml quantize_row_q4_K_ref, quantize_row_q4_K_impl";
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
