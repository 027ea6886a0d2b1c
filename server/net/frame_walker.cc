// Where the frames of an HTTP/2 connection lie. A frame is a head of nine bytes and a payload whose
// length the head says, so that a walk touches nine bytes of each frame and steps over the rest:
//
//   | PRI * HTTP/2.0...SM | head | payload | head | payload ...     whatever the cuts of the reads
//     24 bytes, once         9      length
//
// gRPC refuses what is malformed, and what it refuses ends the connection. So the walk need not
// judge; it must only never lose track of bytes that gRPC goes on with.
//
// Entries: FrameWalker::Walk, HeaderBlockMeter::Add. Tested by
// tests/server/net/frame_walker_test.cc, and against a parser of whole inputs by
// tests/fuzz/frame_walker_fuzz.cc.
#include "server/net/frame_walker.h"

#include <algorithm>
#include <cstring>

namespace quantd {
namespace {

constexpr absl::string_view kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
// gRPC takes numbers of 32 bits; what goes on behind them are zeros, or an error.
constexpr int kMaxNumberShift = 28;

uint32_t Big(const uint8_t* bytes, int count) {
  uint32_t value = 0;
  for (int i = 0; i < count; ++i) value = value << 8 | bytes[i];
  return value;
}

}  // namespace

FrameWalker::FrameWalker(bool begins_with_preface)
    : preface_left_(begins_with_preface ? kPreface.size() : 0) {}

void FrameWalker::Walk(absl::string_view bytes, Visitor& visitor) {
  if (preface_left_ > 0) bytes.remove_prefix(TakePreface(bytes));
  while (!bytes.empty() && is_http2_) {
    if (payload_left_ == 0) {
      bytes.remove_prefix(TakeHead(bytes, visitor));
      continue;
    }
    const absl::string_view payload = bytes.substr(0, payload_left_);
    if (is_header_block_) visitor.OnHeaderBytes(payload);
    if (is_data_) data_bytes_ += static_cast<int64_t>(payload.size());
    payload_left_ -= payload.size();
    bytes.remove_prefix(payload.size());
  }
}

size_t FrameWalker::TakePreface(absl::string_view bytes) {
  const size_t count = std::min(bytes.size(), preface_left_);
  is_http2_ = is_http2_ && bytes.substr(0, count) ==
                               kPreface.substr(kPreface.size() - preface_left_, count);
  preface_left_ -= count;
  return count;
}

size_t FrameWalker::TakeHead(absl::string_view bytes, Visitor& visitor) {
  const size_t count = std::min(bytes.size(), kHeadBytes - head_filled_);
  std::memcpy(head_bytes_.data() + head_filled_, bytes.data(), count);
  head_filled_ += count;
  if (head_filled_ < kHeadBytes) return count;
  head_filled_ = 0;
  const auto* const head = reinterpret_cast<const uint8_t*>(head_bytes_.data());
  payload_left_ = Big(head, 3);
  is_header_block_ = head[3] == kHeadersFrame || head[3] == kContinuationFrame;
  is_data_ = head[3] == kDataFrame;
  visitor.OnHead({.length = static_cast<uint32_t>(payload_left_),
                  .type = head[3],
                  .flags = head[4],
                  .stream = Big(head + 5, 4) & 0x7fffffff});
  return count;
}

void HeaderBlockMeter::Add(absl::string_view bytes) {
  bytes_ += static_cast<int64_t>(bytes.size());
  while (!bytes.empty()) {
    if (skip_ > 0) {
      const size_t count = std::min<uint64_t>(skip_, bytes.size());
      skip_ -= count;
      bytes.remove_prefix(count);
      continue;
    }
    const auto byte = static_cast<uint8_t>(bytes.front());
    bytes.remove_prefix(1);
    switch (state_) {
      case State::kField:
        BeginField(byte);
        break;
      case State::kName:
        BeginNumber(byte, 0x7f, State::kValue, /*is_length=*/true);
        break;
      case State::kValue:
        BeginNumber(byte, 0x7f, State::kField, /*is_length=*/true);
        break;
      case State::kNumber:
        GoOnWithNumber(byte);
        break;
    }
  }
}

// RFC 7541, section 6: | 1 index | 01 index | 001 table size | 0000 index | 0001 index |; an index
// of 0 stands for a name that follows.
void HeaderBlockMeter::BeginField(uint8_t byte) {
  const bool is_table_size = (byte & 0xe0) == 0x20;
  if (!is_table_size) ++fields_;
  if ((byte & 0x80) != 0) return BeginNumber(byte, 0x7f, State::kField, /*is_length=*/false);
  if (is_table_size) return BeginNumber(byte, 0x1f, State::kField, /*is_length=*/false);
  const uint8_t mask = (byte & 0x40) != 0 ? 0x3f : 0x0f;
  const State next = (byte & mask) == 0 ? State::kName : State::kValue;
  BeginNumber(byte, mask, next, /*is_length=*/false);
}

void HeaderBlockMeter::BeginNumber(uint8_t byte, uint8_t mask, State next, bool is_length) {
  number_ = byte & mask;
  shift_ = 0;
  next_ = next;
  is_length_ = is_length;
  state_ = State::kNumber;
  if (number_ < mask) EndNumber();
}

void HeaderBlockMeter::GoOnWithNumber(uint8_t byte) {
  if (shift_ <= kMaxNumberShift) number_ += uint64_t{byte & 0x7fu} << shift_;
  shift_ = std::min(shift_ + 7, kMaxNumberShift + 7);
  if ((byte & 0x80) == 0) EndNumber();
}

void HeaderBlockMeter::EndNumber() {
  state_ = next_;
  if (is_length_) skip_ = number_;
}

}  // namespace quantd
