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
