#include "proto/frame_codec.h"

#include <google/protobuf/message_lite.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/hand_over.h"
#include "core/base/mutex.h"
#include "core/base/status_macros.h"

namespace quantd {
namespace {

// Protocol Buffers encoding, "Message Structure".
enum WireType : uint32_t {
  kVarint = 0,
  kFixed64 = 1,
  kLengthDelimited = 2,
  kGroupStart = 3,
  kGroupEnd = 4,
  kFixed32 = 5,
};
constexpr uint32_t Tag(uint32_t field, WireType type) { return field << 3 | type; }

// Field numbers of Chunk.
constexpr uint32_t kPlaneField = 1, kOffsetField = 2, kCrcField = 3, kDataField = 4,
                   kSharedField = 5;
// Field numbers of SharedRange.
constexpr uint32_t kRangeOffsetField = 1, kRangeSizeField = 2;

// A message in more slices than this is put together first: a peer that sends crumbs would
// otherwise make the list of views larger than the payload.
constexpr size_t kMaxSlices = 1024;

absl::Status Malformed(absl::string_view what, size_t at_byte) {
  return absl::InvalidArgumentError(absl::StrCat("malformed frame: ", what, " at byte ", at_byte));
}

// Some bytes of a buffer, which keeps them.
using View = std::span<const uint8_t>;

// Returns what `buffer` holds, in order, of as many slices as it has.
std::vector<View> ViewsOf(grpc::ByteBuffer& buffer) {
  grpc::ProtoBufferReader reader(&buffer);
  std::vector<View> views;
  const void* data;
  int size;
  while (reader.Next(&data, &size)) {
    TakeOver(data);
    views.emplace_back(static_cast<const uint8_t*>(data), static_cast<size_t>(size));
  }
  return views;
}

// Walks over the bytes of a list of views. Not thread-safe.
class WireReader {
 public:
  explicit WireReader(std::vector<View> views) : views_(std::move(views)) {
    for (const View view : views_) end_ += view.size();
  }

  size_t position() const { return position_; }
  size_t end() const { return end_; }

  // Reads a varint that ends before `limit`, a position.
  absl::StatusOr<uint64_t> ReadVarint(size_t limit) {
    const size_t start = position_;
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (position_ >= limit) return Malformed("truncated varint", start);
      const uint64_t byte = Peek().front();
      Advance(1);
      if (shift == 63 && byte > 1) return Malformed("varint beyond 64 bits", start);
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    return Malformed("varint beyond 64 bits", start);
  }

  // Reads a length and returns the position where what it measures ends.
  absl::StatusOr<size_t> ReadLength(size_t limit) {
    const size_t start = position_;
    QUANTD_ASSIGN_OR_RETURN(const uint64_t length, ReadVarint(limit));
    if (length > limit - position_) {
      return Malformed(absl::StrCat("length ", length, " with ", limit - position_, " bytes left"),
                       start);
    }
    return position_ + static_cast<size_t>(length);
  }

  absl::StatusOr<uint32_t> ReadFixed32(size_t limit) {
    if (limit - position_ < 4) return Malformed("truncated fixed32", position_);
    uint32_t value = 0;
    for (int i = 0; i < 4; ++i) {
      value |= static_cast<uint32_t>(Peek().front()) << (8 * i);
      Advance(1);
    }
    return value;
  }

  // Calls fn with each piece up to position `until`, and goes there.
  template <typename Fn>
  void ForPieces(size_t until, Fn fn) {
    while (position_ < until) {
      const View piece = Peek();
      const size_t size = std::min(piece.size(), until - position_);
      fn(std::as_bytes(piece.first(size)));
      Advance(size);
    }
  }

  void Append(size_t until, std::string& out) {
    out.reserve(out.size() + (until - position_));
    ForPieces(until, [&out](std::span<const std::byte> piece) {
      out.append(reinterpret_cast<const char*>(piece.data()), piece.size());
    });
  }

  // Goes over a field that nobody knows.
  absl::Status Skip(uint32_t wire_type, size_t limit) {
    const size_t start = position_;
    size_t until = start;
    switch (wire_type) {
      case kVarint:
        return ReadVarint(limit).status();
      case kLengthDelimited: {
        QUANTD_ASSIGN_OR_RETURN(until, ReadLength(limit));
        break;
      }
      case kFixed32:
      case kFixed64: {
        const size_t size = wire_type == kFixed32 ? 4 : 8;
        if (limit - start < size) return Malformed("truncated fixed-size field", start);
        until = start + size;
        break;
      }
      case kGroupStart:
      case kGroupEnd:
        return Malformed("group", start);
      default:
        return Malformed(absl::StrCat("wire type ", wire_type), start);
    }
    SkipTo(until);
    return absl::OkStatus();
  }
  void SkipTo(size_t until) {
    ForPieces(until, [](std::span<const std::byte>) {});
  }

  // Reads a tag; its field number is legal.
  absl::StatusOr<uint32_t> ReadTag(size_t limit) {
    const size_t start = position_;
    QUANTD_ASSIGN_OR_RETURN(const uint64_t tag, ReadVarint(limit));
    if (tag > UINT32_MAX || tag >> 3 == 0) return Malformed(absl::StrCat("tag ", tag), start);
    return static_cast<uint32_t>(tag);
  }

 private:
  // Returns what is left of the view at the position, which is before the end.
  View Peek() {
    while (offset_ == views_[index_].size()) {
      ++index_;
      offset_ = 0;
    }
    return views_[index_].subspan(offset_);
  }
  void Advance(size_t size) {
    offset_ += size;
    position_ += size;
  }

  const std::vector<View> views_;
  size_t index_ = 0;   // of the current one
  size_t offset_ = 0;  // in it
  size_t position_ = 0;
  size_t end_ = 0;
};

absl::Status ParseRange(WireReader& reader, size_t until, SharedRange& range) {
  while (reader.position() < until) {
    QUANTD_ASSIGN_OR_RETURN(const uint32_t tag, reader.ReadTag(until));
    if (tag == Tag(kRangeOffsetField, kVarint)) {
      QUANTD_ASSIGN_OR_RETURN(const uint64_t offset, reader.ReadVarint(until));
      range.offset = static_cast<int64_t>(offset);
    } else if (tag == Tag(kRangeSizeField, kVarint)) {
      QUANTD_ASSIGN_OR_RETURN(const uint64_t size_bytes, reader.ReadVarint(until));
      range.size_bytes = static_cast<int64_t>(size_bytes);
    } else {
      QUANTD_RETURN_IF_ERROR(reader.Skip(tag & 7, until));
    }
  }
  return absl::OkStatus();
}

absl::Status ParseChunk(WireReader& reader, size_t until, ParsedFrame& frame) {
  while (reader.position() < until) {
    QUANTD_ASSIGN_OR_RETURN(const uint32_t tag, reader.ReadTag(until));
    switch (tag) {
      case Tag(kPlaneField, kLengthDelimited): {
        const size_t start = reader.position();
        QUANTD_ASSIGN_OR_RETURN(const size_t end, reader.ReadLength(until));
        if (end - reader.position() > kMaxPlaneNameBytes) {
          return Malformed(absl::StrCat("chunk.plane of ", end - reader.position(),
                                        " bytes (at most ", kMaxPlaneNameBytes, ")"),
                           start);
        }
        frame.plane.clear();
        reader.Append(end, frame.plane);
        break;
      }
      case Tag(kOffsetField, kVarint): {
        QUANTD_ASSIGN_OR_RETURN(const uint64_t offset, reader.ReadVarint(until));
        frame.offset = static_cast<int64_t>(offset);
        break;
      }
      case Tag(kCrcField, kFixed32): {
        QUANTD_ASSIGN_OR_RETURN(frame.crc32c, reader.ReadFixed32(until));
        break;
      }
      case Tag(kDataField, kLengthDelimited): {
        QUANTD_ASSIGN_OR_RETURN(const size_t end, reader.ReadLength(until));
        frame.data.clear();
        frame.data_bytes = end - reader.position();
        reader.ForPieces(
            end, [&frame](std::span<const std::byte> piece) { frame.data.push_back(piece); });
        break;
      }
      case Tag(kSharedField, kLengthDelimited): {
        QUANTD_ASSIGN_OR_RETURN(const size_t end, reader.ReadLength(until));
        if (!frame.shared.has_value()) frame.shared.emplace();
        QUANTD_RETURN_IF_ERROR(ParseRange(reader, end, *frame.shared));
        break;
      }
      default:
        QUANTD_RETURN_IF_ERROR(reader.Skip(tag & 7, until));
    }
  }
  return absl::OkStatus();
}

// Makes `kind` the member of the frame's oneof. A member that comes twice is merged, as protobuf
// does; another member replaces it.
void SetKind(ParsedFrame& frame, FrameKind kind) {
  if (frame.kind == kind) return;
  frame.kind = kind;
  frame.message.clear();
  frame.plane.clear();
  frame.offset = 0;
  frame.crc32c.reset();
  frame.data.clear();
  frame.data_bytes = 0;
  frame.shared.reset();
}

FrameKind KindOf(uint32_t tag, const FrameFields& fields) {
  if ((tag & 7) != kLengthDelimited) return FrameKind::kNone;
  const uint32_t field = tag >> 3;  // never 0, so an absent field matches nothing
  if (field == fields.start) return FrameKind::kStart;
  if (field == fields.chunk) return FrameKind::kChunk;
  if (field == fields.end) return FrameKind::kEnd;
  if (field == fields.error) return FrameKind::kError;
  if (field == fields.released) return FrameKind::kReleased;
  return FrameKind::kNone;
}

char* PutVarint(uint64_t value, char* out) {
  for (; value >= 0x80; value >>= 7) *out++ = static_cast<char>(value | 0x80);
  *out++ = static_cast<char>(value);
  return out;
}

size_t VarintBytes(uint64_t value) {
  size_t size = 1;
  for (; value >= 0x80; value >>= 7) ++size;
  return size;
}

// What tags and numbers take in front of a payload: six of at most 10 bytes.
constexpr size_t kMaxHeaderBytes = 64;

// Returns the bytes of a chunk's `plane` and `offset`.
size_t PlaceBytes(absl::string_view plane, int64_t offset) {
  return (plane.empty() ? 0 : 1 + VarintBytes(plane.size()) + plane.size()) + 1 +
         VarintBytes(static_cast<uint64_t>(offset));
}

// Writes a frame up to a chunk of `chunk_bytes` and its `plane` and `offset`.
char* PutPlace(const FrameFields& fields, uint64_t tensor_id, size_t chunk_bytes,
               absl::string_view plane, int64_t offset, char* out) {
  if (fields.tensor_id != 0) {
    out = PutVarint(Tag(fields.tensor_id, kVarint), out);
    out = PutVarint(tensor_id, out);
  }
  out = PutVarint(Tag(fields.chunk, kLengthDelimited), out);
  out = PutVarint(chunk_bytes, out);
  if (!plane.empty()) {
    out = PutVarint(Tag(kPlaneField, kLengthDelimited), out);
    out = PutVarint(plane.size(), out);
    out = std::copy(plane.begin(), plane.end(), out);
  }
  out = PutVarint(Tag(kOffsetField, kVarint), out);
  return PutVarint(static_cast<uint64_t>(offset), out);
}

// Returns bytes [begin, end) of what `slices` hold, as a message of its own.
using Extent = std::pair<size_t, size_t>;
grpc::ByteBuffer PartOf(std::span<const grpc::Slice> slices, Extent part) {
  std::vector<grpc::Slice> parts;
  size_t at = 0;
  for (const grpc::Slice& slice : slices) {
    const size_t begin = std::max(part.first, at), end = std::min(part.second, at + slice.size());
    if (begin < end) parts.push_back(slice.sub(begin - at, end - at));
    at += slice.size();
  }
  return grpc::ByteBuffer(parts.data(), parts.size());
}

// Makes the message that carries frames. What is short is copied, so that there are few slices.
class TogetherBuilder {
 public:
  explicit TogetherBuilder(uint32_t field) : field_(field) {}

  void Add(const grpc::ByteBuffer& frame) {
    std::array<char, kMaxHeaderBytes> header;
    char* end = PutVarint(Tag(field_, kLengthDelimited), header.data());
    end = PutVarint(frame.Length(), end);
    copied_.append(header.data(), end);
    std::vector<grpc::Slice> slices;
    (void)frame.Dump(&slices);  // fails for compressed ones alone, which ours are not
    for (grpc::Slice& slice : slices) {
      if (slice.size() <= kMaxCopiedBytes) {
        copied_.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
      } else {
        Flush();
        slices_.push_back(std::move(slice));
      }
    }
  }
  grpc::ByteBuffer Build() {
    Flush();
    return grpc::ByteBuffer(slices_.data(), slices_.size());
  }

 private:
  static constexpr size_t kMaxCopiedBytes = 1024;

  void Flush() {
    if (copied_.empty()) return;
    slices_.emplace_back(copied_);
    HandOver(slices_.back().begin());
    copied_.clear();
  }

  const uint32_t field_;
  std::string copied_;
  std::vector<grpc::Slice> slices_;
};

struct PooledBuffer {
  std::shared_ptr<BufferPool> pool;
  BufferPool::Buffer buffer;  // destroyed first
  std::byte* data() const { return buffer.data(); }
};

// Stands for all who read frames in place. In one process they read the sender's own memory, which
// goes back with the last of its slices: ThreadSanitizer does not see that gRPC counts these.
constexpr char kReaders = 0;

// Returns a slice over the first `size_bytes` of `memory`.data() that owns `memory`.
template <typename Memory>
grpc::Slice OwningSlice(Memory memory, size_t size_bytes) {
  struct Owner {
    Memory memory;
    Mutex mutex;  // orders making and freeing, which gRPC does unseen by ThreadSanitizer
  };
  auto* owner = new Owner{std::move(memory), {}};
  MutexLock lock(&owner->mutex);
  return grpc::Slice(
      owner->memory.data(), size_bytes,
      [](void* data) {
        TakeOver(&kReaders);
        const std::unique_ptr<Owner> owner(static_cast<Owner*>(data));
        MutexLock lock(&owner->mutex);
      },
      owner);
}

}  // namespace

ParsedFrame::~ParsedFrame() { HandOver(&kReaders); }

absl::StatusOr<ParsedFrame> ParseFrame(const grpc::ByteBuffer& buffer, const FrameFields& fields) {
  ParsedFrame frame;
  if (!buffer.Valid()) return frame;  // a message without bytes
  frame.owner = std::make_unique<grpc::ByteBuffer>(buffer);
  std::vector<View> views = ViewsOf(*frame.owner);
  if (views.size() > kMaxSlices) {
    grpc::Slice whole;  // of memory that no quota counts
    if (!buffer.DumpToSingleSlice(&whole).ok()) return Malformed("unreadable message", 0);
    frame.owner = std::make_unique<grpc::ByteBuffer>(&whole, 1);
    views = ViewsOf(*frame.owner);
  }
  WireReader reader(std::move(views));
  const size_t limit = reader.end();
  std::vector<Extent> extents;  // of `frames`
  size_t bytes_behind_first = 0;
  while (reader.position() < limit) {
    QUANTD_ASSIGN_OR_RETURN(const uint32_t tag, reader.ReadTag(limit));
    const FrameKind kind = KindOf(tag, fields);
    if (kind != FrameKind::kNone) {
      QUANTD_ASSIGN_OR_RETURN(const size_t end, reader.ReadLength(limit));
      SetKind(frame, kind);
      if (kind == FrameKind::kChunk) {
        QUANTD_RETURN_IF_ERROR(ParseChunk(reader, end, frame));
      } else {
        reader.Append(end, frame.message);
      }
    } else if (fields.tensor_id != 0 && tag == Tag(fields.tensor_id, kVarint)) {
      QUANTD_ASSIGN_OR_RETURN(frame.tensor_id, reader.ReadVarint(limit));
    } else if (fields.frames != 0 && tag == Tag(fields.frames, kLengthDelimited)) {
      const size_t start = reader.position();
      if (extents.size() == kMaxFramesTogether) {
        return Malformed(absl::StrCat("more than ", kMaxFramesTogether, " frames"), start);
      }
      QUANTD_ASSIGN_OR_RETURN(const size_t end, reader.ReadLength(limit));
      if (!extents.empty()) bytes_behind_first += end - reader.position();
      if (bytes_behind_first > kMaxBytesBehindFirst) {
        return Malformed(absl::StrCat("more than ", kMaxBytesBehindFirst,
                                      " bytes of frames behind the first"),
                         start);
      }
      extents.emplace_back(reader.position(), end);
      reader.SkipTo(end);
    } else {
      QUANTD_RETURN_IF_ERROR(reader.Skip(tag & 7, limit));
    }
  }
  if (!extents.empty()) {
    std::vector<grpc::Slice> slices;
    if (!frame.owner->Dump(&slices).ok()) return Malformed("unreadable message", 0);
    for (const Extent extent : extents) frame.frames.push_back(PartOf(slices, extent));
  }
  if (frame.kind != FrameKind::kChunk) frame.owner.reset();
  return frame;
}

grpc::ByteBuffer BuildChunkFrame(const FrameFields& fields, uint64_t tensor_id,
                                 absl::string_view plane, int64_t offset,
                                 std::optional<uint32_t> crc32c, const grpc::Slice& payload) {
  const size_t chunk_bytes = PlaceBytes(plane, offset) + (crc32c.has_value() ? 5 : 0) + 1 +
                             VarintBytes(payload.size()) + payload.size();
  std::string header(plane.size() + kMaxHeaderBytes, '\0');
  char* out = PutPlace(fields, tensor_id, chunk_bytes, plane, offset, header.data());
  if (crc32c.has_value()) {
    out = PutVarint(Tag(kCrcField, kFixed32), out);
    for (int i = 0; i < 4; ++i) *out++ = static_cast<char>(*crc32c >> (8 * i));
  }
  out = PutVarint(Tag(kDataField, kLengthDelimited), out);
  out = PutVarint(payload.size(), out);
  const std::array<grpc::Slice, 2> slices = {
      grpc::Slice(header.data(), static_cast<size_t>(out - header.data())), payload};
  HandOver(payload.begin());
  return grpc::ByteBuffer(slices.data(), payload.size() == 0 ? 1 : 2);
}

grpc::ByteBuffer BuildSharedChunkFrame(const FrameFields& fields, uint64_t tensor_id,
                                       absl::string_view plane, int64_t offset,
                                       const SharedRange& payload) {
  std::array<char, 24> range;  // two tags and numbers of at most 10 bytes
  char* end = PutVarint(Tag(kRangeOffsetField, kVarint), range.data());
  end = PutVarint(static_cast<uint64_t>(payload.offset), end);
  end = PutVarint(Tag(kRangeSizeField, kVarint), end);
  end = PutVarint(static_cast<uint64_t>(payload.size_bytes), end);
  const auto range_bytes = static_cast<size_t>(end - range.data());
  std::string frame(plane.size() + kMaxHeaderBytes + range.size(), '\0');
  char* out = PutPlace(fields, tensor_id, PlaceBytes(plane, offset) + 2 + range_bytes, plane,
                       offset, frame.data());
  out = PutVarint(Tag(kSharedField, kLengthDelimited), out);
  out = PutVarint(range_bytes, out);
  out = std::copy(range.data(), end, out);
  const grpc::Slice slice(frame.data(), static_cast<size_t>(out - frame.data()));
  return grpc::ByteBuffer(&slice, 1);
}

grpc::ByteBuffer BuildEndFrame(const FrameFields& fields, uint64_t tensor_id) {
  std::array<char, kMaxHeaderBytes> frame;
  char* out = frame.data();
  if (fields.tensor_id != 0) {
    out = PutVarint(Tag(fields.tensor_id, kVarint), out);
    out = PutVarint(tensor_id, out);
  }
  out = PutVarint(Tag(fields.end, kLengthDelimited), out);
  out = PutVarint(0, out);
  const grpc::Slice slice(frame.data(), static_cast<size_t>(out - frame.data()));
  return grpc::ByteBuffer(&slice, 1);
}

Together TakeTogether(std::deque<grpc::ByteBuffer>& queue, uint32_t field) {
  const size_t most = field == 0 ? 1 : std::min(queue.size(), kMaxFramesTogether);
  Together result = {.frame_bytes = queue.front().Length()};
  size_t behind_first = 0;
  for (; result.num_frames < most; ++result.num_frames) {
    const size_t next_bytes = queue[result.num_frames].Length();
    behind_first += next_bytes;
    if (behind_first > kMaxBytesBehindFirst) break;
    result.frame_bytes += next_bytes;
  }
  const auto end = queue.begin() + static_cast<ptrdiff_t>(result.num_frames);
  if (result.num_frames == 1) {
    result.message.Swap(&queue.front());
  } else {
    TogetherBuilder builder(field);
    std::for_each(queue.begin(), end, [&](const auto& frame) { builder.Add(frame); });
    result.message = builder.Build();
  }
  queue.erase(queue.begin(), end);
  return result;
}

grpc::ByteBuffer SerializeFrame(const google::protobuf::MessageLite& message) {
  std::string bytes = message.SerializeAsString();
  const size_t size_bytes = bytes.size();
  const grpc::Slice slice = OwningSlice(std::move(bytes), size_bytes);
  HandOver(slice.begin());
  return grpc::ByteBuffer(&slice, 1);
}

grpc::Slice SliceOf(BufferPool::Buffer buffer, size_t size_bytes,
                    std::shared_ptr<BufferPool> pool) {
  return OwningSlice(PooledBuffer{std::move(pool), std::move(buffer)}, size_bytes);
}

}  // namespace quantd
