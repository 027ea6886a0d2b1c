// The walk over HTTP/2 frames, in pieces against a plain parser of the whole. Input: a byte, the
// length of pieces; what a client sends behind the preface.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "server/net/frame_walker.h"
#include "tests/fuzz/fuzz_input.h"

namespace quantd::fuzz {
namespace {

constexpr absl::string_view kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

std::string TextOf(const FrameHead& head) {
  return absl::StrCat(" ", head.length, "/", int{head.type}, "/", int{head.flags}, "@", head.stream,
                      ":");
}

// Tells the frames and the bytes of header blocks, and measures all of these as one block.
class Story final : public FrameWalker::Visitor {
 public:
  void OnHead(const FrameHead& head) override { text_ += TextOf(head); }
  void OnHeaderBytes(absl::string_view bytes) override {
    absl::StrAppend(&text_, bytes);
    block_.Add(bytes);
  }
  const std::string& text() const { return text_; }
  const HeaderBlockMeter& block() const { return block_; }

 private:
  std::string text_;
  HeaderBlockMeter block_;
};

// The same, by somebody who has all bytes; `block` gets those of header blocks.
std::string WholeStory(absl::string_view bytes, std::string& block) {
  const auto byte = [&](size_t i) { return static_cast<uint32_t>(static_cast<uint8_t>(bytes[i])); };
  std::string text;
  while (bytes.size() >= 9) {
    FrameHead head;
    head.length = byte(0) << 16 | byte(1) << 8 | byte(2);
    head.type = static_cast<uint8_t>(byte(3));
    head.flags = static_cast<uint8_t>(byte(4));
    head.stream = (byte(5) << 24 | byte(6) << 16 | byte(7) << 8 | byte(8)) & 0x7fffffff;
    const absl::string_view payload = bytes.substr(9, head.length);
    text += TextOf(head);
    if (head.type == kHeadersFrame || head.type == kContinuationFrame) {
      absl::StrAppend(&text, payload);
      absl::StrAppend(&block, payload);
    }
    bytes.remove_prefix(9 + payload.size());
  }
  return text;
}

void Run(FuzzInput input) {
  const size_t piece_bytes = size_t{1} + input.Byte();
  const absl::string_view frames = input.RestText();
  const std::string all = absl::StrCat(kPreface, frames);
  FrameWalker walker(/*begins_with_preface=*/true);
  Story story;
  for (size_t at = 0; at < all.size(); at += piece_bytes) {
    walker.Walk(absl::string_view(all).substr(at, piece_bytes), story);
  }
  std::string block;
  Require(story.text() == WholeStory(frames, block), "frames depend on how they are cut");
  HeaderBlockMeter meter;
  meter.Add(block);
  Require(meter.fields() == story.block().fields() && meter.bytes() == story.block().bytes(),
          "a block's measure depends on how it is cut");
  Require(meter.fields() <= meter.bytes(), "more fields than bytes");
}

}  // namespace
}  // namespace quantd::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size_bytes) {
  quantd::fuzz::Run(quantd::fuzz::FuzzInput(data, size_bytes));
  return 0;
}
