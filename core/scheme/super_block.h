#ifndef QUANTD_CORE_SCHEME_SUPER_BLOCK_H_
#define QUANTD_CORE_SCHEME_SUPER_BLOCK_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/scheme/scheme.h"

// What ggml's rows of blocks of 256 values share, "super-blocks", of which one searches for its
// scales.

namespace quantd {

inline constexpr int64_t kSuperBlockElems = 256;

// Returns the layout of rows of super-blocks of `block_bytes`, or kInvalidArgument for rows that
// are not whole blocks.
absl::StatusOr<PackedLayout> PlanSuperBlocks(const QuantSpec& spec, const TensorDesc& tensor,
                                             int64_t block_bytes);

// Returns info, but for the definition, of a row of super-blocks of `block_bytes` whose scales are
// searched for and may overflow.
SchemeInfo SuperBlockInfo(absl::string_view name, absl::string_view summary,
                          absl::string_view source, int bits, int64_t block_bytes);

// Returns the row of a format with `info`. kEncode and kDecode are those of the format's family:
// EncodeKRow and DecodeKRow, say.
template <const auto& kFormat, auto kEncode, auto kDecode>
Scheme SuperBlockScheme(SchemeInfo info, decltype(Scheme::encode_ref) encode_ref,
                        decltype(Scheme::decode_ref) decode_ref) {
  return {.info = std::move(info),
          .plan = [](const SchemeInfo&, const QuantSpec& spec, const TensorDesc& tensor) {
            return PlanSuperBlocks(spec, tensor, kFormat.block_bytes);
          },
          .resolve_constants = nullptr,
          .resolve = nullptr,
          .encode = [](const Resolved&, const Segment& segment, std::span<std::byte> out,
                       Counts* counts, Meter* meter) {
            kEncode(kFormat, segment, out, counts, meter);
          },
          .decode = [](const Resolved&, std::span<const std::byte> packed, const ParamView&,
                       int64_t, TileSpan out) { kDecode(kFormat, packed, out); },
          .encode_ref = encode_ref,
          .decode_ref = decode_ref};
}

// Returns the definition of a row: `runs` ("16 runs of 16"), what all have, and then `rest`.
std::string SuperBlockDefinition(absl::string_view rest, absl::string_view runs,
                                 int64_t block_bytes);

// Pack 256 codes of 2 bits: byte l of 32 for each 128 values has those of values l, l + 32, l + 64
// and l + 96, from the low bits on. What codes have above is left out.
void PackPairsOfBits(const int8_t* codes, uint8_t* to);
void UnpackPairsOfBits(const uint8_t* from, int8_t* codes);

// Writes an f16, rounded half-even, NaN as 0: false then. What is too large becomes infinity.
bool StoreHalf(float value, uint8_t* to);
float LoadHalf(const uint8_t* from);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_SUPER_BLOCK_H_
