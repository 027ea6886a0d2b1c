#ifndef QUANTD_CORE_SCHEME_SPEC_H_
#define QUANTD_CORE_SCHEME_SPEC_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/base/rounding.h"

namespace quantd {

// Which elements share parameters.
enum class GranularityKind : uint8_t { kTensor, kAxis, kGroup, kBlock };

// A group that is the whole last axis, whatever its length: one spec for all tensors of a model.
inline constexpr int64_t kWholeRow = -1;

struct Granularity {
  GranularityKind kind = GranularityKind::kTensor;
  int64_t axis = 0;         // kAxis: the dimension that keeps its own parameters; -1 is the last
  int64_t group_elems = 0;  // kGroup: elements of a group on the last axis, or kWholeRow
  int64_t block_rows = 0;   // kBlock: a block of the last two dimensions
  int64_t block_cols = 0;

  bool operator==(const Granularity&) const = default;
};

// How integer code ranges are used, for b bits (signed; unsigned is shifted by 2^(b-1)).
enum class Mode : uint8_t {
  kSymmetric,   // codes -(2^(b-1)-1) .. 2^(b-1)-1, scale = absmax / (2^(b-1)-1)
  kFull,        // codes -2^(b-1) .. 2^(b-1)-1, scale = absmax / ((2^b-1)/2)
  kAsymmetric,  // all codes, scale = (max-min) / (2^b-1), and a zero point
};

// What stored scales are rounded to.
enum class ScaleType : uint8_t {
  kF32,
  kF16,
  kBf16,
  kPow2,
  kNested8,  // 8-bit codes of a dynamic map, with scales of their own (bitsandbytes' double quant)
  kDyadic16,  // a 16-bit integer and a shift, for consumers that have integers only
};

// What happens to NaN and infinities.
enum class NonFinite : uint8_t {
  kReject,     // an error with the coordinates
  kSaturate,   // NaN to 0, infinities to the outermost code
  kPropagate,  // kept, where the target has them
};

// What happens where a group does not divide its axis.
enum class Tail : uint8_t {
  kReject,
  kShort,  // the last group has fewer elements
  kPad,    // codes are padded with zeros to whole groups
};

// The names of each closed set in the text form, in the order of its enum; no other list exists.
template <typename Enum>
inline constexpr absl::string_view kNamesOf[1] = {};
template <>
inline constexpr absl::string_view kNamesOf<GranularityKind>[] = {"per", "axis", "group", "block"};
template <>
inline constexpr absl::string_view kNamesOf<Mode>[] = {"symmetric", "full", "asymmetric"};
template <>
inline constexpr absl::string_view kNamesOf<Rounding>[] = {
    "half_even", "half_away", "half_up", "half_down", "truncate", "floor", "ceil", "stochastic"};
template <>
inline constexpr absl::string_view kNamesOf<ScaleType>[] = {"f32", "f16", "bf16", "pow2",
                                                            "nested8", "dyadic16"};
template <>
inline constexpr absl::string_view kNamesOf<NonFinite>[] = {"reject", "saturate", "propagate"};
template <>
inline constexpr absl::string_view kNamesOf<Tail>[] = {"reject", "short", "pad"};

// Returns the name of a member of a closed set.
template <typename Enum, typename = std::enable_if_t<!kNamesOf<Enum>[0].empty()>>
constexpr absl::string_view NameOf(Enum value) {
  return kNamesOf<Enum>[static_cast<size_t>(value)];
}

// A closed range of real values.
struct Range {
  double min = 0;
  double max = 0;

  bool operator==(const Range&) const = default;
};

// What to quantize to. What is absent takes the scheme's default; a resolved spec has nothing
// absent but what does not apply. Text form: SCHEME[:key=value,...], see FormatSpec; all else of a
// key is in spec_keys.h.
struct QuantSpec {
  std::string scheme;
  std::optional<Granularity> granularity;  // per=tensor | axis=K | group=N | block=RxC
  std::optional<Mode> mode;
  std::string range;                  // a calibrator's text: "minmax", "3sigma"
  std::optional<Range> given_range;   // range=-1.5..2
  std::optional<double> scale;        // outright, for all groups
  std::optional<int64_t> zero_point;  // zero=, with scale
  std::optional<Rounding> rounding;
  std::optional<uint64_t> seed;  // of stochastic rounding
  std::optional<ScaleType> scale_type;
  std::optional<uint32_t> levels;  // of a codebook
  std::string dialect;
  std::string layout;
  std::optional<NonFinite> nonfinite;
  std::optional<Tail> tail;
  std::optional<int64_t> outliers;  // of each row, kept as they are
  std::string incompatible;  // "reject", "keep" or a scheme to fall back to

  bool operator==(const QuantSpec&) const = default;
};

// Reads the text form; kInvalidArgument names the key, the value, and what is allowed. Whether the
// scheme exists and takes the combination is the planner's to say.
absl::StatusOr<QuantSpec> ParseSpec(absl::string_view text);

// Returns the text form, keys in a fixed order, that ParseSpec reads back to an equal spec. It
// holds only letters, digits and ":=,._-+", which no shell touches.
std::string FormatSpec(const QuantSpec& spec);

// Returns the shortest decimal text that reads back to the same double.
std::string FormatDouble(double value);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_SPEC_H_
