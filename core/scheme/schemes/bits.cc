// bits: the signs of values, a bit each, as numpy.packbits has those of x > 0: embeddings for
// search by Hamming distance, 32 times smaller than f32. No parameters: all magnitudes are gone.
//
//   x       0.3 -0.1  0   2.5 -4  -0   1   1 | 0.5             a row of 9
//   x > 0    1   0    0    1   0   0   1   1 |  1
//   bytes   | 0x93                           | 0x80 |          the first in the highest bit
//   x'       1  -1   -1    1  -1  -1   1   1    1
//
// Each row of the last axis ends with a byte of its own, filled up with zeros. Dialect
// sentence_transformers has bytes of type int8, less 128 (its precision "binary"; "ubinary" is
// numpy's); usearch's b1 is numpy's too. q8_0 keeps 8.5 times as much, and magnitudes.
//
// Source: numpy 2.2, packbits(x > 0, axis=-1); sentence-transformers 5, quantize_embeddings. Entry:
// bits_scheme. Tested by tests/core/scheme/reference_test.cc, segments_test.cc and golden_test.cc.
#include <algorithm>

#include "core/base/checked_math.h"
#include "core/base/copy_bytes.h"
#include "core/base/status_macros.h"
#include "core/scheme/block.h"
#include "core/scheme/scheme.h"
#include "core/simd/bits.h"
#include "core/simd/signs.h"

namespace quantd {
namespace {

constexpr absl::string_view kSentenceTransformers = "sentence_transformers";
constexpr uint8_t kSignBit = 0x80;  // what less 128 does to a byte
constexpr int64_t kAtomElems = 8;
constexpr SignCoding kCoding = {.zero = false};

constexpr char kDefinition[] =
    R"(The signs of the values, a bit each, in rows of the last axis. There are no parameters.

    code = 1 where x > 0, else 0
    x' = 1 where the code is 1, else -1

Byte k of a row has the codes of its elements 8 * k to 8 * k + 7, the first in the highest bit;
behind the last one are zeros. That is numpy.packbits(x > 0, axis=-1). Under
`dialect=sentence_transformers` each byte is that less 128, as int8; `dialect=usearch` (2.26.6, scalar
kind b1) has numpy's bytes. Clipped: |x| of 2 and more.

| plane | dtype | shape |
| --- | --- | --- |
| codes | uint8; sentence_transformers: int8 | [.., ceil(L / 8)] |
)";

bool IsLess128(const QuantSpec& spec) { return spec.dialect == kSentenceTransformers; }

absl::StatusOr<PackedLayout> PlanBits(const SchemeInfo&, const QuantSpec& spec,
                                      const TensorDesc& tensor) {
  QUANTD_ASSIGN_OR_RETURN(PackedLayout layout,
                          PlanRowBlocks(Tail::kPad, tensor.shape, kAtomElems, 1));
  if (IsLess128(spec)) layout.planes[0].dtype = DType::kInt8;
  return layout;
}

void FlipSignBits(int64_t num_bytes, uint8_t* bytes) {
  for (int64_t i = 0; i < num_bytes; ++i) bytes[i] ^= kSignBit;
}

void EncodeBits(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                Counts* counts, Meter* meter) {
  const int64_t num_elems = segment.values.num_elems;
  uint8_t codes[kTileElems];
  auto* bytes = reinterpret_cast<uint8_t*>(out.data());
  segment.values.Visit([&]<typename T>(const T* values) {
    counts->clipped += EncodeSigns(kCoding, values, num_elems, codes);
    if (meter == nullptr) return;
    T decoded[kTileElems];
    DecodeSigns(kCoding, codes, num_elems, decoded);
    MeasureSegment(values, decoded, num_elems, meter->lanes<T>());
  });
  const int64_t num_bytes = CeilDiv(num_elems, kAtomElems);
  PackBits(codes, num_elems, 1, bytes);
  ReverseBits(num_bytes, bytes);
  if (IsLess128(resolved.spec)) FlipSignBits(num_bytes, bytes);
}

void DecodeBits(const Resolved& resolved, std::span<const std::byte> packed, const ParamView&,
                int64_t, TileSpan out) {
  uint8_t bytes[kTileElems / kAtomElems], codes[kTileElems];
  const int64_t num_bytes = CeilDiv(out.num_elems, kAtomElems);
  CopyBytes(bytes, packed.data(), static_cast<size_t>(num_bytes));
  if (IsLess128(resolved.spec)) FlipSignBits(num_bytes, bytes);
  ReverseBits(num_bytes, bytes);
  UnpackBits(bytes, out.num_elems, 1, codes);
  out.Visit([&](auto* values) { DecodeSigns(kCoding, codes, out.num_elems, values); });
}

// --- The scalar definitions ---

void EncodeBitsRef(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                   Counts* counts) {
  std::fill(out.begin(), out.end(), std::byte{0});
  for (int64_t i = 0; i < segment.values.num_elems; ++i) {
    const double x =
        segment.values.Visit([&](const auto* from) { return double{LoadAt(from, i)}; });
    if (x > 0) out[static_cast<size_t>(i / 8)] |= static_cast<std::byte>(0x80 >> i % 8);
    counts->clipped += x >= 2 || x <= -2;
  }
  if (resolved.spec.dialect != "sentence_transformers") return;
  for (std::byte& byte : out) {
    byte = static_cast<std::byte>(static_cast<int8_t>(std::to_integer<int>(byte) - 128));
  }
}

void DecodeBitsRef(const Resolved& resolved, std::span<const std::byte> packed, const ParamView&,
                   int64_t, TileSpan out) {
  for (int64_t i = 0; i < out.num_elems; ++i) {
    auto byte = std::to_integer<int>(packed[static_cast<size_t>(i / 8)]);
    if (resolved.spec.dialect == "sentence_transformers") byte = static_cast<int8_t>(byte) + 128;
    const bool is_set = (byte >> (7 - i % 8) & 1) != 0;
    out.Visit([&]<typename T>(T* to) {
      const T value = is_set ? T{1} : T{-1};
      CopyBytes(to + i, &value, sizeof(value));
    });
  }
}

}  // namespace

const Scheme& bits_scheme() {
  static const Scheme kScheme = [] {
    Scheme scheme = {.info = {},
                     .plan = PlanBits,
                     .resolve_constants = nullptr,
                     .resolve = nullptr,
                     .encode = EncodeBits,
                     .decode = DecodeBits,
                     .encode_ref = EncodeBitsRef,
                     .decode_ref = DecodeBitsRef};
    SchemeInfo& info = scheme.info;
    info.name = "bits";
    info.summary = "sign bits, in rows that end with a byte, as searches by Hamming distance take";
    info.source = "numpy.packbits of x > 0; sentence-transformers' binary; usearch's b1";
    info.definition = kDefinition;
    info.bits_per_code = info.bits = 1;
    info.is_signed = false;
    info.dialects = {{.name = "numpy"}, {.name = kSentenceTransformers}, {.name = "usearch"}};
    info.nonfinites = {NonFinite::kReject, NonFinite::kSaturate};
    return scheme;
  }();
  return kScheme;
}

}  // namespace quantd
