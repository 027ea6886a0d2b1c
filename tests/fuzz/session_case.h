#ifndef QUANTD_TESTS_FUZZ_SESSION_CASE_H_
#define QUANTD_TESTS_FUZZ_SESSION_CASE_H_

#include <memory>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "core/exec/piece.h"
#include "core/session/planner.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/support/values.h"

namespace quantd::fuzz {

// Most tensors are of some tiles; those with kManyStripes are five times as large, of some stripes.
inline constexpr int64_t kMaxElems = 10 * kTileElems;
inline constexpr uint8_t kManyStripes = 0x10;

// A spec, the tensor that it is for, and how it goes through a session.
struct SessionCase {
  QuantSpec spec;
  TensorDesc tensor;
  uint8_t flags;
  uint32_t seed;  // of the cuts
};

// Takes | text: spec | u8 dtype | u8 rank | rank x u16 dimension | u8 flags | u32 seed | from `in`;
// none where the text is no spec. Dimensions are cut so that the tensor has at most kMaxElems
// elements, before the first one is made longer for kManyStripes in the flags.
inline std::optional<SessionCase> TakeCase(FuzzInput& in) {
  const absl::StatusOr<QuantSpec> spec = ParseSpec(in.Text());
  if (!spec.ok()) return std::nullopt;
  const DType dtype = AllDTypes()[in.Byte() % AllDTypes().size()];
  std::vector<int64_t> dims(in.Byte() % 5);
  int64_t left = kMaxElems;
  for (int64_t& dim : dims) {
    dim = in.Short() % (left + 1);
    left /= std::max<int64_t>(dim, 1);
  }
  const uint8_t flags = in.Byte();
  if (!dims.empty() && (flags & kManyStripes) != 0) dims[0] *= 5;
  return SessionCase{*spec, testing::MakeTensor("t", dtype, std::move(dims)), flags, in.Word()};
}

// Lends pieces of a run of bytes, each in memory of its own and of its own size, so that
// AddressSanitizer sees a step beyond it, and at any alignment. Not thread-safe.
class Pieces {
 public:
  explicit Pieces(std::span<const std::byte> bytes) : rest_(bytes) {}

  bool empty() const { return rest_.empty(); }

  // The next piece; empty at times.
  Piece Next(std::mt19937& rng) {
    const size_t size_bytes = std::min<size_t>(rng() % (1u << (rng() % 17)), rest_.size());
    const size_t shift = rng() % 8;
    const auto memory = std::make_shared<std::vector<std::byte>>(shift + size_bytes);
    std::copy_n(rest_.begin(), size_bytes, memory->begin() + static_cast<ptrdiff_t>(shift));
    rest_ = rest_.subspan(size_bytes);
    return {std::span<const std::byte>(*memory).subspan(shift), memory};
  }

 private:
  std::span<const std::byte> rest_;
};

// Output that is worth its time.
inline bool IsSmall(const Plan& plan) { return plan.output_bytes <= 80 * kMaxElems; }

}  // namespace quantd::fuzz

#endif  // QUANTD_TESTS_FUZZ_SESSION_CASE_H_
