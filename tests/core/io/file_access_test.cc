#include "core/io/file_access.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <string>

namespace quantd {
namespace {

struct stat FileOf(mode_t mode, gid_t group) {
  struct stat info = {};
  info.st_mode = S_IFREG | mode;
  info.st_gid = group;
  return info;
}

TEST(FileAccessTest, OfOurGroupAllBitsCount) {
  const std::string path = ::testing::TempDir() + "new";
  for (const mode_t mode : {0600, 0640, 0644, 0660, 0666, 0604, 0622, 0664}) {
    EXPECT_EQ(NoWiderThan(FileOf(mode, getegid()), path), mode);
  }
  EXPECT_EQ(NoWiderThan(FileOf(0444, getegid()), path), mode_t{0644});
  EXPECT_EQ(NoWiderThan(FileOf(0755, getegid()), path), mode_t{0644});
}

TEST(FileAccessTest, AnotherGroupIsNotOurs) {
  const std::string path = ::testing::TempDir() + "new";
  const gid_t other = getegid() + 1;
  EXPECT_EQ(NoWiderThan(FileOf(0640, other), path), mode_t{0600});
  EXPECT_EQ(NoWiderThan(FileOf(0660, other), path), mode_t{0600});
  EXPECT_EQ(NoWiderThan(FileOf(0644, other), path), mode_t{0644});
  // Keeps that group out, which are others to us.
  EXPECT_EQ(NoWiderThan(FileOf(0604, other), path), mode_t{0600});
}

// Every mode, of our group and of another: whoever may read the new file might read the other one.
TEST(FileAccessTest, NobodyGainsAnything) {
  const std::string path = ::testing::TempDir() + "new";
  const gid_t ours = getegid();
  for (const gid_t theirs : {ours, ours + 1}) {
    for (mode_t mode = 0; mode < 01000; ++mode) {
      const mode_t made = NoWiderThan(FileOf(mode, theirs), path);
      for (const gid_t reader : {ours, ours + 1, ours + 2}) {
        const auto may_read = [reader](mode_t bits, gid_t group) {
          return (bits & (reader == group ? S_IRGRP : S_IROTH)) != 0;
        };
        EXPECT_TRUE(may_read(mode, theirs) || !may_read(made, ours)) << std::oct << mode;
      }
    }
  }
}

}  // namespace
}  // namespace quantd
