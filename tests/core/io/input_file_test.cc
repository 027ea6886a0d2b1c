#include "core/io/input_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "tests/core/io/io_test_util.h"

namespace quantd {
namespace {

using io_test::ExpectError;
using io_test::PutFile;
using testing::TempDir;

using Code = absl::StatusCode;

absl::StatusOr<std::string> ReadText(const InputFile& file, int64_t offset_bytes, size_t count) {
  std::string text(count, '\0');
  const absl::Status status = file.ReadAt(offset_bytes, std::as_writable_bytes(std::span(text)));
  if (!status.ok()) return status;
  return text;
}

TEST(InputFileTest, ReadsBytesByTheirPlace) {
  const TempDir dir;
  PutFile(dir / "a", "some bytes");
  absl::StatusOr<std::unique_ptr<InputFile>> file = InputFile::Open(dir / "a");
  ASSERT_TRUE(file.ok()) << file.status();
  for (int pass = 0; pass < 2; ++pass) {
    EXPECT_EQ((*file)->size_bytes(), 10);
    EXPECT_EQ(*ReadText(**file, 5, 5), "bytes");
    EXPECT_EQ(*ReadText(**file, 0, 4), "some");
    EXPECT_EQ(*ReadText(**file, 10, 0), "");
    EXPECT_TRUE((*file)->CheckUnchanged().ok());
    (*file)->Release();
  }
}

TEST(InputFileTest, ReadsAFileThatIsLargerThanMemory) {
  const TempDir dir;
  PutFile(dir / "sparse", "begin");
  const int64_t size_bytes = 2 * int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  if (truncate((dir / "sparse").c_str(), size_bytes) != 0) {
    GTEST_SKIP() << "no sparse file of " << size_bytes << " bytes";
  }
  const absl::StatusOr<std::unique_ptr<InputFile>> file = InputFile::Open(dir / "sparse");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(*ReadText(**file, size_bytes - 2, 2), std::string(2, '\0'));
}

TEST(InputFileTest, TellsThatTheFileHasBecomeShorter) {
  const TempDir dir;
  PutFile(dir / "a", "some bytes");
  const absl::StatusOr<std::unique_ptr<InputFile>> file = InputFile::Open(dir / "a");
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(truncate((dir / "a").c_str(), 4), 0);
  EXPECT_EQ(*ReadText(**file, 0, 4), "some");
  ExpectError(ReadText(**file, 2, 5).status(), Code::kDataLoss,
              {dir / "a", "ends at byte 4", "10 bytes"});
  ExpectError((*file)->CheckUnchanged(), Code::kDataLoss, {dir / "a", "written to"});
}

TEST(InputFileTest, TellsThatTheFileWasWrittenToOrReplaced) {
  const TempDir dir;
  for (const bool released : {false, true}) {
    PutFile(dir / "a", "some bytes");
    absl::StatusOr<std::unique_ptr<InputFile>> file = InputFile::Open(dir / "a");
    ASSERT_TRUE(file.ok()) << file.status();
    if (released) (*file)->Release();
    // A time of its own, as the clock of file systems is coarse.
    const timespec times[2] = {{1'000'000'000, 0}, {1'000'000'000, 5}};
    ASSERT_EQ(utimensat(AT_FDCWD, (dir / "a").c_str(), times, 0), 0);
    ExpectError((*file)->CheckUnchanged(), Code::kDataLoss, {dir / "a", "written to"});
  }
  PutFile(dir / "a", "some bytes");
  PutFile(dir / "b", "other text");
  absl::StatusOr<std::unique_ptr<InputFile>> kept = InputFile::Open(dir / "a");
  absl::StatusOr<std::unique_ptr<InputFile>> released = InputFile::Open(dir / "a");
  ASSERT_TRUE(kept.ok() && released.ok());
  (*released)->Release();
  ASSERT_EQ(rename((dir / "b").c_str(), (dir / "a").c_str()), 0);
  EXPECT_EQ(*ReadText(**kept, 0, 4), "some");  // the file that was opened is still there
  EXPECT_TRUE((*kept)->CheckUnchanged().ok());
  ExpectError(ReadText(**released, 0, 4).status(), Code::kDataLoss, {dir / "a", "replaced"});
  ExpectError((*released)->CheckUnchanged(), Code::kDataLoss, {dir / "a", "replaced"});
}

TEST(InputFileTest, RefusesWhatIsNoRegularFileByName) {
  const TempDir dir;
  ExpectError(InputFile::Open(dir / "none").status(), Code::kNotFound,
              {dir / "none", "No such file"});
  ExpectError(InputFile::Open(dir.path()).status(), Code::kInvalidArgument,
              {dir.path(), "is a directory"});
  ASSERT_EQ(mkfifo((dir / "pipe").c_str(), 0600), 0);  // which has no writer: must not wait for one
  ExpectError(InputFile::Open(dir / "pipe").status(), Code::kInvalidArgument,
              {dir / "pipe", "is a pipe or a device"});
}

TEST(FileIdTest, IsThatOfTheFileByAnyName) {
  const TempDir dir;
  PutFile(dir / "a", "");
  PutFile(dir / "b", "");
  ASSERT_EQ(link((dir / "a").c_str(), (dir / "hard").c_str()), 0);
  ASSERT_EQ(symlink("a", (dir / "soft").c_str()), 0);
  const std::optional<FileId> a = FileIdOf(dir / "a");
  ASSERT_TRUE(a.has_value());
  EXPECT_EQ(FileIdOf(dir / "hard"), a);
  EXPECT_EQ(FileIdOf(dir / "soft"), a);
  EXPECT_EQ((*InputFile::Open(dir / "soft"))->id(), *a);
  EXPECT_NE(FileIdOf(dir / "b"), a);
  EXPECT_EQ(FileIdOf(dir / "none"), std::nullopt);
}

TEST(MemoryBytesTest, EndsWhereItEnds) {
  const MemoryBytes bytes(io_test::AsBytes("abc"));
  std::byte out[2];
  EXPECT_TRUE(bytes.ReadAt(1, out).ok());
  EXPECT_EQ(out[1], std::byte{'c'});
  EXPECT_TRUE(bytes.ReadAt(3, {}).ok());
  EXPECT_EQ(bytes.ReadAt(2, out).code(), Code::kDataLoss);
  EXPECT_EQ(bytes.ReadAt(-1, out).code(), Code::kDataLoss);
  EXPECT_EQ(bytes.ReadAt(4, {}).code(), Code::kDataLoss);
}

}  // namespace
}  // namespace quantd
