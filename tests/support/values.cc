#include "tests/support/values.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "absl/strings/str_cat.h"
#include "core/base/digest.h"
#include "core/base/minifloat.h"

namespace quantd::testing {
namespace {

// Only the generator's own bits are used: the distributions of <random> differ by library.
double Unit(std::mt19937& rng) { return (static_cast<double>(rng()) + 0.5) * 0x1p-32; }

double Normal(std::mt19937& rng) {
  double sum = 0;
  for (int i = 0; i < 4; ++i) sum += Unit(rng) - 0.5;
  return rng() % 50 == 0 ? sum * 8 : sum;
}

double MakeFloat(ValueKind kind, std::mt19937& rng) {
  switch (kind) {
    case ValueKind::kNormal:
      return static_cast<float>(Normal(rng));
    case ValueKind::kTies:
      return (static_cast<double>(rng() % 600) - 300) * 0.5;
    case ValueKind::kWide: {
      // One by one: the order of a call's arguments differs by compiler.
      const int exponent = static_cast<int>(rng() % 270) - 145;
      return std::ldexp(Unit(rng) - 0.5, exponent);
    }
    case ValueKind::kTiny:
      return std::ldexp(static_cast<double>(rng() % 100) - 50, -149);
    case ValueKind::kNonFinite: {
      const uint32_t which = rng() % 64;
      if (which == 0) return std::numeric_limits<double>::quiet_NaN();
      if (which == 1) return std::numeric_limits<double>::infinity();
      if (which == 2) return -std::numeric_limits<double>::infinity();
      return Normal(rng);
    }
    case ValueKind::kZero:
      return rng() % 2 == 0 ? 0.0 : -0.0;
  }
  return 0;
}

int64_t MakeInt(ValueKind kind, std::mt19937& rng) {
  if (kind == ValueKind::kZero) return 0;
  const uint64_t upper = rng();
  const uint64_t wide = (upper << 32) | rng();
  return kind == ValueKind::kWide ? static_cast<int64_t>(wide)
                                  : static_cast<int64_t>(wide % 200) - 100;
}

}  // namespace

std::vector<std::byte> MakeValues(const TensorDesc& tensor, ValueKind kind, uint32_t seed) {
  std::mt19937 rng(seed);
  const size_t elem_bytes = static_cast<size_t>(SizeOf(tensor.dtype));
  std::vector<std::byte> bytes(static_cast<size_t>(tensor.shape.num_elems()) * elem_bytes);
  for (size_t at = 0; at < bytes.size(); at += elem_bytes) {
    uint64_t bits;
    if (tensor.dtype == DType::kF64) {
      bits = std::bit_cast<uint64_t>(MakeFloat(kind, rng));
    } else if (tensor.dtype == DType::kF32) {
      bits = std::bit_cast<uint32_t>(static_cast<float>(MakeFloat(kind, rng)));
    } else if (tensor.dtype == DType::kF16 || tensor.dtype == DType::kBf16) {
      const MiniFormat& format = tensor.dtype == DType::kF16 ? kHalfFormat : kBfloatFormat;
      bits = NarrowFloat(format, MakeFloat(kind, rng), Rounding::kHalfEven, /*saturate=*/false);
    } else {
      bits = static_cast<uint64_t>(MakeInt(kind, rng));
    }
    std::memcpy(&bytes[at], &bits, elem_bytes);  // little-endian
  }
  return bytes;
}

TensorDesc MakeTensor(std::string name, DType dtype, std::vector<int64_t> dims) {
  return {std::move(name), dtype, *Shape::Make(std::move(dims))};
}

std::string Fingerprint(const QuantizedTensor& tensor) {
  std::string text = FormatSpec(tensor.plan.resolved.spec);
  for (const std::vector<std::byte>& plane : tensor.planes) {
    absl::StrAppend(&text, " ", plane.size(), ":", Sha256Hex(plane));
  }
  const EncodingReport& report = tensor.report;
  for (const std::string& digest : report.digests) absl::StrAppend(&text, " ", digest);
  absl::StrAppend(&text, " clipped=", report.clipped, " non_finite=", report.non_finite,
                  " inexact=", report.inexact_inputs);
  for (const int64_t elem : report.first_non_finite_elems) absl::StrAppend(&text, " @", elem);
  const Figures& figures = report.figures;
  for (const double figure :
       {figures.sum, figures.min, figures.max, figures.m2, figures.signal_energy,
        figures.error_energy, figures.cross_energy, figures.max_error}) {
    absl::StrAppend(&text, " ", absl::Hex(std::bit_cast<uint64_t>(figure)));
  }
  absl::StrAppend(&text, " n=", figures.count, " at=", figures.max_error_elem);
  return text;
}

}  // namespace quantd::testing
