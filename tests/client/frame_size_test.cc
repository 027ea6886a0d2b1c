#include "client/frame_size.h"

#include "gtest/gtest.h"

namespace quantd {
namespace {

// Sends 40 frames over a link of so many bytes a second and returns the last one's size.
int64_t SizeAfterAWhile(FrameSize& size, double bytes_per_second) {
  absl::Time now = absl::UnixEpoch();
  int64_t bytes = 0;
  for (int frame = 0; frame < 40; ++frame) {
    bytes = size.Next(now);
    now += absl::Seconds(static_cast<double>(bytes) / bytes_per_second);
  }
  return bytes;
}

TEST(FrameSizeTest, GrowsWhereFramesGoOutAtOnce) {
  FrameSize size(0);
  EXPECT_EQ(size.Next(absl::UnixEpoch()), int64_t{1} << 20);
  EXPECT_EQ(SizeAfterAWhile(size, 20e9), int64_t{4} << 20);
}

TEST(FrameSizeTest, StaysAtAGigabyteASecond) {
  FrameSize size(0);
  EXPECT_EQ(SizeAfterAWhile(size, 1.5e9), int64_t{1} << 20);
}

TEST(FrameSizeTest, ShrinksOnASlowLinkAndGrowsAgain) {
  FrameSize size(0);
  EXPECT_EQ(SizeAfterAWhile(size, 10e6), int64_t{256} << 10);
  EXPECT_EQ(SizeAfterAWhile(size, 20e9), int64_t{4} << 20);
}

TEST(FrameSizeTest, OneThatIsGivenStays) {
  FrameSize size(4096);
  EXPECT_EQ(SizeAfterAWhile(size, 10e6), 4096);
  EXPECT_EQ(SizeAfterAWhile(size, 20e9), 4096);
}

}  // namespace
}  // namespace quantd
