#include "core/io/output_dir.h"

#include <gtest/gtest.h>

#include <utility>

#include "tests/core/io/io_test_util.h"

namespace quantd {
namespace {

using io_test::AsBytes;
using io_test::ExpectError;
using io_test::GetFile;
using io_test::PutFile;
using testing::TempDir;

using Names = std::vector<std::string>;

TEST(OutputDirTest, AppearsCompleteAndOnlyThen) {
  for (const bool exists : {false, true}) {
    const TempDir dir;
    if (exists) std::filesystem::create_directory(dir / "out");
    absl::StatusOr<OutputDir> out = OutputDir::Create(dir / "out/");
    ASSERT_TRUE(out.ok()) << out.status();
    EXPECT_TRUE(out->AddFile("a", 4).ok());
    EXPECT_TRUE(out->AddFile("b", 0).ok());
    EXPECT_TRUE(out->WriteAt("a", 2, AsBytes("34")).ok());
    EXPECT_TRUE(out->WriteAt("a", 0, AsBytes("12")).ok());
    EXPECT_FALSE(std::filesystem::exists(dir / "out/a"));
    ASSERT_TRUE(out->Commit().ok());
    EXPECT_EQ(GetFile(dir / "out/a"), "1234");
    EXPECT_EQ(GetFile(dir / "out/b"), "");
    EXPECT_EQ(dir.Names(), Names{"out"});
    EXPECT_EQ(out->Commit().code(), absl::StatusCode::kFailedPrecondition);
  }
}

TEST(OutputDirTest, LeavesNothingBehindWhenAbandoned) {
  const TempDir dir;
  {
    absl::StatusOr<OutputDir> out = OutputDir::Create(dir / "out");
    ASSERT_TRUE(out.ok()) << out.status();
    OutputDir moved = *std::move(out);
    EXPECT_TRUE(moved.AddFile("a", 4).ok());
    EXPECT_EQ(moved.AddFile("a", 4).code(), absl::StatusCode::kAlreadyExists);
    EXPECT_EQ(dir.Names().size(), 1u);
  }
  EXPECT_EQ(dir.Names(), Names{});
}

TEST(OutputDirTest, RefusesWhatItWouldHaveToDelete) {
  const TempDir dir;
  PutFile(dir / "file", "");
  std::filesystem::create_directory(dir / "empty");
  std::filesystem::create_symlink("empty", dir / "link");
  ExpectError(OutputDir::Create(dir.path()).status(), absl::StatusCode::kFailedPrecondition,
              {dir.path(), "not empty"});
  ExpectError(OutputDir::Create(dir / "file").status(), absl::StatusCode::kFailedPrecondition,
              {dir / "file", "not a directory"});
  ExpectError(OutputDir::Create(dir / "link").status(), absl::StatusCode::kFailedPrecondition,
              {dir / "link", "not a directory"});
  ExpectError(OutputDir::Create(dir / "none/out").status(), absl::StatusCode::kNotFound,
              {dir / "none/out", "No such file"});
  EXPECT_EQ(dir.Names(), (Names{"empty", "file", "link"}));
}

}  // namespace
}  // namespace quantd
