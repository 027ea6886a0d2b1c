#include "core/io/output_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/core/io/io_test_util.h"

namespace quantd {
namespace {

using io_test::AsBytes;
using io_test::ExpectError;
using io_test::GetFile;
using io_test::PutFile;
using testing::TempDir;
using ::testing::Test;

using Names = std::vector<std::string>;

TEST(OutputFileTest, AppearsCompleteAndOnlyThen) {
  const TempDir dir;
  absl::StatusOr<OutputFile> file = OutputFile::Create(dir / "out", 10);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE(file->WriteAt(6, AsBytes("WXYZ")).ok());
  EXPECT_TRUE(file->WriteAt(0, AsBytes("abc")).ok());
  EXPECT_FALSE(std::filesystem::exists(dir / "out"));
  ASSERT_TRUE(file->Commit().ok());
  EXPECT_EQ(GetFile(dir / "out"), std::string("abc\0\0\0WXYZ", 10));
  EXPECT_EQ(dir.Names(), Names{"out"});
  EXPECT_EQ(file->WriteAt(0, AsBytes("a")).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(file->Commit().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(OutputFileTest, LeavesNothingBehindWhenAbandoned) {
  const TempDir dir;
  PutFile(dir / "out", "the old content");
  {
    absl::StatusOr<OutputFile> file = OutputFile::Create(dir / "out", 5);
    ASSERT_TRUE(file.ok()) << file.status();
    OutputFile moved = *std::move(file);
    EXPECT_TRUE(moved.WriteAt(0, AsBytes("half")).ok());
  }
  EXPECT_EQ(dir.Names(), Names{"out"});
  EXPECT_EQ(GetFile(dir / "out"), "the old content");
}

TEST(OutputFileTest, AppearsCompleteAndOnlyThenUnderATemporaryNameToo) {
  const TempDir dir;
  PutFile(dir / "out", "the old content");
  {
    absl::StatusOr<OutputFile> file = OutputFile::Create(dir / "out", 5, /*may_be_unnamed=*/false);
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_TRUE(file->WriteAt(0, AsBytes("half")).ok());
    EXPECT_EQ(dir.Names().size(), 2u);
  }
  EXPECT_EQ(dir.Names(), Names{"out"});
  EXPECT_EQ(GetFile(dir / "out"), "the old content");
  absl::StatusOr<OutputFile> file = OutputFile::Create(dir / "out", 5, /*may_be_unnamed=*/false);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE(file->WriteAt(0, AsBytes("whole")).ok());
  ASSERT_TRUE(file->Commit().ok());
  EXPECT_EQ(dir.Names(), Names{"out"});
  EXPECT_EQ(GetFile(dir / "out"), "whole");
}

TEST(OutputFileTest, HasNoNameBeforeItIsComplete) {
  const TempDir dir;
  const int probe = open((dir / ".").c_str(), O_TMPFILE | O_WRONLY, 0600);
  if (probe < 0) GTEST_SKIP() << "the file system has no files without names";
  close(probe);
  for (const char* old : {"", "the old content"}) {
    if (*old != '\0') PutFile(dir / "out", old);
    const Names before = dir.Names();
    absl::StatusOr<OutputFile> file = OutputFile::Create(dir / "out", 3);
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_TRUE(file->WriteAt(0, AsBytes("new")).ok());
    EXPECT_EQ(dir.Names(), before);
    ASSERT_TRUE(file->Commit().ok());
    EXPECT_EQ(dir.Names(), Names{"out"});
    EXPECT_EQ(GetFile(dir / "out"), "new");
  }
}

TEST(OutputFileTest, ReplacesAFileAndHonoursTheUmask) {
  const TempDir dir;
  PutFile(dir / "out", "the old content");
  const mode_t old_mask = umask(027);
  absl::StatusOr<OutputFile> file = OutputFile::Create(dir / "out", 3);
  umask(old_mask);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE(file->WriteAt(0, AsBytes("new")).ok());
  ASSERT_TRUE(file->Commit().ok());
  EXPECT_EQ(GetFile(dir / "out"), "new");
  struct stat info;
  ASSERT_EQ(stat((dir / "out").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0640u);
}

TEST(OutputFileTest, WritesWhereALinkPoints) {
  const TempDir dir;
  PutFile(dir / "target", "old");
  std::filesystem::create_symlink("target", dir / "link");
  absl::StatusOr<OutputFile> file = OutputFile::Create(dir / "link", 3);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE(file->WriteAt(0, AsBytes("new")).ok());
  ASSERT_TRUE(file->Commit().ok());
  EXPECT_EQ(GetFile(dir / "target"), "new");
  EXPECT_TRUE(std::filesystem::is_symlink(dir / "link"));
}

TEST(OutputFileTest, TakesALongName) {
  const TempDir dir;
  const std::string name(255, 'n');
  absl::StatusOr<OutputFile> file = OutputFile::Create(dir / name, 0);
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_TRUE(file->Commit().ok());
  EXPECT_EQ(dir.Names(), Names{name});
}

TEST(OutputFileTest, RefusesWhatCannotBeWrittenAtOnce) {
  const TempDir dir;
  PutFile(dir / "file", "");
  std::filesystem::create_symlink("nothing", dir / "dangling");
  const struct {
    std::string path;
    absl::StatusCode code;
    std::string reason;
  } kCases[] = {
      {dir / "none/out", absl::StatusCode::kNotFound, "No such file"},
      {dir / "file/out", absl::StatusCode::kFailedPrecondition, "Not a directory"},
      {dir.path(), absl::StatusCode::kInvalidArgument, "is a directory"},
      {dir / "new/", absl::StatusCode::kInvalidArgument, "not the name of a file"},
      {"", absl::StatusCode::kInvalidArgument, "not the name of a file"},
      {"/dev/full", absl::StatusCode::kInvalidArgument, "a device"},
      {dir / "dangling", absl::StatusCode::kInvalidArgument, "symbolic link to nothing"},
      {dir / std::string(300, 'n'), absl::StatusCode::kInvalidArgument, "name too long"},
  };
  for (const auto& c : kCases) {
    const absl::Status status = OutputFile::Create(c.path, 1).status();
    ExpectError(status, c.code, {c.path, c.reason});
  }
  EXPECT_EQ(dir.Names(), (Names{"dangling", "file"}));
}

TEST(OutputFileTest, RefusesAReadOnlyTarget) {
  if (geteuid() == 0) GTEST_SKIP() << "root may write everything";
  const TempDir dir;
  PutFile(dir / "out", "");
  ASSERT_EQ(chmod((dir / "out").c_str(), 0444), 0);
  ExpectError(OutputFile::Create(dir / "out", 1).status(), absl::StatusCode::kPermissionDenied,
              {dir / "out"});
}

TEST(OutputFileTest, KeepsWritesWithinTheFile) {
  const TempDir dir;
  absl::StatusOr<OutputFile> file = OutputFile::Create(dir / "out", 4);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE(file->WriteAt(4, {}).ok());
  for (const int64_t offset : {int64_t{3}, int64_t{5}, int64_t{-1}, INT64_MAX, INT64_MIN}) {
    EXPECT_EQ(file->WriteAt(offset, AsBytes("ab")).code(), absl::StatusCode::kOutOfRange) << offset;
  }
}

TEST(OutputFileTest, TakesWritesFromSeveralThreads) {
  const TempDir dir;
  constexpr int kThreads = 4, kPieces = 64;
  absl::StatusOr<OutputFile> file = OutputFile::Create(dir / "out", kThreads * kPieces);
  ASSERT_TRUE(file.ok()) << file.status();
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&file, t] {
      const char letter = static_cast<char>('a' + t);
      for (int i = 0; i < kPieces; ++i) {
        EXPECT_TRUE(file->WriteAt(i * kThreads + t, AsBytes({&letter, 1})).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  ASSERT_TRUE(file->Commit().ok());
  std::string expected;
  for (int i = 0; i < kPieces; ++i) expected += "abcd";
  EXPECT_EQ(GetFile(dir / "out"), expected);
}

TEST(WriteFullyAtTest, ReportsAFullDeviceWithPathAndProgress) {
  const int fd = open("/dev/full", O_WRONLY);
  if (fd < 0) GTEST_SKIP() << "no /dev/full here";
  ExpectError(WriteFullyAt(fd, "/the/path", 7, AsBytes("abc")),
              absl::StatusCode::kResourceExhausted,
              {"/the/path", "wrote 0 of 3 bytes at 7", "No space left"});
  close(fd);
}

// Limits how large a file this process may write, so that a write comes back short.
class ScopedFileSizeLimit {
 public:
  explicit ScopedFileSizeLimit(rlim_t limit_bytes) : old_handler_(signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &old_limit_);
    const rlimit limit = {limit_bytes, old_limit_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~ScopedFileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &old_limit_);
    signal(SIGXFSZ, old_handler_);
  }

 private:
  sighandler_t old_handler_;
  rlimit old_limit_;
};

TEST(WriteFullyAtTest, ReportsHowFarAShortWriteCame) {
  const TempDir dir;
  const int fd = open((dir / "out").c_str(), O_WRONLY | O_CREAT, 0600);
  ASSERT_GE(fd, 0);
  {
    const ScopedFileSizeLimit limit(100);
    ExpectError(WriteFullyAt(fd, "/the/path", 40, AsBytes(std::string(100, 'x'))),
                absl::StatusCode::kOutOfRange,
                {"/the/path", "wrote 60 of 100 bytes at 40", "File too large"});
  }
  close(fd);
}

TEST(OutputFileTest, NoticesBeforeTheWorkThatAFileWillNotFit) {
  const TempDir dir;
  {
    const ScopedFileSizeLimit limit(100);
    ExpectError(OutputFile::Create(dir / "out", 101).status(), absl::StatusCode::kOutOfRange,
                {dir / "out", "101"});
    EXPECT_TRUE(OutputFile::Create(dir / "out", 100).ok());
  }
  EXPECT_EQ(dir.Names(), Names{});
}

TEST(OutputFileTest, NoticesAFullDisk) {
  const TempDir dir;
  if (mount("none", dir.path().c_str(), "tmpfs", 0, "size=64k") != 0) {
    GTEST_SKIP() << "mounting a small disk needs more rights: " << strerror(errno);
  }
  const absl::Status status = OutputFile::Create(dir / "out", int64_t{1} << 20).status();
  const Names left = dir.Names();
  absl::StatusOr<OutputFile> small = OutputFile::Create(dir / "small", 4096);
  EXPECT_TRUE(small.ok()) << small.status();
  small = absl::CancelledError();  // closes the file, so that the disk can be unmounted
  ASSERT_EQ(umount(dir.path().c_str()), 0) << strerror(errno);
  ExpectError(status, absl::StatusCode::kResourceExhausted,
              {dir / "out", "1048576", "No space left"});
  EXPECT_EQ(left, Names{});
}

}  // namespace
}  // namespace quantd
