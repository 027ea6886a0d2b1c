#include "core/io/left_behind.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <vector>

#include "core/io/output_dir.h"
#include "core/io/output_file.h"
#include "tests/core/io/io_test_util.h"

namespace quantd {
namespace {

using io_test::PutFile;
using testing::TempDir;

using Paths = std::vector<std::string>;

// Runs `work` in a process that ends at once, as if it was killed.
void RunAndKill(const std::function<bool()>& work) {
  const pid_t child = fork();
  if (child == 0) _exit(work() ? 0 : 1);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
}

TEST(LeftBehindTest, FindsAFileThatNobodyWritesAnyMore) {
  const TempDir dir;
  const std::string out = dir / "out";
  EXPECT_EQ(LeftBehind(out), Paths{});
  RunAndKill([&] {
    absl::StatusOr<OutputFile> file = OutputFile::Create(out, 10, /*may_be_unnamed=*/false);
    if (file.ok()) new OutputFile(*std::move(file));  // which nothing destroys
    return file.ok();
  });
  ASSERT_EQ(dir.Names().size(), 1u);
  EXPECT_EQ(LeftBehind(out), Paths{dir / dir.Names().front()});
  EXPECT_EQ(LeftBehind(dir / "ou"), Paths{});
  EXPECT_EQ(LeftBehind(dir / "other"), Paths{});
}

TEST(LeftBehindTest, FindsAFolder) {
  const TempDir dir;
  RunAndKill([&] {
    absl::StatusOr<OutputDir> out = OutputDir::Create(dir / "out");
    const bool ok = out.ok() && out->AddFile("a", 4).ok();
    if (ok) new OutputDir(*std::move(out));
    return ok;
  });
  ASSERT_EQ(dir.Names().size(), 1u);
  EXPECT_EQ(LeftBehind(dir / "out/"), Paths{dir / dir.Names().front()});
}

TEST(LeftBehindTest, DoesNotTakeWhatIsBeingWritten) {
  const TempDir dir;
  const auto file = OutputFile::Create(dir / "out", 10, /*may_be_unnamed=*/false);
  const auto folder = OutputDir::Create(dir / "folder");
  ASSERT_TRUE(file.ok() && folder.ok());
  EXPECT_EQ(dir.Names().size(), 2u);
  EXPECT_EQ(LeftBehind(dir / "out"), Paths{});
  EXPECT_EQ(LeftBehind(dir / "folder"), Paths{});
}

TEST(LeftBehindTest, FollowsALinkAndKnowsTheForm) {
  const TempDir dir;
  PutFile(dir / "target", "");
  std::filesystem::create_symlink("target", dir / "link");
  PutFile(dir / ".target.0123456789abcdef.tmp", "");
  PutFile(dir / ".target.0123456789abcdeg.tmp", "");
  PutFile(dir / ".target.0123456789abcde.tmp", "");
  PutFile(dir / ".target.0123456789abcdef.tmp~", "");
  PutFile(dir / "target.0123456789abcdef.tmp", "");
  EXPECT_EQ(LeftBehind(dir / "link"),
            Paths{std::filesystem::canonical(dir / "target").parent_path() /
                  ".target.0123456789abcdef.tmp"});
  EXPECT_EQ(LeftBehind(dir / "no folder/out"), Paths{});
}

}  // namespace
}  // namespace quantd
