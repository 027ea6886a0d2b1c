// What every scheme promises of its functions, by themselves: codes come back, errors are bounded,
// and segments begin anywhere.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/scheme/registry.h"
#include "core/session/planner.h"
#include "core/session/stripes.h"
#include "tests/support/params.h"
#include "tests/support/specs.h"
#include "tests/support/values.h"

namespace quantd {
namespace {

using testing::FoundParams;
using testing::MakeTensor;

constexpr uint32_t kSeed = 20241129;

// A tensor's parameters and what to encode by them.
struct Trial {
  const PackedLayout& layout() const { return plan.resolved.layout; }
  int64_t num_elems() const { return std::ssize(values); }

  const Plan& plan;
  const FoundParams& params;
  std::vector<float> values;
};

std::vector<double> Widened(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

// Calls fn(begin, end) for the parts of [begin, end) in one row of the layout and of a tile's size.
template <typename Fn>
void ForEachPart(const PackedLayout& layout, int64_t begin, int64_t end, Fn fn) {
  while (begin < end) {
    const int64_t row_end = (begin / layout.row_elems + 1) * layout.row_elems;
    const int64_t tile_elems = kTileElems / layout.atom_elems * layout.atom_elems;
    const int64_t part_end = std::min({end, row_end, begin + tile_elems});
    fn(begin, part_end);
    begin = part_end;
  }
}

void EncodeInto(const Trial& trial, int64_t begin, int64_t end, std::vector<std::byte>& codes) {
  ForEachPart(trial.layout(), begin, end, [&](int64_t from, int64_t to) {
    const Segment segment = {
        {trial.values.data() + from, nullptr, to - from}, from, trial.params.view(), nullptr};
    const int64_t offset = trial.layout().CodeOffset(from);
    Counts counts;
    trial.plan.scheme->encode(trial.plan.resolved, segment,
                              std::span(codes).subspan(
                                  static_cast<size_t>(offset),
                                  static_cast<size_t>(trial.layout().CodeOffset(to) - offset)),
                              &counts, nullptr);
  });
}

std::vector<std::byte> Encode(const Trial& trial) {
  std::vector<std::byte> codes(static_cast<size_t>(trial.layout().planes[0].size_bytes));
  EncodeInto(trial, 0, trial.num_elems(), codes);
  return codes;
}

std::vector<float> Decode(const Trial& trial, const std::vector<std::byte>& codes, int64_t begin,
                          int64_t end) {
  std::vector<float> values(static_cast<size_t>(end - begin));
  ForEachPart(trial.layout(), begin, end, [&](int64_t from, int64_t to) {
    const PackedLayout& layout = trial.layout();
    const int64_t row_end = (from / layout.row_elems + 1) * layout.row_elems;
    const int64_t offset = layout.CodeOffset(from);
    const int64_t end_offset = layout.CodeOffset(std::min(row_end, trial.num_elems()));
    trial.plan.scheme->decode(trial.plan.resolved,
                              std::span(codes).subspan(static_cast<size_t>(offset),
                                                       static_cast<size_t>(end_offset - offset)),
                              trial.params.view(), from,
                              {values.data() + (from - begin), nullptr, to - from});
  });
  return values;
}
std::vector<float> Decode(const Trial& trial, const std::vector<std::byte>& codes) {
  return Decode(trial, codes, 0, trial.num_elems());
}

// Codes hold their parameters, so that there is nothing that can be given.
bool HasParamsInside(const Plan& plan) {
  const double bits = plan.scheme->info.bits_per_code;
  const PackedLayout& layout = plan.resolved.layout;
  return layout.trailer_bytes > 0 || layout.atom_scales || bits != std::floor(bits);
}

// True where a learned codebook has equal levels, of which more than one code is written, as of
// groups of few values.
bool HasEqualLevels(const Plan& plan, const FoundParams& params) {
  if (!plan.resolved.spec.levels.has_value()) return false;
  const size_t num_levels = *plan.resolved.spec.levels;
  const std::span<const std::byte> plane = params.plane(1);
  std::vector<float> levels(plane.size() / sizeof(float));
  std::memcpy(levels.data(), plane.data(), plane.size());
  for (size_t i = 1; i < levels.size(); ++i) {
    if (i % num_levels != 0 && levels[i] == levels[i - 1]) return true;
  }
  return false;
}

bool RoundsToNearest(const Plan& plan) {
  if (!plan.resolved.spec.rounding.has_value()) return true;
  const Rounding rounding = *plan.resolved.spec.rounding;
  return rounding == Rounding::kHalfEven || rounding == Rounding::kHalfAway ||
         rounding == Rounding::kHalfUp || rounding == Rounding::kHalfDown;
}

class SeamTest : public ::testing::TestWithParam<const Scheme*> {
 protected:
  // Calls fn(plan) for the scheme's specs with each key by itself, where they take the shape.
  template <typename Fn>
  void ForEachPlan(const std::vector<int64_t>& dims, Fn fn) {
    for (const std::string& text : testing::SpecsOf(GetParam()->info)) {
      for (const char* tail : {"", "tail=short", "tail=pad"}) {
        if (*tail != '\0' && text.find("tail=") != std::string::npos) continue;
        const char* between = *tail == '\0' ? "" : text.find(':') == std::string::npos ? ":" : ",";
        const absl::StatusOr<Plan> plan =
            MakePlan(*ParseSpec(absl::StrCat(text, between, tail)),
                     MakeTensor("t", DType::kF32, dims), int64_t{1} << 40);
        if (!plan.ok()) continue;
        ++plans_;
        SCOPED_TRACE(absl::StrCat(FormatSpec(plan->resolved.spec), ", seed ", kSeed));
        fn(*plan);
        if (HasFatalFailure()) return;
        break;
      }
    }
  }
  void TearDown() override { EXPECT_GT(plans_, 0); }

  std::vector<float> Random(int64_t count, float reach) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) {
      const auto unit = static_cast<float>(static_cast<double>(rng_()) * 0x1p-31 - 1);
      value = unit * unit * unit * reach;  // small ones are many
    }
    return values;
  }

  std::mt19937 rng_{kSeed};
  int plans_ = 0;
};

double SquaredDistance(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += std::pow(static_cast<double>(a[i]) - b[i], 2);
  return sum;
}

// True of formats that search for scales and may find others for what they have decoded.
bool MayFindOtherScales(const Scheme& scheme) {
  return testing::AlwaysSearches(scheme) && scheme.info.name != "q4_k";
}

// With its parameters given: encode(decode(c)) == c for all codes that are emitted. Where
// parameters lie within blocks, the values stay the same, or where they are searched for, next to
// them: the energy of the second error is at most a quarter of that of the first.
TEST_P(SeamTest, CodesComeBack) {
  ForEachPlan({6, 512}, [&](const Plan& plan) {
    if (!RoundsToNearest(plan)) return;
    // Some beyond the ranges that parameters are found from.
    const FoundParams params(plan, Widened(Random(6 * 512, 1)));
    for (const float reach : {0.1f, 1.0f, 1.5f}) {
      const Trial first = {plan, params, Random(6 * 512, reach)};
      const std::vector<std::byte> codes = Encode(first);
      const std::vector<float> decoded = Decode(first, codes);
      const Trial again = {plan, params, decoded};
      const std::vector<std::byte> codes_again = Encode(again);
      if (MayFindOtherScales(*plan.scheme)) {
        ASSERT_LE(SquaredDistance(Decode(again, codes_again), decoded),
                  0.25 * SquaredDistance(decoded, first.values));
      } else {
        ASSERT_EQ(Decode(again, codes_again), decoded);
      }
      if (HasParamsInside(plan) || HasEqualLevels(plan, params)) continue;
      // A code may stand for -0 that -0 itself is not given, as compressed-tensors has it.
      Trial but_zeros = again;
      for (size_t i = 0; i < decoded.size(); ++i) {
        if (decoded[i] == 0) but_zeros.values[i] = first.values[i];
      }
      ASSERT_EQ(Encode(but_zeros), codes);
    }
  });
}

// Returns the values that each group gives, in order: those of a sweep through all of its range.
std::vector<std::vector<float>> GridsOf(const Trial& trial) {
  constexpr int64_t kSteps = 4096;
  const GroupMap& groups = trial.layout().groups;
  std::vector<std::vector<float>> grids(static_cast<size_t>(groups.num_groups));
  Trial sweep = trial;
  for (int64_t begin = 0; begin < kSteps; begin += std::min(groups.run_elems, kSteps)) {
    for (size_t i = 0; i < sweep.values.size(); ++i) {
      const int64_t step = begin + static_cast<int64_t>(i) % groups.row_elems % groups.run_elems;
      sweep.values[i] = 2.5f * static_cast<float>(step % kSteps) / kSteps - 1.25f;
    }
    const std::vector<float> out = Decode(sweep, Encode(sweep));
    for (size_t i = 0; i < out.size(); ++i) {
      grids[static_cast<size_t>(groups.RunAt(static_cast<int64_t>(i)).group)].push_back(out[i]);
    }
  }
  const std::vector<float> own = Decode(trial, Encode(trial));
  for (size_t i = 0; i < own.size(); ++i) {
    grids[static_cast<size_t>(groups.RunAt(static_cast<int64_t>(i)).group)].push_back(own[i]);
  }
  for (std::vector<float>& grid : grids) {
    std::sort(grid.begin(), grid.end());
    grid.erase(std::unique(grid.begin(), grid.end()), grid.end());
  }
  return grids;
}

// Of all values that a group gives, each value gets the one next to it.
void ExpectNearest(const Trial& trial, const std::vector<float>& decoded) {
  const std::vector<std::vector<float>> grids = GridsOf(trial);
  for (size_t i = 0; i < decoded.size(); ++i) {
    const int64_t group = trial.layout().groups.RunAt(static_cast<int64_t>(i)).group;
    const std::vector<float>& grid = grids[static_cast<size_t>(group)];
    const double value = trial.values[i];
    const auto above = std::lower_bound(grid.begin(), grid.end(), value);
    double nearest = HUGE_VAL;
    if (above != grid.end()) nearest = *above - value;
    if (above != grid.begin()) nearest = std::min(nearest, value - *(above - 1));
    // Scales that are stored are rounded from those that codes are made with.
    ASSERT_LE(std::fabs(value - decoded[i]), nearest + 0x1p-10 * std::fabs(value))
        << value << " at " << i;
  }
}

// Values are no further away than a step and a half of their block's range, zero included. Where the
// scale of E2M1 is a power of two, values of up to 16 become 12.
void ExpectWithinSteps(const Trial& trial, const std::vector<float>& decoded) {
  const PackedLayout& layout = trial.layout();
  const auto block =
      static_cast<size_t>(layout.trailer_bytes > 0 ? layout.row_elems : layout.atom_elems);
  const SchemeInfo& info = trial.plan.scheme->info;
  const int steps = (1 << static_cast<int>(info.bits_per_code)) - 1;
  const double share = info.name == "mxfp4" ? 0.25 : 1.5 / steps;
  for (size_t begin = 0; begin < decoded.size(); begin += block) {
    const size_t end = std::min(begin + block, decoded.size());
    double min = 0, max = 0;
    for (size_t i = begin; i < end; ++i) {
      min = std::min<double>(min, trial.values[i]);
      max = std::max<double>(max, trial.values[i]);
    }
    for (size_t i = begin; i < end; ++i) {
      ASSERT_LE(std::fabs(trial.values[i] - decoded[i]), share * (max - min)) << i;
    }
  }
}

// Ternary's threshold is that of its paper, near the middle of two levels, not on it: what it gives
// is 0 or on the value's side, and no further from it than 0 is from the largest one.
bool TakesNearest(const Plan& plan) { return plan.scheme->info.name != "ternary"; }

void ExpectOnTheSameSide(const Trial& trial, const std::vector<float>& decoded) {
  float reach = 0;
  for (const float value : trial.values) reach = std::max(reach, std::fabs(value));
  for (size_t i = 0; i < decoded.size(); ++i) {
    ASSERT_GE(decoded[i] * trial.values[i], 0) << i;
    ASSERT_LE(std::fabs(trial.values[i] - decoded[i]), reach) << i;
  }
}

TEST_P(SeamTest, ErrorsAreBounded) {
  ForEachPlan({2, 256}, [&](const Plan& plan) {
    if (!RoundsToNearest(plan)) return;
    std::vector<float> values = Random(2 * 256, 1);
    if (plan.resolved.spec.given_range.has_value() && HasParamsInside(plan)) {
      const Range& range = *plan.resolved.spec.given_range;
      for (float& value : values) value = std::clamp(value, static_cast<float>(range.min),
                                                        static_cast<float>(range.max));
    }
    const FoundParams params(plan, Widened(values));
    const Trial trial = {plan, params, values};
    const std::vector<float> decoded = Decode(trial, Encode(trial));
    if (HasParamsInside(plan)) {
      ExpectWithinSteps(trial, decoded);
    } else if (!TakesNearest(plan)) {
      ExpectOnTheSameSide(trial, decoded);
    } else {
      ExpectNearest(trial, decoded);
    }
  });
}

// Wherever a tile is cut between atoms, and whatever part of it is read.
TEST_P(SeamTest, SegmentsBeginAnywhere) {
  for (const std::vector<int64_t>& dims : {std::vector<int64_t>{3, 700}, {1, 4096}, {40, 33}}) {
    ForEachPlan(dims, [&](const Plan& plan) {
      const int64_t num_elems = plan.resolved.tensor.shape.num_elems();
      const std::vector<float> values = Random(num_elems, 1);
      const FoundParams params(plan, Widened(values));
      const Trial trial = {plan, params, values};
      const std::vector<std::byte> whole = Encode(trial);
      const std::vector<float> decoded = Decode(trial, whole);
      const PackedLayout& layout = plan.resolved.layout;
      for (int round = 0; round < 60; ++round) {
        std::vector<std::byte> codes(whole.size(), std::byte{0x5A});
        for (int64_t begin = 0; begin < num_elems;) {
          int64_t end = begin + 1 + static_cast<int64_t>(rng_() % (1u << (rng_() % 12)));
          const int64_t row_start = begin / layout.row_elems * layout.row_elems;
          end = row_start + RoundUp(end - row_start, layout.atom_elems);
          end = std::min({end, row_start + layout.row_elems, num_elems});
          EncodeInto(trial, begin, end, codes);
          begin = end;
        }
        ASSERT_EQ(codes, whole);
        const int64_t from = AtomFloor(layout, static_cast<int64_t>(rng_()) % num_elems);
        const int64_t more = from + static_cast<int64_t>(rng_()) % (num_elems - from);
        const int64_t to = std::min(AtomFloor(layout, more) + layout.atom_elems, num_elems);
        const std::vector<float> part = Decode(trial, whole, from, to);
        ASSERT_TRUE(std::equal(part.begin(), part.end(), decoded.begin() + from));
      }
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Schemes, SeamTest, ::testing::ValuesIn(AllSchemes()),
                         [](const auto& info) { return std::string(info.param->info.name); });

}  // namespace
}  // namespace quantd
