#ifndef QUANTD_SERVER_NET_FRAME_WALKER_H_
#define QUANTD_SERVER_NET_FRAME_WALKER_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace quantd {

// Types and flags of HTTP/2 frames: RFC 9113, section 6.
enum FrameType : uint8_t {
  kDataFrame = 0,
  kHeadersFrame = 1,
  kPriorityFrame = 2,
  kResetFrame = 3,
  kSettingsFrame = 4,
  kPingFrame = 6,
  kWindowUpdateFrame = 8,
  kContinuationFrame = 9,
};
inline constexpr uint8_t kEndStreamFlag = 0x1;   // of DATA and HEADERS
inline constexpr uint8_t kAckFlag = 0x1;         // of SETTINGS and PING
inline constexpr uint8_t kEndHeadersFlag = 0x4;  // of HEADERS and CONTINUATION
inline constexpr uint8_t kPaddedFlag = 0x8;
inline constexpr uint8_t kPriorityFlag = 0x20;  // of HEADERS

// | u24 length of the payload | u8 type | u8 flags | 1 bit reserved, u31 stream |
struct FrameHead {
  uint32_t length = 0;
  uint8_t type = 0;
  uint8_t flags = 0;
  uint32_t stream = 0;
};

// Finds the frames in the bytes of one direction of an HTTP/2 connection, however these are cut.
// Looks at nothing but heads, and hands over the payload of header blocks; all other payload is
// stepped over. Bytes that are no HTTP/2 have no frames. Not thread-safe.
class FrameWalker {
 public:
  class Visitor {
   public:
    virtual ~Visitor() = default;
    // A frame begins.
    virtual void OnHead(const FrameHead& head) = 0;
    // The next bytes of the payload of the HEADERS or CONTINUATION frame that began last.
    virtual void OnHeaderBytes(absl::string_view bytes) = 0;
  };
  // The direction of a client begins with the preface, without which nothing is walked.
  explicit FrameWalker(bool begins_with_preface);

  // Takes the next bytes of the connection.
  void Walk(absl::string_view bytes, Visitor& visitor);

  // How many bytes of payload DATA frames have had.
  int64_t data_bytes() const { return data_bytes_; }

 private:
  static constexpr size_t kHeadBytes = 9;
  // Returns how many of `bytes` the preface takes.
  size_t TakePreface(absl::string_view bytes);
  size_t TakeHead(absl::string_view bytes, Visitor& visitor);

  size_t preface_left_;
  bool is_http2_ = true;
  std::array<char, kHeadBytes> head_bytes_ = {};
  size_t head_filled_ = 0;
  size_t payload_left_ = 0;
  bool is_header_block_ = false;  // the frame whose payload is left; likewise
  bool is_data_ = false;
  int64_t data_bytes_ = 0;
};

// Measures a header block (RFC 7541) without decoding it: a reference to the table is one byte that
// stands for a whole field, so that bytes alone do not bound what a block becomes.
// Not thread-safe.
class HeaderBlockMeter {
 public:
  HeaderBlockMeter() = default;
  // Of a block before which the first frame has `skipped` bytes of its own.
  explicit HeaderBlockMeter(size_t skipped) : skip_(skipped) {}
  // Takes the next bytes of the block.
  void Add(absl::string_view bytes);

  int64_t bytes() const { return bytes_; }
  int64_t fields() const { return fields_; }

 private:
  // What the next byte begins, or goes on with.
  enum class State { kField, kName, kValue, kNumber };
  void BeginField(uint8_t byte);
  // A number of which `mask` are the bits in its first byte; `next` comes behind it, or behind the
  // string whose length it is.
  void BeginNumber(uint8_t byte, uint8_t mask, State next, bool is_length);
  void GoOnWithNumber(uint8_t byte);
  void EndNumber();

  int64_t bytes_ = 0;
  int64_t fields_ = 0;
  uint64_t skip_ = 0;  // bytes to step over before the next state
  State state_ = State::kField;
  uint64_t number_ = 0;  // and of a number that goes on
  int shift_ = 0;
  State next_ = State::kField;
  bool is_length_ = false;
};

}  // namespace quantd

#endif  // QUANTD_SERVER_NET_FRAME_WALKER_H_
