// Frames as they come from gRPC, cut anywhere, against protobuf's own parser.
// Input: | u8 kind of frame | u8 seed of the cuts | message |
#include <algorithm>
#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "proto/frame_codec.h"
#include "quantd/v1/quantization.pb.h"
#include "tests/fuzz/fuzz_input.h"

namespace quantd::fuzz {
namespace {

grpc::ByteBuffer CutBuffer(absl::string_view message, uint32_t seed) {
  std::mt19937 rng(seed);
  std::vector<grpc::Slice> slices;
  while (!message.empty()) {
    const size_t size = seed == 0 ? message.size() : rng() % 23;  // none at times
    slices.emplace_back(message.substr(0, size).data(), std::min(size, message.size()));
    message.remove_prefix(std::min(size, message.size()));
  }
  return grpc::ByteBuffer(slices.data(), slices.size());
}

std::string DataOf(const ParsedFrame& frame) {
  std::string data;
  for (const std::span<const std::byte> piece : frame.data) {
    Require(!piece.empty(), "an empty piece of data");
    data.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  }
  Require(data.size() == frame.data_bytes, "data_bytes is not the size of the data");
  return data;
}

// Offset and size of the shared range; -1 where there is none.
std::pair<int64_t, int64_t> RangeOf(const ParsedFrame& frame) {
  if (!frame.shared.has_value()) return {-1, -1};
  return {frame.shared->offset, frame.shared->size_bytes};
}

void RequireEqual(const ParsedFrame& a, const ParsedFrame& b) {
  Require(a.tensor_id == b.tensor_id && a.kind == b.kind && a.message == b.message &&
              a.plane == b.plane && a.offset == b.offset && a.crc32c == b.crc32c &&
              DataOf(a) == DataOf(b) && RangeOf(a) == RangeOf(b) &&
              a.frames.size() == b.frames.size(),
          "two ways to the same frame give different ones");
}

void RequireSameMessage(const google::protobuf::MessageLite& expected, const std::string& bytes) {
  const std::unique_ptr<google::protobuf::MessageLite> message(expected.New());
  Require(message->ParseFromString(bytes), "protobuf refuses a part of what it takes as a whole");
  Require(message->SerializeAsString() == expected.SerializeAsString(), "another message");
}

std::string BytesOf(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  Require(buffer.Dump(&slices).ok(), "a part cannot be read");
  std::string bytes;
  for (const grpc::Slice& slice : slices) bytes.append(slice.begin(), slice.end());
  return bytes;
}

template <typename Message>
void RequireSame(const ParsedFrame& frame, const Message& message) {
  if constexpr (!std::is_same_v<Message, v1::CalibrateRequest>) {
    Require(frame.tensor_id == message.tensor_id(), "another tensor_id");
    Require(std::ssize(frame.frames) == message.frames_size(), "other frames");
    for (int i = 0; i < message.frames_size(); ++i) {
      RequireSameMessage(message.frames(i), BytesOf(frame.frames[static_cast<size_t>(i)]));
    }
  } else {
    Require(frame.frames.empty(), "frames where there are none");
  }
  switch (frame.kind) {
    case FrameKind::kNone:
      Require(message.frame_case() == Message::FRAME_NOT_SET, "a frame is missed");
      break;
    case FrameKind::kStart:
      Require(message.has_start(), "no start");
      RequireSameMessage(message.start(), frame.message);
      break;
    case FrameKind::kChunk:
      Require(message.has_chunk(), "no chunk");
      Require(frame.plane == message.chunk().plane() && frame.offset == message.chunk().offset() &&
                  frame.crc32c.has_value() == message.chunk().has_crc32c() &&
                  frame.crc32c.value_or(0) == message.chunk().crc32c() &&
                  DataOf(frame) == message.chunk().data() &&
                  frame.shared.has_value() == message.chunk().has_shared(),
              "another chunk");
      if (!frame.shared.has_value()) break;
      Require(frame.shared->offset == message.chunk().shared().offset() &&
                  frame.shared->size_bytes == message.chunk().shared().size_bytes(),
              "another shared range");
      break;
    case FrameKind::kEnd:
      Require(message.has_end(), "no end");
      RequireSameMessage(message.end(), frame.message);
      break;
    case FrameKind::kError:
      if constexpr (std::is_same_v<Message, v1::StreamingQuantizeResponse>) {
        Require(message.has_error(), "no error");
        RequireSameMessage(message.error(), frame.message);
      } else {
        Require(false, "an error in a request");
      }
      break;
    case FrameKind::kReleased:
      if constexpr (std::is_same_v<Message, v1::StreamingQuantizeResponse>) {
        Require(message.has_released(), "no released");
        RequireSameMessage(message.released(), frame.message);
      } else {
        Require(false, "a release in a request");
      }
      break;
  }
}

template <typename Message>
void Run(absl::string_view bytes, const FrameFields& fields, uint32_t seed) {
  const absl::StatusOr<ParsedFrame> frame = ParseFrame(CutBuffer(bytes, seed), fields);
  const absl::StatusOr<ParsedFrame> whole = ParseFrame(CutBuffer(bytes, 0), fields);
  Require(frame.status() == whole.status(), "cuts change the error");
  Message message;
  const bool parsed = message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
  if (!frame.ok()) {
    Require(absl::IsInvalidArgument(frame.status()), "another code than kInvalidArgument");
    // What is refused though protobuf takes it.
    const auto refused_for = [&frame](absl::string_view reason) {
      return absl::StrContains(frame.status().message(), reason);
    };
    Require(!parsed || refused_for("group") || refused_for("chunk.plane of") ||
                refused_for("beyond 64 bits") || refused_for("tag ") ||
                refused_for("more than 256 frames") || refused_for("behind the first"),
            "a well-formed frame is refused");
    return;
  }
  RequireEqual(*frame, *whole);
  if (parsed) RequireSame(*frame, message);
  if (frame->kind != FrameKind::kChunk) return;
  const std::string data = DataOf(*frame);
  if (frame->shared.has_value() && (!data.empty() || frame->crc32c.has_value())) return;
  const absl::StatusOr<ParsedFrame> again = ParseFrame(
      frame->shared.has_value() ? BuildSharedChunkFrame(fields, frame->tensor_id, frame->plane,
                                                        frame->offset, *frame->shared)
                                : BuildChunkFrame(fields, frame->tensor_id, frame->plane,
                                                  frame->offset, frame->crc32c, grpc::Slice(data)),
      fields);
  Require(again.ok(), "a built frame does not parse");
  RequireEqual(*frame, *again);
}

}  // namespace
}  // namespace quantd::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size_bytes) {
  using namespace quantd;  // NOLINT
  fuzz::FuzzInput in(data, size_bytes);
  const uint8_t kind = in.Byte() % 3;
  const uint8_t seed = in.Byte();
  if (kind == 0) fuzz::Run<v1::StreamingQuantizeRequest>(in.RestText(), kRequestFrame, seed);
  if (kind == 1) fuzz::Run<v1::StreamingQuantizeResponse>(in.RestText(), kResponseFrame, seed);
  if (kind == 2) fuzz::Run<v1::CalibrateRequest>(in.RestText(), kCalibrateFrame, seed);
  return 0;
}
