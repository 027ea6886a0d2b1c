// Thousands of orders of events, by seed (tests/sim/world.h). More of them:
//   QUANTD_SIM_SEEDS=FIRST:COUNT build/tests/sim_test
// A seed that fails is told, and is kept below with what it showed.
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "tests/sim/world.h"

namespace quantd::sim {
namespace {

constexpr uint64_t kShards = 8, kSeeds = 2'000, kRefusalSeeds = 16, kCrowdSeeds = 200;

class SimTest : public ::testing::TestWithParam<uint64_t> {};

TEST_P(SimTest, EverySeedEndsWell) {
  uint64_t first = GetParam() * kSeeds / kShards, count = kSeeds / kShards;
  if (const char* const text = std::getenv("QUANTD_SIM_SEEDS"); text != nullptr) {
    const std::pair<std::string, std::string> range = absl::StrSplit(text, ':');
    uint64_t all = 0;
    ASSERT_TRUE(absl::SimpleAtoi(range.first, &first) && absl::SimpleAtoi(range.second, &all));
    count = all / kShards;
    first += GetParam() * count;
  }
  for (uint64_t seed = first; seed < first + count; ++seed) {
    ASSERT_EQ(sim::Run({.seed = seed}).fault, "") << "seed " << seed;
  }
}

TEST_P(SimTest, WhoSaysNothingKeepsNobodyOut) {
  for (uint64_t seed = GetParam(); seed < kCrowdSeeds; seed += kShards) {
    const Outcome outcome = RunCrowd(seed);
    ASSERT_EQ(outcome.fault, "") << "seed " << seed;
    ASSERT_GE(outcome.broken, 1) << "seed " << seed << ": nobody was ever refused";
  }
}

// Each reservation and each buffer is the one that fails, until none is left to fail.
TEST_P(SimTest, AnyMemoryMayBeRefused) {
  for (uint64_t seed = GetParam(); seed < kRefusalSeeds; seed += kShards) {
    for (int64_t refused = 1;; ++refused) {
      const Outcome outcome = sim::Run({.seed = seed, .refused = refused});
      ASSERT_EQ(outcome.fault, "") << "seed " << seed << ", allocation " << refused << " refused";
      if (outcome.allocations < refused) break;
    }
  }
}

// What the seeds are for does happen.
TEST(SimCoverageTest, EveryOutcomeIsMet) {
  Outcome all;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const Outcome one = sim::Run({.seed = seed});
    all.done += one.done;
    all.failed += one.failed;
    all.waited += one.waited;
    all.broken += one.broken;
    all.restarts += one.restarts;
    all.made_again += one.made_again;
  }
  EXPECT_GE(all.done, 200);
  EXPECT_GE(all.failed, 50);
  EXPECT_GE(all.waited, 20);
  EXPECT_GE(all.broken, 50);
  EXPECT_GE(all.restarts, 30);
  EXPECT_GE(all.made_again, 30);
}

INSTANTIATE_TEST_SUITE_P(Shards, SimTest, ::testing::Range(uint64_t{0}, kShards));

}  // namespace
}  // namespace quantd::sim
