#include "proto/frame_codec.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "quantd/v1/quantization.pb.h"

namespace quantd {
namespace {

using Response = v1::StreamingQuantizeResponse;
using Rng = std::mt19937_64;

constexpr uint64_t kSeed = 20240607;

int64_t Uniform(Rng& rng, int64_t min, int64_t max) {
  return std::uniform_int_distribution<int64_t>(min, max)(rng);
}

std::string RandomText(Rng& rng, int64_t max_bytes, bool ascii) {
  std::string text(static_cast<size_t>(Uniform(rng, 0, max_bytes)), '\0');
  for (char& c : text) c = static_cast<char>(ascii ? Uniform(rng, 'a', 'z') : Uniform(rng, 0, 255));
  return text;
}

// Cuts `bytes` into slices at random, empty ones included.
grpc::ByteBuffer Cut(const std::string& bytes, Rng& rng) {
  std::vector<grpc::Slice> slices;
  const int64_t max_piece = int64_t{1} << Uniform(rng, 0, 9);
  for (size_t at = 0; at < bytes.size() || slices.empty();) {
    const auto size = std::min(static_cast<size_t>(Uniform(rng, 0, max_piece)), bytes.size() - at);
    slices.emplace_back(bytes.data() + at, size);
    at += size;
  }
  return grpc::ByteBuffer(slices.data(), slices.size());
}

std::string Flatten(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  EXPECT_TRUE(buffer.Dump(&slices).ok());
  std::string bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return bytes;
}

std::string DataOf(const ParsedFrame& frame) {
  std::string data;
  for (const auto piece : frame.data) {
    data.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  }
  return data;
}

Response RandomResponse(Rng& rng, bool with_frames = true) {
  Response frame;
  frame.set_tensor_id(rng() >> Uniform(rng, 0, 63));
  if (with_frames && rng() % 4 == 0) {
    for (int64_t n = Uniform(rng, 1, 4); n > 0; --n) {
      *frame.add_frames() = RandomResponse(rng, /*with_frames=*/false);
    }
  }
  switch (Uniform(rng, 0, 6)) {
    case 0:
      frame.mutable_start()->mutable_tensor()->set_name(RandomText(rng, 40, true));
      frame.mutable_start()->mutable_tensor()->add_shape(Uniform(rng, -5, 1 << 30));
      break;
    case 1: {
      v1::Chunk& chunk = *frame.mutable_chunk();
      chunk.set_plane(RandomText(rng, 12, true));
      chunk.set_offset(static_cast<int64_t>(rng() >> Uniform(rng, 0, 63)));
      if (rng() % 2 == 0) chunk.set_crc32c(static_cast<uint32_t>(rng()));
      chunk.set_data(RandomText(rng, 2000, false));
      break;
    }
    case 2:
      frame.mutable_end()->mutable_report()->set_clipped(Uniform(rng, 0, 1000));
      break;
    case 4: {
      v1::SharedRange& range = *frame.mutable_chunk()->mutable_shared();
      range.set_offset(static_cast<int64_t>(rng() >> Uniform(rng, 0, 63)));
      range.set_size_bytes(static_cast<int64_t>(rng() >> Uniform(rng, 0, 63)));
      break;
    }
    case 5:
      frame.mutable_released()->add_offsets(Uniform(rng, 0, 1 << 30));
      break;
    case 3:
      frame.mutable_error()->set_message(RandomText(rng, 40, true));
      break;
    default:
      break;
  }
  return frame;
}

// Turns what ParseFrame gave back into a message.
Response ToMessage(const ParsedFrame& frame) {
  Response message;
  message.set_tensor_id(frame.tensor_id);
  for (const grpc::ByteBuffer& part : frame.frames) {
    const auto parsed = ParseFrame(part, kResponseFrame);
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    *message.add_frames() = ToMessage(*parsed);
  }
  switch (frame.kind) {
    case FrameKind::kNone:
      break;
    case FrameKind::kStart:
      EXPECT_TRUE(message.mutable_start()->ParseFromString(frame.message));
      break;
    case FrameKind::kEnd:
      EXPECT_TRUE(message.mutable_end()->ParseFromString(frame.message));
      break;
    case FrameKind::kError:
      EXPECT_TRUE(message.mutable_error()->ParseFromString(frame.message));
      break;
    case FrameKind::kReleased:
      EXPECT_TRUE(message.mutable_released()->ParseFromString(frame.message));
      break;
    case FrameKind::kChunk:
      if (frame.shared) {
        message.mutable_chunk()->mutable_shared()->set_offset(frame.shared->offset);
        message.mutable_chunk()->mutable_shared()->set_size_bytes(frame.shared->size_bytes);
      }
      message.mutable_chunk()->set_plane(frame.plane);
      message.mutable_chunk()->set_offset(frame.offset);
      if (frame.crc32c) message.mutable_chunk()->set_crc32c(*frame.crc32c);
      message.mutable_chunk()->set_data(DataOf(frame));
      EXPECT_EQ(frame.data_bytes, message.chunk().data().size());
      break;
  }
  return message;
}

TEST(ParseFrame, AgreesWithProtobufOnAnyCut) {
  Rng rng(kSeed);
  for (int i = 0; i < 5000; ++i) {
    const Response message = RandomResponse(rng);
    const auto frame = ParseFrame(Cut(message.SerializeAsString(), rng), kResponseFrame);
    ASSERT_TRUE(frame.ok()) << frame.status() << " seed " << kSeed << " step " << i;
    EXPECT_EQ(ToMessage(*frame).SerializeAsString(), message.SerializeAsString()) << i;
  }
}

TEST(TakeTogether, GivesBackWhatWentIn) {
  Rng rng(kSeed + 9);
  for (int i = 0; i < 300; ++i) {
    std::deque<grpc::ByteBuffer> queue;
    std::vector<std::string> sent, received;
    for (int64_t n = Uniform(rng, 1, 600); n > 0; --n) {
      Response response = RandomResponse(rng, /*with_frames=*/false);
      if (rng() % 20 == 0) response.mutable_chunk()->set_data(RandomText(rng, 200'000, false));
      sent.push_back(response.SerializeAsString());
      queue.push_back(Cut(sent.back(), rng));
    }
    const uint32_t field = i % 5 == 0 ? 0 : kResponseFrame.frames;
    while (!queue.empty()) {
      const Together next = TakeTogether(queue, field);
      if (next.num_frames == 1) {
        received.push_back(Flatten(next.message));
        EXPECT_EQ(received.back().size(), next.frame_bytes);
        continue;
      }
      EXPECT_NE(field, 0u);
      const auto parsed = ParseFrame(next.message, kResponseFrame);
      ASSERT_TRUE(parsed.ok()) << parsed.status();
      ASSERT_EQ(parsed->frames.size(), next.num_frames);
      size_t bytes = 0;
      for (const grpc::ByteBuffer& frame : parsed->frames) {
        received.push_back(Flatten(frame));
        bytes += frame.Length();
      }
      EXPECT_EQ(bytes, next.frame_bytes);
      EXPECT_LE(bytes - parsed->frames[0].Length(), kMaxBytesBehindFirst);
      Response message;
      ASSERT_TRUE(message.ParseFromString(Flatten(next.message)));
      EXPECT_EQ(message.frames_size(), std::ssize(parsed->frames));
    }
    EXPECT_TRUE(received == sent);
  }
}

TEST(ParseFrame, TakesSoManyFramesAtMost) {
  Response message;
  for (size_t i = 0; i < kMaxFramesTogether; ++i) message.add_frames()->set_tensor_id(i);
  EXPECT_EQ(ParseFrame(SerializeFrame(message), kResponseFrame)->frames.size(), kMaxFramesTogether);
  message.add_frames();
  const auto refused = ParseFrame(SerializeFrame(message), kResponseFrame);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(refused.status().message().find("more than 256 frames"), std::string::npos);
}

TEST(ParseFrame, TakesSoManyBytesBehindTheFirstFrame) {
  Response message;
  message.add_frames()->mutable_chunk()->set_data(std::string(1 << 20, 'x'));
  for (int i = 0; i < 2; ++i) message.add_frames()->mutable_chunk();
  std::string& data = *message.mutable_frames(1)->mutable_chunk()->mutable_data();
  data.resize(kMaxBytesBehindFirst - 10);
  const size_t more = kMaxBytesBehindFirst - message.frames(1).ByteSizeLong() -
                      message.frames(2).ByteSizeLong();
  data.resize(data.size() + more);
  EXPECT_EQ(ParseFrame(SerializeFrame(message), kResponseFrame)->frames.size(), 3u);
  data += 'x';
  const auto refused = ParseFrame(SerializeFrame(message), kResponseFrame);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(refused.status().message().find("more than 65536 bytes of frames behind the first"),
            std::string::npos);
}

TEST(ParseFrame, MergesRepeatedFieldsAsProtobufDoes) {
  Rng rng(kSeed + 1);
  for (int i = 0; i < 3000; ++i) {  // concatenated messages are a merged message
    std::string bytes;
    for (int64_t n = Uniform(rng, 2, 4); n > 0; --n) {
      bytes += RandomResponse(rng).SerializeAsString();
      if (rng() % 2 == 0) bytes += std::string("\x98\x3f\x07\xaa\x3f\x03xyz\x9d\x3f\1\2\3\4", 15);
    }
    Response expected;
    ASSERT_TRUE(expected.ParseFromString(bytes));
    expected.DiscardUnknownFields();
    const auto frame = ParseFrame(Cut(bytes, rng), kResponseFrame);
    ASSERT_TRUE(frame.ok()) << frame.status() << " step " << i;
    EXPECT_EQ(ToMessage(*frame).SerializeAsString(), expected.SerializeAsString()) << i;
  }
}

TEST(ParseFrame, NeverAcceptsWhatProtobufRefuses) {
  Rng rng(kSeed + 2);
  int refused = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string bytes = RandomResponse(rng).SerializeAsString();
    if (bytes.empty()) continue;
    for (int64_t n = Uniform(rng, 1, 3); n > 0; --n) {
      const auto at =
          static_cast<size_t>(Uniform(rng, 0, std::min<int64_t>(31, std::ssize(bytes) - 1)));
      bytes[at] = static_cast<char>(rng());
    }
    bytes.resize(static_cast<size_t>(Uniform(rng, 0, std::ssize(bytes))));
    const auto frame = ParseFrame(Cut(bytes, rng), kResponseFrame);
    if (!frame.ok()) {
      EXPECT_EQ(frame.status().code(), absl::StatusCode::kInvalidArgument);
      ++refused;
      continue;
    }
    // Submessages go to protobuf's own parser, frames to ours one by one, and the plane is compared
    // with known names, so what is ours to refuse is everything around them.
    const bool utf8 = std::all_of(frame->plane.begin(), frame->plane.end(),
                                  [](char c) { return static_cast<signed char>(c) >= 0; });
    if (frame->kind != FrameKind::kChunk || !utf8 || !frame->frames.empty()) continue;
    Response expected;
    ASSERT_TRUE(expected.ParseFromString(bytes)) << "seed " << kSeed << " step " << i;
    expected.DiscardUnknownFields();
    EXPECT_EQ(ToMessage(*frame).SerializeAsString(), expected.SerializeAsString()) << i;
  }
  EXPECT_GT(refused, 1000);
}

TEST(ParseFrame, RefusesMalformedInput) {
  const auto status_of = [](const std::string& bytes) {
    const grpc::Slice slice(bytes.data(), bytes.size());
    return ParseFrame(grpc::ByteBuffer(&slice, 1), kRequestFrame).status();
  };
  const std::pair<std::string, std::string> cases[] = {
      {std::string("\x08", 1), "truncated varint"},
      {std::string("\x08") + std::string(10, '\xff') + '\1', "varint beyond 64 bits"},
      {std::string("\x08") + std::string(9, '\xff') + '\2', "varint beyond 64 bits"},
      {std::string("\x1a\x7f", 2), "length 127 with 0 bytes left"},
      {std::string("\x1a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11), "bytes left"},
      {std::string("\x1a\x02\x22\x05"
                   "abcdef",
                   10),
       "length 5 with 0 bytes left"},
      {std::string("\x1a\x03\x1d\x01\x02", 5), "truncated fixed32"},
      {std::string("\x1a\x03\x1d\x01\x02\x03\x04", 7), "truncated fixed32"},
      {std::string("\x0b\x0c", 2), "group"},
      {std::string("\x0c", 1), "group"},
      {std::string("\x0f\x01", 2), "wire type 7"},
      {std::string("\x02\x01", 2), "tag 2"},
      {std::string("\xf8\xff\xff\xff\xff\x7f\x01", 7), "tag"},
      {std::string("\x49\x01\x02", 3), "truncated fixed-size field"},
      {std::string("\x1a\x84\x02\x0a\x81\x02", 6) + std::string(257, 'x'), "chunk.plane of 257"},
  };
  for (const auto& [bytes, message] : cases) {
    const absl::Status status = status_of(bytes);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << message;
    EXPECT_NE(status.message().find(message), absl::string_view::npos) << status;
  }
}

TEST(ParseFrame, SkipsFieldsOfOtherTypesAndTakesAnEmptyMessage) {
  const auto empty = ParseFrame(grpc::ByteBuffer(), kRequestFrame);
  ASSERT_TRUE(empty.ok());
  EXPECT_EQ(empty->kind, FrameKind::kNone);
  // A request has no field 5, and field 3 as a varint is not the chunk.
  const std::string bytes("\x2a\x01x\x18\x05\x08\x07", 7);
  const grpc::Slice slice(bytes.data(), bytes.size());
  const auto frame = ParseFrame(grpc::ByteBuffer(&slice, 1), kRequestFrame);
  ASSERT_TRUE(frame.ok()) << frame.status();
  EXPECT_EQ(frame->kind, FrameKind::kNone);
  EXPECT_EQ(frame->tensor_id, 7u);
}

TEST(ParseFrame, KnowsTheFieldsOfCalibrate) {
  v1::CalibrateRequest request;
  request.mutable_chunk()->set_offset(12);
  request.mutable_chunk()->set_data("values");
  const auto chunk = ParseFrame(SerializeFrame(request), kCalibrateFrame);
  ASSERT_TRUE(chunk.ok());
  EXPECT_EQ(chunk->kind, FrameKind::kChunk);
  EXPECT_EQ(chunk->offset, 12);
  EXPECT_EQ(DataOf(*chunk), "values");
  request.mutable_end();
  EXPECT_EQ(ParseFrame(SerializeFrame(request), kCalibrateFrame)->kind, FrameKind::kEnd);
  request.mutable_start()->set_gram(true);
  const auto start = ParseFrame(SerializeFrame(request), kCalibrateFrame);
  EXPECT_EQ(start->kind, FrameKind::kStart);
  EXPECT_EQ(start->message, request.start().SerializeAsString());
}

TEST(ParseFrame, JoinsCrumbs) {
  v1::StreamingQuantizeRequest request;
  request.mutable_chunk()->set_data(std::string(100000, 'x'));
  const std::string bytes = request.SerializeAsString();
  std::vector<grpc::Slice> crumbs;
  for (const char& c : bytes) crumbs.emplace_back(&c, 1);
  const auto frame = ParseFrame(grpc::ByteBuffer(crumbs.data(), crumbs.size()), kRequestFrame);
  ASSERT_TRUE(frame.ok()) << frame.status();
  EXPECT_EQ(frame->data.size(), 1u);
  EXPECT_EQ(DataOf(*frame), request.chunk().data());
}

TEST(ParseFrame, DoesNotCopyThePayload) {
  std::string payload(100000, 'p');
  const grpc::Slice slice(payload.data(), payload.size(), grpc::Slice::STATIC_SLICE);
  const auto frame = ParseFrame(BuildChunkFrame(kRequestFrame, 1, "values", 0, std::nullopt, slice),
                                kRequestFrame);
  ASSERT_TRUE(frame.ok());
  ASSERT_EQ(frame->data.size(), 1u);
  EXPECT_EQ(static_cast<const void*>(frame->data[0].data()), payload.data());
}

TEST(BuildSharedChunkFrame, IsWhatProtobufMakes) {
  Rng rng(kSeed);
  for (int i = 0; i < 1000; ++i) {
    Response message;
    message.set_tensor_id(rng() >> Uniform(rng, 0, 63) | 1);
    v1::Chunk& chunk = *message.mutable_chunk();
    chunk.set_plane(RandomText(rng, 200, true));
    chunk.set_offset(static_cast<int64_t>(rng() >> Uniform(rng, 1, 63) | 1));
    chunk.mutable_shared()->set_offset(static_cast<int64_t>(rng() >> Uniform(rng, 1, 63) | 1));
    chunk.mutable_shared()->set_size_bytes(static_cast<int64_t>(rng() >> Uniform(rng, 1, 63) | 1));
    const SharedRange range = {chunk.shared().offset(), chunk.shared().size_bytes()};
    const grpc::ByteBuffer frame = BuildSharedChunkFrame(kResponseFrame, message.tensor_id(),
                                                         chunk.plane(), chunk.offset(), range);
    EXPECT_EQ(Flatten(frame), message.SerializeAsString());
  }
}

TEST(BuildEndFrame, IsWhatProtobufMakes) {
  for (const uint64_t tensor_id : {uint64_t{1}, uint64_t{300}, ~uint64_t{0}}) {
    v1::StreamingQuantizeRequest message;
    message.set_tensor_id(tensor_id);
    message.mutable_end();
    EXPECT_EQ(Flatten(BuildEndFrame(kRequestFrame, tensor_id)), message.SerializeAsString());
  }
  v1::CalibrateRequest message;
  message.mutable_end();
  EXPECT_EQ(Flatten(BuildEndFrame(kCalibrateFrame, 1)), message.SerializeAsString());
}

TEST(BuildChunkFrame, IsWhatProtobufReads) {
  Rng rng(kSeed + 3);
  for (int i = 0; i < 3000; ++i) {
    const Response message = RandomResponse(rng, /*with_frames=*/false);
    if (!message.has_chunk() || message.chunk().has_shared()) continue;
    const v1::Chunk& chunk = message.chunk();
    std::optional<uint32_t> crc;
    if (chunk.has_crc32c()) crc = chunk.crc32c();
    const grpc::Slice payload(chunk.data().data(), chunk.data().size());
    Response read;
    ASSERT_TRUE(read.ParseFromString(Flatten(BuildChunkFrame(
        kResponseFrame, message.tensor_id(), chunk.plane(), chunk.offset(), crc, payload))));
    EXPECT_EQ(read.SerializeAsString(), message.SerializeAsString()) << i;
  }
}

TEST(SliceOf, GivesTheBufferBackToThePool) {
  auto pool = std::make_shared<BufferPool>(size_t{1} << 20);
  BufferPool::Buffer buffer = *pool->Acquire(10000);
  std::memset(buffer.data(), 7, 10000);
  {
    const grpc::Slice slice = SliceOf(std::move(buffer), 9000, pool);
    EXPECT_EQ(slice.size(), 9000u);
    EXPECT_EQ(*slice.begin(), 7);
    const grpc::Slice part = slice.sub(100, 8000);
    EXPECT_EQ(part.begin(), slice.begin() + 100);
    EXPECT_EQ(pool->kept_bytes(), 0u);
  }
  EXPECT_GT(pool->kept_bytes(), 0u);
}

}  // namespace
}  // namespace quantd
