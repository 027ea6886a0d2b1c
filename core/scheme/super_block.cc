// Tested by tests/core/session/planner_test.cc and tests/core/scheme/golden_test.cc, through the
// schemes.
#include "core/scheme/super_block.h"

#include <cmath>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/minifloat.h"
#include "core/base/status_macros.h"
#include "core/scheme/block.h"

namespace quantd {

absl::StatusOr<PackedLayout> PlanSuperBlocks(const QuantSpec& spec, const TensorDesc& tensor,
                                             int64_t block_bytes) {
  const Shape& shape = tensor.shape;
  if (shape.rank() > 0 && shape.last_dim() % kSuperBlockElems != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "blocks of ", kSuperBlockElems, " do not divide axis ", shape.rank() - 1, " (",
        shape.last_dim(), " elems); use rows that are whole blocks, or incompatible="));
  }
  QUANTD_ASSIGN_OR_RETURN(PackedLayout layout,
                          PlanRowBlocks(*spec.tail, shape, kSuperBlockElems, block_bytes));
  layout.atom_scales = true;
  return layout;
}

SchemeInfo SuperBlockInfo(absl::string_view name, absl::string_view summary,
                          absl::string_view source, int bits, int64_t block_bytes) {
  SchemeInfo info;
  info.name = name;
  info.summary = summary;
  info.source = source;
  info.bits_per_code = static_cast<double>(block_bytes * 8) / kSuperBlockElems;
  info.bits = bits;
  info.is_signed = false;
  info.granularities = {{.kind = GranularityKind::kGroup, .group_elems = kSuperBlockElems}};
  info.roundings = {Rounding::kHalfEven};
  info.dialects = {{.name = "ggml"}};
  info.nonfinites = {NonFinite::kReject};  // a scale that infinities reach would overflow
  info.tails = {Tail::kReject};
  info.takes_importance = true;
  return info;
}

std::string SuperBlockDefinition(absl::string_view rest, absl::string_view runs,
                                 int64_t block_bytes) {
  return absl::StrCat(
      "Blocks of 256 values of a row of the last axis, which must be whole blocks: ", runs,
      ". Everything is\nin f32, each operation rounded, sums in the order of elements from 0 on unless "
      "said. Values of f64\nbeyond f32's largest are that, and all are rounded to f32. A block is ",
      block_bytes, " bytes:\n\n", rest);
}

void PackPairsOfBits(const int8_t* codes, uint8_t* to) {
  for (int64_t half = 0; half < 2; ++half, codes += 128, to += 32) {
    for (int64_t l = 0; l < 32; ++l) {
      to[l] = static_cast<uint8_t>((codes[l] & 3) | (codes[l + 32] & 3) << 2 |
                                   (codes[l + 64] & 3) << 4 | (codes[l + 96] & 3) << 6);
    }
  }
}

void UnpackPairsOfBits(const uint8_t* from, int8_t* codes) {
  for (int64_t half = 0; half < 2; ++half, from += 32) {
    for (int shift = 0; shift < 8; shift += 2, codes += 32) {
      for (int64_t l = 0; l < 32; ++l) codes[l] = static_cast<int8_t>(from[l] >> shift & 3);
    }
  }
}

bool StoreHalf(float value, uint8_t* to) {
  const auto code = static_cast<uint16_t>(
      std::isnan(value) ? 0 : NarrowFloat(kHalfFormat, value, Rounding::kHalfEven, false));
  std::memcpy(to, &code, sizeof(code));
  return !std::isnan(value);
}

float LoadHalf(const uint8_t* from) {
  uint16_t code;
  std::memcpy(&code, from, sizeof(code));
  return WidenFloat<float>(kHalfFormat, code);
}

}  // namespace quantd
