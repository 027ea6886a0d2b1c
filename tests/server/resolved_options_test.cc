#include "server/resolved_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <string>

#include "tests/support/temp_dir.h"

namespace quantd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int64_t kMiB = int64_t{1} << 20;
constexpr int64_t kAny = std::numeric_limits<int64_t>::max();

ServerOptions Small() {
  ServerOptions options;
  options.listen = {"127.0.0.1:0"};
  options.memory_budget_bytes = 16 * kMiB;  // the least that is allowed
  return options;
}

std::string ErrorOf(const ServerOptions& options) {
  const absl::Status status = CheckWorkable(WithDefaults(options));
  if (!status.ok()) EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  return std::string(status.message());
}

TEST(ResolvedOptionsTest, FillsInWhatZerosStandFor) {
  const ServerOptions resolved = WithDefaults(Small());
  EXPECT_EQ(resolved.session_budget_bytes, 4 * kMiB);
  EXPECT_EQ(resolved.caller_budget_bytes, 12 * kMiB);
  EXPECT_GT(resolved.threads, 0);
  EXPECT_THAT(ResolvedText(resolved), HasSubstr("# tensor-memory=4194304\n"));
  ServerOptions given = Small();
  given.session_budget_bytes = 3 * kMiB;
  given.caller_budget_bytes = 5 * kMiB;
  given.threads = 7;
  EXPECT_EQ(WithDefaults(given).session_budget_bytes, 3 * kMiB);
  EXPECT_EQ(WithDefaults(given).caller_budget_bytes, 5 * kMiB);
  EXPECT_EQ(WithDefaults(given).threads, 7);
}

TEST(ResolvedOptionsTest, TakesTheSmallestServer) { EXPECT_EQ(ErrorOf(Small()), ""); }

TEST(ResolvedOptionsTest, RefusesWhatHasRoomForNothing) {
  ServerOptions options = Small();
  options.session_budget_bytes = 1;
  EXPECT_THAT(ErrorOf(options), HasSubstr("tensor memory of 1 bytes"));
  options = Small();
  options.caller_budget_bytes = 4 * kMiB;  // a stream's, without a tensor
  EXPECT_THAT(ErrorOf(options), HasSubstr("caller memory of 4194304 bytes"));
}

TEST(ResolvedOptionsTest, RefusesAddressesWhereNobodyCanListen) {
  const testing::TempDir dir;
  ServerOptions options = Small();
  options.listen = {"127.0.0.1:0", "127.0.0.1:0", "unix:" + (dir / "a"), "127.0.0.1:7"};
  EXPECT_EQ(ErrorOf(options), "");
  options.metrics = "7";
  EXPECT_THAT(ErrorOf(options), HasSubstr("127.0.0.1:7 is given twice"));
  options.metrics = "8";
  options.listen.push_back("unix://" + (dir / "a"));
  EXPECT_THAT(ErrorOf(options), HasSubstr("is given twice"));
  options.listen = {"unix:" + (dir / "a")};
  options.access.socket_mode = 0444;
  EXPECT_THAT(ErrorOf(options), HasSubstr("socket mode 0444"));
}

TEST(ResolvedOptionsTest, WarnsOfMemoryThatIsNotThere) {
  ServerOptions options = Small();
  EXPECT_THAT(WarningsOf(options, 48 * kMiB, kAny), IsEmpty());
  EXPECT_THAT(WarningsOf(options, 48 * kMiB - 1, kAny), ElementsAre(HasSubstr("does not fit")));
  EXPECT_THAT(WarningsOf(options, 1, kAny), ElementsAre(HasSubstr("does not fit")));
}

TEST(ResolvedOptionsTest, WarnsOfDescriptorsAndUsers) {
  ServerOptions options = Small();
  EXPECT_THAT(WarningsOf(options, kAny, 1024), ElementsAre(HasSubstr("ulimit")));
  options.access.max_connections = 100;
  EXPECT_THAT(WarningsOf(options, kAny, 1024), IsEmpty());
  options.access.allowed_uids = {1};
  EXPECT_THAT(WarningsOf(options, kAny, 1024), ElementsAre(HasSubstr("--allow-uid")));
  const testing::TempDir dir;
  options.listen.push_back("unix:" + (dir / "a"));
  EXPECT_THAT(WarningsOf(options, kAny, 1024), IsEmpty());
}

// It may be made before the server is started.
TEST(ResolvedOptionsTest, WarnsOfFoldersThatAreNotThere) {
  const testing::TempDir dir;
  ServerOptions options = Small();
  options.listen = {"unix:" + (dir / "no/a")};
  EXPECT_EQ(ErrorOf(options), "");
  EXPECT_THAT(WarningsOf(options, kAny, kAny), ElementsAre(HasSubstr("no folder " + (dir / "no"))));
}

}  // namespace
}  // namespace quantd
