#include "server/net/frame_walker.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "tests/server/net/raw_frames.h"

namespace quantd::testing {
namespace {

// What a walk finds, as text: "1/5@3" is a frame of type 1 and flags 5 on stream 3, and what
// follows in brackets are its header bytes.
class Story final : public FrameWalker::Visitor {
 public:
  void OnHead(const FrameHead& head) override {
    absl::StrAppend(&text_, " ", int{head.type}, "/", int{head.flags}, "@", head.stream, ":");
  }
  void OnHeaderBytes(absl::string_view bytes) override { absl::StrAppend(&text_, bytes); }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

const std::string& Conversation() {
  static const std::string bytes = absl::StrCat(
      kPreface, Frame(kSettingsFrame, 0, 0, ""), Frame(kHeadersFrame, 0, 3, "abc"),
      Frame(kContinuationFrame, kEndHeadersFlag, 3, ""), Frame(kDataFrame, 1, 3, "no header"),
      Frame(kResetFrame, 0, 5, "1234"), Frame(kPingFrame, kAckFlag, 0, "12345678"),
      Frame(kHeadersFrame, kEndHeadersFlag, 0x7fffffff, "last"));
  return bytes;
}
constexpr char kItsStory[] =
    " 4/0@0: 1/0@3:abc 9/4@3: 0/1@3: 3/0@5: 6/1@0: 1/4@2147483647:last";

std::string StoryOf(const std::vector<absl::string_view>& pieces, bool has_preface = true) {
  FrameWalker walker(has_preface);
  Story story;
  for (const absl::string_view piece : pieces) walker.Walk(piece, story);
  return story.text();
}

TEST(FrameWalker, FindsFramesHoweverTheyAreCut) {
  const absl::string_view all = Conversation();
  EXPECT_EQ(StoryOf({all}), kItsStory);
  for (size_t i = 0; i <= all.size(); ++i) {
    for (size_t j = i; j <= all.size(); ++j) {
      ASSERT_EQ(StoryOf({all.substr(0, i), all.substr(i, j - i), all.substr(j)}), kItsStory)
          << i << ", " << j;
    }
  }
  std::vector<absl::string_view> bytes;
  for (size_t i = 0; i < all.size(); ++i) bytes.push_back(all.substr(i, 1));
  EXPECT_EQ(StoryOf(bytes), kItsStory);
}

TEST(FrameWalker, TheServersDirectionHasNoPreface) {
  EXPECT_EQ(StoryOf({absl::string_view(Conversation()).substr(kPreface.size())}, false), kItsStory);
}

TEST(FrameWalker, WhatIsNotHttp2HasNoFrames) {
  const std::string frames = Conversation().substr(kPreface.size());
  EXPECT_EQ(StoryOf({"POST / HTTP/1.1\r\nhost: example\r\n\r\n", frames}), "");
  EXPECT_EQ(StoryOf({kPreface.substr(0, 23), "x", frames}), "");
}

TEST(FrameWalker, StepsOverPayloadOfAnyLength) {
  const std::string large(0xffffff, 'x');
  FrameWalker walker(/*begins_with_preface=*/false);
  Story story;
  walker.Walk(Frame(kDataFrame, 0, 1, large), story);
  walker.Walk(Frame(kResetFrame, 0, 1, "1234"), story);
  EXPECT_EQ(story.text(), " 0/0@1: 3/0@1:");
}

// A block, and the number of its fields.
struct Block {
  std::string bytes;
  int64_t fields;
};

std::vector<Block> Blocks() {
  return {
      {"", 0},
      {"\x82", 1},                                         // an index
      {std::string(300, '\xbe'), 300},                     // references to one entry
      {std::string("\xff\x80\x01\x82", 4), 2},             // an index of several bytes
      {absl::StrCat("\x44", Text("/path"), "\x82"), 2},    // a name of the table, to be kept
      {absl::StrCat(std::string(1, 0), Text("name"), Text("value"), "\x82"), 2},
      {absl::StrCat("\x40", Text("name"), Text(std::string(200, '\x82')), "\x82"), 2},
      {absl::StrCat("\x10", Text(""), Text(""), "\x0f\x80\x01", Text("v")), 2},
      {absl::StrCat("\x3f\xe1\x1f", "\x20", "\x82"), 1},   // sizes of the table are no fields
      {absl::StrCat("\x40", "\x85" "abcde", Text("v")), 1},  // by Huffman
      {absl::StrCat("\x40", "\x7f\xff\xff\xff\xff\x0f", std::string(1000, '\x82')), 1},
      {std::string("\x40\x7f\x81\x80\x80\x80\x80\x80\x80\x00", 10), 1},  // zeros behind a number
  };
}

TEST(HeaderBlockMeter, CountsFieldsHoweverABlockIsCut) {
  for (const Block& block : Blocks()) {
    const absl::string_view all = block.bytes;
    for (size_t i = 0; i <= all.size(); ++i) {
      HeaderBlockMeter meter;
      meter.Add(all.substr(0, i));
      meter.Add(all.substr(i));
      ASSERT_EQ(meter.fields(), block.fields) << "cut at " << i << " of " << all.size();
      ASSERT_EQ(meter.bytes(), static_cast<int64_t>(all.size()));
    }
  }
}

TEST(HeaderBlockMeter, SkipsWhatBelongsToTheFrame) {
  HeaderBlockMeter meter(5);
  meter.Add(std::string("\x82\x82", 2));
  meter.Add(std::string("\x82\x82\x82\x82", 4));
  EXPECT_EQ(meter.fields(), 1);
}

}  // namespace
}  // namespace quantd::testing
