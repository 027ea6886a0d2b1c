#include "core/io/mapped_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "tests/core/io/io_test_util.h"

namespace quantd {
namespace {

using io_test::AsText;
using io_test::ExpectError;
using io_test::PutFile;
using testing::TempDir;

TEST(MappedFileTest, HoldsTheBytesOfTheFileWhereverItIsMoved) {
  const TempDir dir;
  PutFile(dir / "a", "some bytes");
  PutFile(dir / "b", "others");
  absl::StatusOr<MappedFile> a = MappedFile::Open(dir / "a");
  ASSERT_TRUE(a.ok()) << a.status();
  MappedFile moved = *std::move(a);
  EXPECT_EQ(AsText(moved.bytes()), "some bytes");
  absl::StatusOr<MappedFile> b = MappedFile::Open(dir / "b");
  ASSERT_TRUE(b.ok()) << b.status();
  moved = *std::move(b);
  EXPECT_EQ(AsText(moved.bytes()), "others");
}

TEST(MappedFileTest, TakesAnEmptyFile) {
  const TempDir dir;
  PutFile(dir / "empty", "");
  const absl::StatusOr<MappedFile> file = MappedFile::Open(dir / "empty");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE(file->bytes().empty());
}

TEST(MappedFileTest, MapsAFileThatIsLargerThanMemory) {
  const TempDir dir;
  PutFile(dir / "sparse", "begin");
  const int64_t size_bytes = 2 * int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  std::error_code error;
  std::filesystem::resize_file(dir / "sparse", static_cast<uintmax_t>(size_bytes), error);
  if (error) GTEST_SKIP() << "no sparse file of " << size_bytes << " bytes: " << error.message();
  const absl::StatusOr<MappedFile> file = MappedFile::Open(dir / "sparse");
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(file->bytes().size(), static_cast<size_t>(size_bytes));
  EXPECT_EQ(AsText(file->bytes().first(5)), "begin");
  EXPECT_EQ(file->bytes().back(), std::byte{0});
}

TEST(MappedFileTest, RefusesWhatIsNoRegularFileByName) {
  const TempDir dir;
  ExpectError(MappedFile::Open(dir / "none").status(), absl::StatusCode::kNotFound,
              {dir / "none", "No such file"});
  ExpectError(MappedFile::Open(dir.path()).status(), absl::StatusCode::kInvalidArgument,
              {dir.path(), "is a directory"});
  ASSERT_EQ(mkfifo((dir / "pipe").c_str(), 0600), 0);  // which has no writer: must not wait for one
  ExpectError(MappedFile::Open(dir / "pipe").status(), absl::StatusCode::kInvalidArgument,
              {dir / "pipe", "is a pipe or a device"});
}

}  // namespace
}  // namespace quantd
