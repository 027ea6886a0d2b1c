#ifndef QUANTD_TESTS_SERVER_STUB_CLIENT_H_
#define QUANTD_TESTS_SERVER_STUB_CLIENT_H_

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/base/crc32c.h"
#include "core/exec/buffer_pool.h"
#include "core/exec/executor.h"
#include "core/exec/memory_budget.h"
#include "core/session/quantize_session.h"
#include "proto/convert.h"
#include "quantd/v1/quantization.grpc.pb.h"
#include "server/server.h"

// A client of generated code alone, for tests of the server: what any other language would do.
namespace quantd::testing {

inline std::span<const std::byte> AsBytes(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// Returns `count` values around zero, the same for the same seed.
inline std::string RandomF32(int64_t count, uint64_t seed) {
  std::mt19937_64 rng(seed);
  std::normal_distribution<float> normal(0.f, 0.7f);
  std::string bytes(static_cast<size_t>(count) * sizeof(float), '\0');
  for (int64_t i = 0; i < count; ++i) {
    const float value = normal(rng);
    std::memcpy(bytes.data() + static_cast<size_t>(i) * sizeof(float), &value, sizeof(float));
  }
  return bytes;
}

inline TensorDesc F32Tensor(const std::string& name, std::vector<int64_t> dims) {
  return {name, DType::kF32, *Shape::Make(std::move(dims))};
}

// What core makes of a tensor without any server.
inline absl::StatusOr<QuantizedTensor> QuantizeHere(const std::string& spec,
                                                    const TensorDesc& tensor,
                                                    const std::string& values) {
  Executor executor(0);
  BufferPool pool(size_t{1} << 20);
  MemoryBudget budget(int64_t{1} << 30);
  const absl::StatusOr<QuantSpec> parsed = ParseSpec(spec);
  if (!parsed.ok()) return parsed.status();
  return QuantizeAll(*parsed, tensor, AsBytes(values), {}, {&executor, &pool, &budget});
}

inline std::unique_ptr<QuantdServer> StartServer(ServerOptions options) {
  absl::StatusOr<std::unique_ptr<QuantdServer>> server = QuantdServer::Start(options);
  EXPECT_TRUE(server.ok()) << server.status();
  return *std::move(server);
}

inline std::unique_ptr<QuantdServer> StartTcpServer() {
  ServerOptions options;
  options.listen = {"127.0.0.1:0"};
  options.threads = 2;
  return StartServer(options);
}

inline grpc::ChannelArguments LargeMessages() {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  // Else a channel to a port that another test's server has had would be shared.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return arguments;
}

inline std::shared_ptr<grpc::Channel> ChannelTo(const std::string& address) {
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), LargeMessages());
}

inline std::unique_ptr<v1::QuantizationService::Stub> StubOf(const QuantdServer& server) {
  return v1::QuantizationService::NewStub(ChannelTo(server.addresses().at(0)));
}

inline v1::QuantizeStart QuantizeStartOf(const TensorDesc& tensor, const std::string& spec) {
  v1::QuantizeStart start;
  *start.mutable_tensor() = ToProto(tensor);
  start.mutable_spec()->set_text(spec);
  return start;
}

// Frames of one stream.
template <typename Request>
class Frames {
 public:
  template <typename Start>
  Frames& Open(uint64_t id, const Start& start) {
    *Add(id).mutable_start() = start;
    return *this;
  }
  Frames& Chunk(uint64_t id, const std::string& plane, int64_t offset, const std::string& data) {
    v1::Chunk& chunk = *Add(id).mutable_chunk();
    chunk.set_plane(plane);
    chunk.set_offset(offset);
    chunk.set_data(data);
    chunk.set_crc32c(Crc32c(AsBytes(data)));
    return *this;
  }
  // Cuts `data` into chunks of `chunk_bytes`.
  Frames& Chunks(uint64_t id, const std::string& plane, const std::string& data,
                 size_t chunk_bytes) {
    for (size_t at = 0; at < data.size(); at += chunk_bytes) {
      Chunk(id, plane, static_cast<int64_t>(at), data.substr(at, chunk_bytes));
    }
    return *this;
  }
  Frames& End(uint64_t id) {
    Add(id).mutable_end();
    return *this;
  }
  Request& Add(uint64_t id) {
    frames_.emplace_back().set_tensor_id(id);
    return frames_.back();
  }
  std::vector<Request>& all() { return frames_; }
  // Puts each `count` of them into one message.
  Frames& Together(size_t count) {
    std::vector<Request> messages;
    for (size_t i = 0; i < frames_.size(); ++i) {
      if (i % count == 0) messages.emplace_back();
      *messages.back().add_frames() = std::move(frames_[i]);
    }
    frames_ = std::move(messages);
    return *this;
  }

 private:
  std::vector<Request> frames_;
};
using QuantizeFrames = Frames<v1::StreamingQuantizeRequest>;
using DequantizeFrames = Frames<v1::StreamingDequantizeRequest>;

// What a stream answered for one tensor.
template <typename Response>
struct Answer {
  bool has_start = false, has_end = false, has_error = false;
  Response start, end, error;  // the frames
  std::map<std::string, std::string> planes;

  void Add(const Response& frame) {
    EXPECT_FALSE(has_end || has_error) << "a frame after the last one";
    if (frame.has_start()) {
      EXPECT_FALSE(has_start);
      has_start = true;
      start = frame;
    } else if (frame.has_chunk()) {
      EXPECT_TRUE(has_start);
      std::string& plane = planes[frame.chunk().plane()];
      EXPECT_EQ(frame.chunk().offset(), static_cast<int64_t>(plane.size()));
      if (frame.chunk().has_crc32c()) {
        EXPECT_EQ(frame.chunk().crc32c(), Crc32c(AsBytes(frame.chunk().data())));
      }
      plane += frame.chunk().data();
    } else if (frame.has_end()) {
      EXPECT_TRUE(has_start);
      has_end = true;
      end = frame;
    } else {
      EXPECT_TRUE(frame.has_error());
      has_error = true;
      error = frame;
    }
  }
};

template <typename Response>
struct StreamAnswer {
  grpc::Status status;
  std::map<uint64_t, Answer<Response>> tensors;
  int messages = 0, together = 0;  // and those of several frames
};

// Writes all frames from a thread of its own while it reads what comes back.
template <typename Request, typename Response>
StreamAnswer<Response> Exchange(std::unique_ptr<grpc::ClientReaderWriter<Request, Response>> stream,
                                const std::vector<Request>& frames) {
  std::thread writer([&] {
    for (const Request& frame : frames) {
      if (!stream->Write(frame)) break;
    }
    stream->WritesDone();
  });
  StreamAnswer<Response> answer;
  Response frame;
  while (stream->Read(&frame)) {
    ++answer.messages;
    answer.together += frame.frames_size() > 0;
    for (const Response& part : frame.frames()) answer.tensors[part.tensor_id()].Add(part);
    if (frame.frames_size() == 0) answer.tensors[frame.tensor_id()].Add(frame);
  }
  writer.join();
  answer.status = stream->Finish();
  return answer;
}

inline StreamAnswer<v1::StreamingQuantizeResponse> Exchange(v1::QuantizationService::Stub& stub,
                                                            QuantizeFrames& frames) {
  grpc::ClientContext context;
  return Exchange(stub.StreamingQuantize(&context), frames.all());
}
inline StreamAnswer<v1::StreamingDequantizeResponse> Exchange(v1::QuantizationService::Stub& stub,
                                                              DequantizeFrames& frames) {
  grpc::ClientContext context;
  return Exchange(stub.StreamingDequantize(&context), frames.all());
}

// Checks that a tensor came back as core makes it here.
inline void ExpectQuantized(const Answer<v1::StreamingQuantizeResponse>& answer,
                            const QuantizedTensor& expected) {
  ASSERT_FALSE(answer.has_error) << answer.error.error().message();
  ASSERT_TRUE(answer.has_start && answer.has_end);
  const std::vector<PlaneDesc>& planes = expected.plan.resolved.layout.planes;
  EXPECT_EQ(answer.start.start().tensor().SerializeAsString(),
            ToProto(expected.plan.resolved.tensor).SerializeAsString());
  EXPECT_EQ(answer.start.start().plan().resolved_spec(), FormatSpec(expected.plan.resolved.spec));
  for (size_t i = 0; i < planes.size(); ++i) {
    const auto plane = answer.planes.find(planes[i].name);
    const std::string got = plane == answer.planes.end() ? "" : plane->second;
    const std::string want(reinterpret_cast<const char*>(expected.planes[i].data()),
                           expected.planes[i].size());
    EXPECT_TRUE(got == want) << planes[i].name << " differs";
  }
  const absl::StatusOr<EncodingReport> report = FromProto(answer.end.end().report(), planes);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(ToProto(*report, planes).DebugString(), ToProto(expected.report, planes).DebugString());
}

// Sends and receives bare bytes, for calls whose messages are unknown here or malformed.
class RawCall {
 public:
  RawCall(const std::shared_ptr<grpc::Channel>& channel, const std::string& method)
      : stub_(channel), call_(stub_.PrepareCall(&context_, method, &queue_)) {
    call_->StartCall(Tag());
    EXPECT_TRUE(Wait());
  }
  bool Write(const std::string& bytes) {
    const grpc::Slice slice(bytes);
    call_->Write(grpc::ByteBuffer(&slice, 1), Tag());
    return Wait();
  }
  void WritesDone() {
    call_->WritesDone(Tag());
    Wait();
  }
  // Returns the next message, or nothing at the end.
  std::optional<std::string> Read() {
    grpc::ByteBuffer buffer;
    call_->Read(&buffer, Tag());
    if (!Wait()) return std::nullopt;
    grpc::Slice slice;
    EXPECT_TRUE(buffer.DumpToSingleSlice(&slice).ok());
    return std::string(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  grpc::Status Finish() {
    grpc::Status status;
    call_->Finish(&status, Tag());
    EXPECT_TRUE(Wait());
    return status;
  }
  ~RawCall() {
    context_.TryCancel();
    queue_.Shutdown();
    void* tag;
    bool ok;
    while (queue_.Next(&tag, &ok)) {
    }
  }

 private:
  void* Tag() { return this; }
  bool Wait() {
    void* tag = nullptr;
    bool ok = false;
    return queue_.Next(&tag, &ok) && ok;
  }

  grpc::CompletionQueue queue_;
  grpc::ClientContext context_;
  grpc::GenericStub stub_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
};

}  // namespace quantd::testing

#endif  // QUANTD_TESTS_SERVER_STUB_CLIENT_H_
