#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "core/scheme/registry.h"
#include "tests/server/stub_client.h"
#include "tests/support/temp_dir.h"

namespace quantd::testing {
namespace {

enum class Transport { kTcp, kUnix, kInProcess };

// A server and a stub over one of the transports.
class Loopback {
 public:
  explicit Loopback(Transport transport) {
    ServerOptions options;
    options.threads = 2;
    if (transport == Transport::kTcp) options.listen = {"127.0.0.1:0"};
    if (transport == Transport::kUnix) options.listen = {"unix:" + folder_ / "quantd.sock"};
    server_ = StartServer(options);
    stub_ = v1::QuantizationService::NewStub(transport == Transport::kInProcess
                                                 ? server_->InProcessChannel(LargeMessages())
                                                 : ChannelTo(server_->addresses().at(0)));
  }
  v1::QuantizationService::Stub& stub() { return *stub_; }

 private:
  const TempDir folder_;  // tests run side by side
  std::unique_ptr<QuantdServer> server_;
  std::unique_ptr<v1::QuantizationService::Stub> stub_;
};

std::vector<std::string> SchemeNames() {
  std::vector<std::string> names;
  for (const Scheme* scheme : AllSchemes()) names.emplace_back(scheme->info.name);
  return names;
}

class EveryScheme : public ::testing::TestWithParam<std::tuple<std::string, Transport>> {
 protected:
  const std::string scheme_ = std::get<0>(GetParam());
  const TensorDesc tensor_ = F32Tensor("weights", {37, 768});
  const std::string values_ = RandomF32(37 * 768, 11);
  Loopback loopback_{std::get<1>(GetParam())};
};

TEST_P(EveryScheme, StreamsTheBytesThatCoreMakes) {
  const auto expected = QuantizeHere(scheme_, tensor_, values_);
  ASSERT_TRUE(expected.ok()) << expected.status();
  for (const size_t chunk_bytes : {values_.size(), size_t{8191}, size_t{333}}) {
    v1::QuantizeStart start = QuantizeStartOf(tensor_, scheme_);
    start.set_max_chunk_bytes(chunk_bytes == 333 ? 1024 : 0);
    QuantizeFrames frames;
    frames.Open(5, start).Chunks(5, "values", values_, chunk_bytes).End(5);
    const auto answer = Exchange(loopback_.stub(), frames);
    ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
    ExpectQuantized(answer.tensors.at(5), *expected);
  }
}

TEST_P(EveryScheme, UnaryGivesTheSameAndBothWaysBackAgree) {
  const auto expected = QuantizeHere(scheme_, tensor_, values_);
  ASSERT_TRUE(expected.ok()) << expected.status();
  v1::QuantizeRequest request;
  *request.mutable_start() = QuantizeStartOf(tensor_, scheme_);
  request.set_data(values_);
  v1::QuantizeResponse quantized;
  grpc::ClientContext quantize_context;
  const grpc::Status status = loopback_.stub().Quantize(&quantize_context, request, &quantized);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(quantized.planes_size(), std::ssize(expected->planes));
  for (int i = 0; i < quantized.planes_size(); ++i) {
    const std::vector<std::byte>& want = expected->planes[static_cast<size_t>(i)];
    EXPECT_TRUE(std::ranges::equal(AsBytes(quantized.planes(i).data()), want))
        << quantized.planes(i).plane().name();
  }
  EXPECT_EQ(quantized.report().DebugString(),
            ToProto(expected->report, expected->plan.resolved.layout.planes).DebugString());

  v1::DequantizeRequest back;
  *back.mutable_start()->mutable_tensor() = ToProto(tensor_);
  back.mutable_start()->mutable_spec()->set_text(quantized.start().plan().resolved_spec());
  *back.mutable_planes() = quantized.planes();
  v1::DequantizeResponse values;
  grpc::ClientContext dequantize_context;
  const grpc::Status back_status = loopback_.stub().Dequantize(&dequantize_context, back, &values);
  ASSERT_TRUE(back_status.ok()) << back_status.error_message();
  ASSERT_EQ(values.data().size(), values_.size());
  EXPECT_EQ(values.start().tensor().data_type(), v1::DATA_TYPE_F32);

  DequantizeFrames frames;
  frames.Open(1, back.start());
  for (int i = quantized.planes_size() - 1; i >= 0; --i) {  // parameters before codes
    frames.Chunks(1, quantized.planes(i).plane().name(), quantized.planes(i).data(), 1001);
  }
  frames.End(1);
  const auto answer = Exchange(loopback_.stub(), frames);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  const auto& streamed = answer.tensors.at(1);
  ASSERT_TRUE(streamed.has_end) << streamed.error.error().message();
  EXPECT_TRUE(streamed.planes.at("values") == values.data());
  EXPECT_EQ(streamed.end.end().values_digest(), values.finished().values_digest());
  for (const auto& [plane, digest] : streamed.end.end().plane_digests()) {
    EXPECT_EQ(digest, quantized.report().digests().at(plane)) << plane;
  }
}

std::string NameOfCase(const ::testing::TestParamInfo<EveryScheme::ParamType>& info) {
  constexpr const char* kNames[] = {"tcp", "unix", "inprocess"};
  const auto& [scheme, transport] = info.param;
  return scheme + "_" + kNames[static_cast<int>(transport)];
}

INSTANTIATE_TEST_SUITE_P(Transports, EveryScheme,
                         ::testing::Combine(::testing::ValuesIn(SchemeNames()),
                                            ::testing::Values(Transport::kTcp, Transport::kUnix,
                                                              Transport::kInProcess)),
                         NameOfCase);

TEST(Streaming, InterleavesTensors) {
  Loopback loopback(Transport::kTcp);
  QuantizeFrames frames;
  const std::vector<std::string> specs = {"int8", "int8:axis=0", "fp16", "int8:group=32"};
  const TensorDesc tensor = F32Tensor("t", {64, 96});
  const std::string values = RandomF32(64 * 96, 3);
  for (size_t i = 0; i < specs.size(); ++i) frames.Open(i, QuantizeStartOf(tensor, specs[i]));
  for (size_t at = 0; at < values.size(); at += 1000) {
    for (size_t i = 0; i < specs.size(); ++i) {
      frames.Chunk(i, i % 2 == 0 ? "" : "values", static_cast<int64_t>(at),
                   values.substr(at, 1000));
    }
  }
  for (size_t i = specs.size(); i-- > 0;) frames.End(i);
  const auto answer = Exchange(loopback.stub(), frames);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  for (size_t i = 0; i < specs.size(); ++i) {
    const auto expected = QuantizeHere(specs[i], tensor, values);
    ASSERT_TRUE(expected.ok()) << expected.status();
    ExpectQuantized(answer.tensors.at(i), *expected);
  }
}

// Frames that come together are answered as those that come alone.
TEST(Streaming, TakesFramesTogether) {
  const TensorDesc tensor = F32Tensor("t", {16, 32});
  const std::string values = RandomF32(16 * 32, 4);
  const auto expected = QuantizeHere("int8:axis=0", tensor, values);
  ASSERT_TRUE(expected.ok()) << expected.status();
  for (const Transport transport : {Transport::kTcp, Transport::kUnix, Transport::kInProcess}) {
    Loopback loopback(transport);
    for (const size_t count : {1, 2, 7, 60}) {
      QuantizeFrames frames;
      constexpr uint64_t kTensors = 200;
      for (uint64_t id = 0; id < kTensors; ++id) {
        frames.Open(id, QuantizeStartOf(tensor, id == 100 ? "nothing" : "int8:axis=0"));
        frames.Chunks(id, "values", values, 1000).End(id);
      }
      const auto answer = Exchange(loopback.stub(), frames.Together(count));
      ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
      ASSERT_EQ(answer.tensors.size(), kTensors);
      for (const auto& [id, one] : answer.tensors) {
        if (id == 100) {
          EXPECT_TRUE(one.has_error);
        } else {
          ExpectQuantized(one, *expected);
        }
      }
    }
    QuantizeFrames alone;
    for (uint64_t id = 0; id < 50; ++id) {
      alone.Open(id, QuantizeStartOf(tensor, "int8:axis=0")).Chunk(id, "", 0, values).End(id);
    }
    const auto answer = Exchange(loopback.stub(), alone);
    ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
    EXPECT_EQ(answer.together, 0) << "to a client that may not know of it";
    EXPECT_EQ(answer.tensors.size(), 50u);
  }
}

// Tensors whose end has come do not count, though the peer has not taken what came of them.
TEST(Streaming, OpensATensorBehindThoseThatEnd) {
  ServerOptions options;
  options.threads = 2;
  options.max_open_tensors = 1;
  const auto server = StartServer(options);
  const auto stub = v1::QuantizationService::NewStub(server->InProcessChannel(LargeMessages()));
  const TensorDesc tensor = F32Tensor("t", {512, 4096});
  const std::string values = RandomF32(512 * 4096, 5);
  const auto expected = QuantizeHere("fp16", tensor, values);
  ASSERT_TRUE(expected.ok()) << expected.status();
  QuantizeFrames frames;
  for (uint64_t id = 1; id <= 6; ++id) {
    frames.Open(id, QuantizeStartOf(tensor, "fp16")).Chunks(id, "values", values, 1 << 20).End(id);
  }
  frames.Open(7, QuantizeStartOf(tensor, "fp16")).Open(8, QuantizeStartOf(tensor, "fp16"));
  grpc::ClientContext context;
  auto stream = stub->StreamingQuantize(&context);
  std::thread writer([&] {
    for (const auto& frame : frames.all()) EXPECT_TRUE(stream->Write(frame));
    stream->WritesDone();
  });
  absl::SleepFor(absl::Milliseconds(300));  // the server comes as far as it can
  std::map<uint64_t, Answer<v1::StreamingQuantizeResponse>> answers;
  v1::StreamingQuantizeResponse frame;
  while (stream->Read(&frame)) answers[frame.tensor_id()].Add(frame);
  writer.join();
  EXPECT_TRUE(stream->Finish().ok());
  for (uint64_t id = 1; id <= 6; ++id) ExpectQuantized(answers[id], *expected);
  EXPECT_NE(answers[8].error.error().message().find("1 open tensors; at most 1"),
            std::string::npos)
      << answers[8].error.error().message();
}

TEST(Streaming, RefusesFramesWithinFramesAndBesideOthers) {
  Loopback loopback(Transport::kTcp);
  const auto start = QuantizeStartOf(F32Tensor("t", {4}), "int8");
  v1::StreamingQuantizeRequest nested, mixed, many, large, empty;
  *nested.add_frames()->add_frames()->mutable_start() = start;
  *mixed.add_frames()->mutable_start() = start;
  mixed.mutable_end();
  for (int i = 0; i < 257; ++i) many.add_frames()->mutable_end();
  for (int i = 0; i < 2; ++i) large.add_frames()->mutable_chunk()->set_data(std::string(65536, 0));
  empty.add_frames();
  const std::pair<v1::StreamingQuantizeRequest, std::string> cases[] = {
      {nested, "\"frames\" has frames that have \"frames\" themselves"},
      {mixed, "a message has a frame of its own beside \"frames\""},
      {many, "more than 256 frames"},
      {large, "more than 65536 bytes of frames behind the first"},
      {empty, "the stream does not open with a start frame"}};
  for (const auto& [request, message] : cases) {
    grpc::ClientContext context;
    const auto answer = Exchange(loopback.stub().StreamingQuantize(&context), {request});
    EXPECT_FALSE(answer.status.ok());
    EXPECT_NE(answer.status.error_message().find(message), std::string::npos)
        << answer.status.error_message();
    EXPECT_TRUE(answer.tensors.empty());
  }
}

TEST(Streaming, TakesEmptyTensors) {
  Loopback loopback(Transport::kTcp);
  const TensorDesc tensor = F32Tensor("empty", {0, 32});
  const auto expected = QuantizeHere("int8", tensor, "");
  ASSERT_TRUE(expected.ok()) << expected.status();
  QuantizeFrames frames;
  frames.Open(1, QuantizeStartOf(tensor, "int8")).End(1);
  frames.Open(2, QuantizeStartOf(tensor, "int8")).Chunk(2, "values", 0, "").End(2);
  const auto answer = Exchange(loopback.stub(), frames);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  ExpectQuantized(answer.tensors.at(1), *expected);
  ExpectQuantized(answer.tensors.at(2), *expected);
}

TEST(Streaming, KeepsToTheChunkSizeAndLeavesOutWhatIsNotWanted) {
  Loopback loopback(Transport::kTcp);
  const TensorDesc tensor = F32Tensor("t", {100000});
  const std::string values = RandomF32(100000, 4);
  v1::QuantizeStart start = QuantizeStartOf(tensor, "fp16");
  start.set_max_chunk_bytes(4096);
  start.set_omit_crc(true);
  start.set_omit_figures(true);
  QuantizeFrames frames;
  frames.Open(1, start).Chunks(1, "values", values, 100000).End(1);
  grpc::ClientContext context;
  auto stream = loopback.stub().StreamingQuantize(&context);
  for (const auto& frame : frames.all()) ASSERT_TRUE(stream->Write(frame));
  stream->WritesDone();
  v1::StreamingQuantizeResponse frame;
  size_t total = 0;
  while (stream->Read(&frame)) {
    if (frame.has_chunk()) {
      EXPECT_LE(frame.chunk().data().size(), 4096u);
      EXPECT_FALSE(frame.chunk().has_crc32c());
      total += frame.chunk().data().size();
    }
    if (frame.has_end()) {
      EXPECT_FALSE(frame.end().report().has_figures());
    }
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(total, 200000u);
}

// The server must not hold more than its queue while nobody reads, and lose nothing.
TEST(Streaming, WaitsForASlowReader) {
  Loopback loopback(Transport::kTcp);
  const int64_t elems = int64_t{6} << 20;
  const TensorDesc tensor = F32Tensor("t", {elems});
  const std::string codes(static_cast<size_t>(elems), '\3');
  v1::DequantizeStart start;
  *start.mutable_tensor() = ToProto(tensor);
  start.mutable_spec()->set_text("int8:scale=0.5");
  grpc::ClientContext context;
  auto stream = loopback.stub().StreamingDequantize(&context);
  DequantizeFrames opening;
  opening.Open(1, start);
  ASSERT_TRUE(stream->Write(opening.all().at(0)));
  v1::StreamingDequantizeResponse frame;
  ASSERT_TRUE(stream->Read(&frame));
  ASSERT_TRUE(frame.has_start()) << frame.error().message();
  DequantizeFrames frames;
  const float scale = 0.5f;
  for (const v1::Plane& plane : frame.start().planes()) {
    if (plane.name() == "scale") {
      frames.Chunk(1, "scale", 0, std::string(reinterpret_cast<const char*>(&scale), 4));
    }
  }
  frames.Chunks(1, "codes", codes, size_t{1} << 20).End(1);
  absl::Notification half_written;
  std::thread writer([&] {
    for (size_t i = 0; i < frames.all().size(); ++i) {
      if (i == 2) half_written.Notify();  // 4 MiB of output or more are on their way by now
      EXPECT_TRUE(stream->Write(frames.all()[i]));
    }
    stream->WritesDone();
  });
  half_written.WaitForNotification();
  int64_t total = 0;
  while (stream->Read(&frame)) {
    ASSERT_FALSE(frame.has_error()) << frame.error().message();
    if (!frame.has_chunk()) continue;
    EXPECT_EQ(frame.chunk().offset(), total);
    const std::string& data = frame.chunk().data();
    total += static_cast<int64_t>(data.size());
    float value;
    std::memcpy(&value, data.data(), sizeof value);
    EXPECT_EQ(value, 1.5f);
  }
  writer.join();
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(total, elems * 4);
}

TEST(Calibrate, GivesRangesWithWhichATensorStreamsToTheSameBytes) {
  Loopback loopback(Transport::kTcp);
  const TensorDesc tensor = F32Tensor("t", {50, 40});
  const std::string values = RandomF32(50 * 40, 8);
  for (const std::string spec : {"int8", "int8:axis=1", "int8:mode=asymmetric,range=3sigma"}) {
    grpc::ClientContext context;
    v1::CalibrateResponse calibrated;
    auto writer = loopback.stub().Calibrate(&context, &calibrated);
    v1::CalibrateRequest request;
    *request.mutable_start()->mutable_tensor() = ToProto(tensor);
    request.mutable_start()->mutable_spec()->set_text(spec);
    request.mutable_start()->set_column_moments(true);
    EXPECT_TRUE(writer->Write(request));
    for (size_t at = 0; at < values.size(); at += 999) {
      request.mutable_chunk()->set_offset(static_cast<int64_t>(at));
      request.mutable_chunk()->set_data(values.substr(at, 999));
      EXPECT_TRUE(writer->Write(request));
    }
    request.mutable_end();
    EXPECT_TRUE(writer->Write(request));
    writer->WritesDone();
    const grpc::Status status = writer->Finish();
    ASSERT_TRUE(status.ok()) << spec << ": " << status.error_message();
    EXPECT_EQ(calibrated.state().rows(), 50);
    EXPECT_EQ(calibrated.state().column_second_moments_size(), 40);
    EXPECT_EQ(calibrated.state().tensor().count(), 2000);

    const auto expected = QuantizeHere(spec, tensor, values);
    ASSERT_TRUE(expected.ok()) << expected.status();
    v1::QuantizeStart start = QuantizeStartOf(tensor, spec);
    *start.mutable_ranges() = calibrated.ranges();
    QuantizeFrames frames;
    frames.Open(1, start).Chunks(1, "values", values, 500).End(1);
    const auto answer = Exchange(loopback.stub(), frames);
    ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
    EXPECT_EQ(answer.tensors.at(1).start.start().plan().pass(), v1::QUANTIZATION_PASS_STATIC);
    ExpectQuantized(answer.tensors.at(1), *expected);
  }
}

}  // namespace
}  // namespace quantd::testing
