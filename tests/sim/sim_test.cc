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

constexpr uint64_t kShards = 8, kSeeds = 2'000;

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
    ASSERT_EQ(sim::Run(seed).fault, "") << "seed " << seed;
  }
}

// What the seeds are for does happen.
TEST(SimCoverageTest, EveryOutcomeIsMet) {
  Outcome all;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const Outcome one = sim::Run(seed);
    all.done += one.done;
    all.failed += one.failed;
    all.waited += one.waited;
    all.broken += one.broken;
  }
  EXPECT_GE(all.done, 200);
  EXPECT_GE(all.failed, 50);
  EXPECT_GE(all.waited, 20);
  EXPECT_GE(all.broken, 50);
}

// A chunk of a tensor that had failed was refused once more where its memory was short, by a second
// error.
TEST(SimRegressionTest, OneErrorForATensor) { EXPECT_EQ(sim::Run(13).fault, ""); }

INSTANTIATE_TEST_SUITE_P(Shards, SimTest, ::testing::Range(uint64_t{0}, kShards));

}  // namespace
}  // namespace quantd::sim
