#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "core/scheme/registry.h"
#include "tests/server/stub_client.h"

namespace quantd::testing {
namespace {

constexpr uint64_t kId = 9;

class BadInput : public ::testing::Test {
 protected:
  // Sends frames of tensor kId, then a good tensor, and returns the error of the first.
  absl::Status ErrorOf(QuantizeFrames frames) {
    frames.Open(77, QuantizeStartOf(tensor_, "int8")).Chunks(77, "values", values_, 300).End(77);
    const auto answer = Exchange(*stub_, frames);
    EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
    ExpectQuantized(answer.tensors.at(77), *expected_);
    const auto& tensor = answer.tensors.at(kId);
    EXPECT_TRUE(tensor.has_error);
    return absl::Status(static_cast<absl::StatusCode>(tensor.error.error().code()),
                        tensor.error.error().message());
  }

  // The same of a tensor that is described by `start`, with all its values.
  absl::Status ErrorOfStart(const v1::QuantizeStart& start) {
    QuantizeFrames frames;
    frames.Open(kId, start).Chunks(kId, "values", values_, 128).End(kId);
    return ErrorOf(frames);
  }
  absl::Status ErrorOfSpec(const std::string& spec) {
    return ErrorOfStart(QuantizeStartOf(tensor_, spec));
  }
  QuantizeFrames Opened() {
    QuantizeFrames frames;
    frames.Open(kId, QuantizeStartOf(tensor_, "int8"));
    return frames;
  }

  const TensorDesc tensor_ = F32Tensor("t", {8, 32});
  const std::string values_ = RandomF32(8 * 32, 5);
  const absl::StatusOr<QuantizedTensor> expected_ = QuantizeHere("int8", tensor_, values_);
  const std::unique_ptr<QuantdServer> server_ = StartTcpServer();
  const std::unique_ptr<v1::QuantizationService::Stub> stub_ = StubOf(*server_);
};

void ExpectError(const absl::Status& status, absl::StatusCode code,
                 const std::vector<std::string>& parts) {
  EXPECT_EQ(status.code(), code) << status;
  for (const std::string& part : parts) {
    EXPECT_NE(status.message().find(part), absl::string_view::npos) << status << " lacks " << part;
  }
}

TEST_F(BadInput, UnknownSchemeListsTheKnownOnes) {
  std::vector<std::string> parts = {"nosuch"};
  for (const Scheme* scheme : AllSchemes()) parts.emplace_back(scheme->info.name);
  ExpectError(ErrorOfSpec("nosuch"), absl::StatusCode::kNotFound, parts);
}

TEST_F(BadInput, Specs) {
  ExpectError(ErrorOfSpec("int8:colour=red"), absl::StatusCode::kInvalidArgument,
              {"spec.text", "colour", "known"});
  ExpectError(ErrorOfSpec("int8:round=sideways"), absl::StatusCode::kInvalidArgument,
              {"spec.text", "round=sideways", "half_even"});
  ExpectError(ErrorOfSpec("int8:group=48"), absl::StatusCode::kInvalidArgument, {"group=48", "32"});
  ExpectError(ErrorOfSpec("int8:axis=5"), absl::StatusCode::kInvalidArgument, {"axis=5"});
  ExpectError(ErrorOfSpec("int8:range=guess"), absl::StatusCode::kNotFound, {"guess", "minmax"});
  v1::QuantizeStart start = QuantizeStartOf(tensor_, "int8");
  start.mutable_spec()->set_scheme("int8");
  ExpectError(ErrorOfStart(start), absl::StatusCode::kInvalidArgument, {"spec.text", "excludes"});
  start.clear_spec();
  ExpectError(ErrorOfStart(start), absl::StatusCode::kInvalidArgument, {"spec.scheme", "missing"});
}

TEST_F(BadInput, TensorDescriptors) {
  v1::QuantizeStart start = QuantizeStartOf(tensor_, "int8");
  start.mutable_tensor()->set_data_type(static_cast<v1::DataType>(99));
  ExpectError(ErrorOfStart(start), absl::StatusCode::kInvalidArgument, {"tensor.data_type=99"});
  start.mutable_tensor()->set_data_type(v1::DATA_TYPE_BOOL);
  ExpectError(ErrorOfStart(start), absl::StatusCode::kInvalidArgument, {"bool", "f32", "bf16"});
  start.mutable_tensor()->set_data_type(v1::DATA_TYPE_F32);
  start.mutable_tensor()->set_shape(0, int64_t{1} << 61);
  ExpectError(ErrorOfStart(start), absl::StatusCode::kInvalidArgument, {"tensor.shape"});
  start.mutable_tensor()->set_shape(0, -8);
  ExpectError(ErrorOfStart(start), absl::StatusCode::kInvalidArgument, {"tensor.shape", "-8"});
  start = QuantizeStartOf(tensor_, "int8");
  start.mutable_tensor()->set_name(std::string(2000, 'x'));
  ExpectError(ErrorOfStart(start), absl::StatusCode::kInvalidArgument, {"tensor.name", "1024"});
  start = QuantizeStartOf(tensor_, "int8");
  start.set_max_chunk_bytes(5 << 20);
  ExpectError(ErrorOfStart(start), absl::StatusCode::kInvalidArgument,
              {"max_chunk_bytes=5242880", "4194304"});
  // A client that nobody has told otherwise receives 4 MiB, with what a frame has around the data.
  start.set_max_chunk_bytes(4 << 20);
  ExpectError(ErrorOfStart(start), absl::StatusCode::kInvalidArgument,
              {"max_chunk_bytes=4194304", "1024 to 4190208", "max_message_bytes"});
  start.set_max_message_bytes(-1);
  ExpectError(ErrorOfStart(start), absl::StatusCode::kInvalidArgument,
              {"max_message_bytes=-1", "1048576"});
  start = QuantizeStartOf(tensor_, "int8:axis=0");
  for (int i = 0; i < 7; ++i) {
    start.mutable_ranges()->add_min(-1);
    start.mutable_ranges()->add_max(1);
  }
  ExpectError(ErrorOfStart(start), absl::StatusCode::kInvalidArgument, {"7", "8"});
  start = QuantizeStartOf(tensor_, "fp16");
  start.mutable_ranges()->add_min(-1);
  start.mutable_ranges()->add_max(1);
  ExpectError(ErrorOfStart(start), absl::StatusCode::kInvalidArgument, {"fp16", "ranges"});
  start = QuantizeStartOf(tensor_, "int8");
  *start.mutable_ranges() = v1::CalibratedRanges();
  start.mutable_ranges()->set_resolved_spec("int8");
  ExpectError(ErrorOfStart(start), absl::StatusCode::kInvalidArgument, {"ranges.source"});
  *start.mutable_ranges()->mutable_source() = start.tensor();
  start.mutable_ranges()->set_resolved_spec("int8:colour=red");
  ExpectError(ErrorOfStart(start), absl::StatusCode::kInvalidArgument, {"colour"});
}

TEST_F(BadInput, NonFiniteValuesUnderRejectHaveCoordinates) {
  std::string values = values_;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(values.data() + (3 * 32 + 7) * sizeof(float), &nan, sizeof nan);
  QuantizeFrames frames = Opened();
  frames.Chunks(kId, "values", values, 100).End(kId);
  ExpectError(ErrorOf(frames), absl::StatusCode::kInvalidArgument, {"[3, 7]"});
}

// What the server finds in data that were damaged on the way is not the sender's fault: values are
// looked at before all of a chunk has come under its checksum.
TEST_F(BadInput, DamageIsNotTakenForBadValues) {
  std::string damaged = values_;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(damaged.data(), &nan, sizeof nan);
  QuantizeFrames frames;
  frames.Open(kId, QuantizeStartOf(tensor_, "int8:scale=1"));
  frames.Chunk(kId, "values", 0, values_).End(kId);
  frames.all()[1].mutable_chunk()->set_data(damaged);
  ExpectError(ErrorOf(frames), absl::StatusCode::kDataLoss, {"values", "offset=0", "crc32c"});
}

TEST_F(BadInput, Chunks) {
  QuantizeFrames out_of_order = Opened();
  out_of_order.Chunk(kId, "values", 128, values_.substr(128, 128)).End(kId);
  ExpectError(ErrorOf(out_of_order), absl::StatusCode::kInvalidArgument,
              {"values", "offset=128", "out of order", "offset=0"});

  QuantizeFrames twice = Opened();
  twice.Chunk(kId, "values", 0, values_.substr(0, 128));
  twice.Chunk(kId, "values", 0, values_.substr(0, 128)).End(kId);
  ExpectError(ErrorOf(twice), absl::StatusCode::kInvalidArgument,
              {"values", "offset=0", "twice", "offset=128"});

  QuantizeFrames past_end = Opened();
  past_end.Chunk(kId, "values", 0, values_ + "x").End(kId);
  ExpectError(ErrorOf(past_end), absl::StatusCode::kOutOfRange, {"1025 bytes", "1024 bytes"});

  QuantizeFrames far_away = Opened();
  far_away.Chunk(kId, "values", std::numeric_limits<int64_t>::max(), "abcd").End(kId);
  ExpectError(ErrorOf(far_away), absl::StatusCode::kOutOfRange, {"offset=9223372036854775807"});

  QuantizeFrames negative = Opened();
  negative.Chunk(kId, "values", -4, "abcd").End(kId);
  ExpectError(ErrorOf(negative), absl::StatusCode::kInvalidArgument, {"offset=-4", "negative"});

  QuantizeFrames wrong_crc = Opened();
  wrong_crc.Chunk(kId, "values", 0, values_).End(kId);
  wrong_crc.all()[1].mutable_chunk()->set_crc32c(0x12345678);
  ExpectError(ErrorOf(wrong_crc), absl::StatusCode::kDataLoss,
              {"values", "offset=0", "crc32c=12345678"});

  QuantizeFrames empty = Opened();
  empty.Chunk(kId, "values", 0, "").End(kId);
  empty.all()[1].mutable_chunk()->set_crc32c(1);
  ExpectError(ErrorOf(empty), absl::StatusCode::kDataLoss, {"values", "crc32c=00000001"});

  QuantizeFrames unknown_plane = Opened();
  unknown_plane.Chunk(kId, "weird\n", 0, values_).End(kId);
  ExpectError(ErrorOf(unknown_plane), absl::StatusCode::kNotFound, {"weird\\n", "values"});
}

TEST_F(BadInput, OrderOfFrames) {
  QuantizeFrames early_end = Opened();
  early_end.Chunk(kId, "values", 0, values_.substr(0, 100)).End(kId);
  ExpectError(ErrorOf(early_end), absl::StatusCode::kDataLoss, {"1024", "924"});

  QuantizeFrames open_twice = Opened();
  open_twice.Open(kId, QuantizeStartOf(tensor_, "fp16")).End(kId);
  ExpectError(ErrorOf(open_twice), absl::StatusCode::kFailedPrecondition,
              {"tensor_id=9", "already open"});

  QuantizeFrames never_opened;
  never_opened.Open(1, QuantizeStartOf(tensor_, "int8")).Chunks(1, "", values_, 1000).End(1);
  never_opened.Chunk(kId, "values", 0, values_).Chunk(kId, "values", 0, values_).End(kId);
  ExpectError(ErrorOf(never_opened), absl::StatusCode::kFailedPrecondition,
              {"tensor_id=9", "not open"});

  QuantizeFrames only_end;
  only_end.Open(1, QuantizeStartOf(tensor_, "int8")).Chunks(1, "", values_, 1000).End(1).End(kId);
  ExpectError(ErrorOf(only_end), absl::StatusCode::kFailedPrecondition,
              {"end of tensor_id=9", "not open"});
}

TEST_F(BadInput, AFailedTensorMayBeOpenedAgain) {
  QuantizeFrames frames;
  frames.Open(kId, QuantizeStartOf(tensor_, "nosuch")).Chunk(kId, "values", 0, values_);
  frames.Open(1, QuantizeStartOf(tensor_, "int8")).Chunks(1, "", values_, 1000).End(1);
  const auto first = Exchange(*stub_, frames);
  EXPECT_TRUE(first.status.ok());
  EXPECT_TRUE(first.tensors.at(kId).has_error);

  grpc::ClientContext context;
  auto stream = stub_->StreamingQuantize(&context);
  QuantizeFrames again;
  again.Open(kId, QuantizeStartOf(tensor_, "nosuch"));
  again.Open(kId, QuantizeStartOf(tensor_, "int8")).Chunks(kId, "", values_, 1000).End(kId);
  for (const auto& frame : again.all()) ASSERT_TRUE(stream->Write(frame));
  stream->WritesDone();
  v1::StreamingQuantizeResponse frame;
  ASSERT_TRUE(stream->Read(&frame));
  EXPECT_TRUE(frame.has_error());
  Answer<v1::StreamingQuantizeResponse> answer;
  while (stream->Read(&frame)) answer.Add(frame);
  ExpectQuantized(answer, *expected_);
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(BadInput, AStreamThatClosesEarlyLosesTheTensorOnly) {
  QuantizeFrames frames = Opened();
  frames.Chunk(kId, "values", 0, values_.substr(0, 512));
  ExpectError(ErrorOf(frames), absl::StatusCode::kDataLoss, {"closed before", "end"});
}

TEST_F(BadInput, TooManyOpenTensors) {
  ServerOptions options;
  options.listen = {"127.0.0.1:0"};
  options.max_open_tensors = 2;
  const auto server = StartServer(options);
  QuantizeFrames frames;
  for (uint64_t id = 1; id <= 3; ++id) frames.Open(id, QuantizeStartOf(tensor_, "int8"));
  const auto answer = Exchange(*StubOf(*server), frames);
  EXPECT_TRUE(answer.status.ok());
  EXPECT_TRUE(answer.tensors.at(2).has_start);
  const v1::TensorError& error = answer.tensors.at(3).error.error();
  ExpectError(absl::Status(static_cast<absl::StatusCode>(error.code()), error.message()),
              absl::StatusCode::kResourceExhausted, {"2 open tensors", "at most 2"});
}

TEST_F(BadInput, ATensorBeyondTheBudgetNamesTheWaysOut) {
  v1::QuantizeStart start = QuantizeStartOf(F32Tensor("t", {1 << 20, 1 << 12}), "int8");
  QuantizeFrames frames;
  frames.Open(kId, start);
  ExpectError(ErrorOf(frames), absl::StatusCode::kFailedPrecondition, {"Calibrate", "ranges"});
}

class BadFrames : public BadInput {
 protected:
  grpc::Status StatusOf(const std::string& method, const std::vector<std::string>& frames) {
    RawCall call(ChannelTo(server_->addresses().at(0)), "/quantd.v1.QuantizationService/" + method);
    for (const std::string& frame : frames) {
      if (!call.Write(frame)) break;
    }
    while (call.Read()) {
    }
    return call.Finish();
  }
  std::string StartFrame() {
    QuantizeFrames frames;
    frames.Open(1, QuantizeStartOf(tensor_, "int8"));
    return frames.all()[0].SerializeAsString();
  }
};

TEST_F(BadFrames, EndTheStreamAndNothingElse) {
  const grpc::Status garbage =
      StatusOf("StreamingQuantize", {StartFrame(), std::string("\x1a\xff\xff\x03garbage", 11)});
  EXPECT_EQ(garbage.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_NE(garbage.error_message().find("malformed frame: length"), std::string::npos)
      << garbage.error_message();

  const grpc::Status nothing = StatusOf("StreamingDequantize", {StartFrame(), ""});
  EXPECT_EQ(nothing.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_NE(nothing.error_message().find("neither start"), std::string::npos);

  const grpc::Status unary = StatusOf("Quantize", {"\x0a\x7fxxx"});
  EXPECT_EQ(unary.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_NE(unary.error_message().find("quantd.v1.QuantizeRequest"), std::string::npos)
      << unary.error_message();

  const grpc::Status calibrate = StatusOf("Calibrate", {"\xff\xff"});
  EXPECT_EQ(calibrate.error_code(), grpc::StatusCode::INVALID_ARGUMENT);

  QuantizeFrames frames = Opened();
  frames.Chunk(kId, "values", 0, "").End(kId);
  ExpectError(ErrorOf(frames), absl::StatusCode::kDataLoss, {"missing"});  // it is still there
}

TEST_F(BadFrames, AStartThatIsNoMessageIsTheTensorsError) {
  QuantizeFrames frames;
  RawCall call(ChannelTo(server_->addresses().at(0)),
               "/quantd.v1.QuantizationService/StreamingQuantize");
  ASSERT_TRUE(call.Write(std::string("\x08\x09\x12\x02\x0a\x7f", 6)));
  const auto bytes = call.Read();
  ASSERT_TRUE(bytes.has_value());
  v1::StreamingQuantizeResponse frame;
  ASSERT_TRUE(frame.ParseFromString(*bytes));
  EXPECT_EQ(frame.tensor_id(), 9u);
  EXPECT_EQ(frame.error().code(), static_cast<int>(absl::StatusCode::kInvalidArgument));
  call.WritesDone();
  EXPECT_FALSE(call.Read().has_value());
  EXPECT_TRUE(call.Finish().ok());
}

// What a stream looks like whose first messages a retry has lost.
TEST_F(BadFrames, AStreamMustOpenWithStart) {
  QuantizeFrames frames;
  frames.Chunk(1, "values", 0, values_).End(1);
  const auto answer = Exchange(*stub_, frames);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_NE(answer.status.error_message().find("does not open with a start"), std::string::npos);
  EXPECT_TRUE(answer.tensors.empty());

  v1::CalibrateRequest request;
  request.mutable_chunk()->set_data("abcd");
  const grpc::Status calibrate = StatusOf("Calibrate", {request.SerializeAsString()});
  EXPECT_EQ(calibrate.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
}

TEST_F(BadFrames, AMessageBeyondTheLimitEndsTheStreamOnly) {
  v1::StreamingQuantizeRequest request;
  request.mutable_chunk()->set_data(std::string(17 << 20, 'x'));
  const grpc::Status status =
      StatusOf("StreamingQuantize", {StartFrame(), request.SerializeAsString()});
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED) << status.error_message();
  EXPECT_EQ(ErrorOfSpec("nosuch").code(), absl::StatusCode::kNotFound);
}

TEST_F(BadInput, DequantizeChecksItsPlanes) {
  const auto error_of = [this](const std::function<void(DequantizeFrames&)>& change) {
    v1::DequantizeStart start;
    *start.mutable_tensor() = ToProto(tensor_);
    start.mutable_spec()->set_text("int8:axis=0");
    DequantizeFrames frames;
    frames.Open(kId, start);
    change(frames);
    frames.End(kId);
    const auto answer = Exchange(*stub_, frames);
    EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
    const v1::TensorError& error = answer.tensors.at(kId).error.error();
    return absl::Status(static_cast<absl::StatusCode>(error.code()), error.message());
  };
  const std::string codes(8 * 32, '\1');
  const std::string scales(8 * 4, '\0');
  ExpectError(error_of([&](DequantizeFrames& frames) { frames.Chunk(kId, "codes", 0, codes); }),
              absl::StatusCode::kFailedPrecondition, {"scale"});
  ExpectError(error_of([&](DequantizeFrames& frames) { frames.Chunk(kId, "scale", 0, scales); }),
              absl::StatusCode::kDataLoss, {"codes"});
  ExpectError(
      error_of([&](DequantizeFrames& frames) { frames.Chunk(kId, "scale", 0, scales + "x"); }),
      absl::StatusCode::kOutOfRange, {"scale", "32 bytes"});
  ExpectError(error_of([&](DequantizeFrames& frames) { frames.Chunk(kId, "values", 0, codes); }),
              absl::StatusCode::kNotFound, {"values", "codes", "scale"});
}

TEST_F(BadInput, UnaryCallsHaveALimit) {
  v1::QuantizeRequest request;
  *request.mutable_start() = QuantizeStartOf(F32Tensor("t", {5 << 20}), "int8:scale=1");
  v1::QuantizeResponse response;
  grpc::ClientContext context;
  const grpc::Status status = stub_->Quantize(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_NE(status.error_message().find("StreamingQuantize"), std::string::npos)
      << status.error_message();
}

TEST_F(BadInput, UnaryCallsCheckTheirData) {
  v1::QuantizeRequest request;
  *request.mutable_start() = QuantizeStartOf(tensor_, "int8");
  v1::QuantizeResponse response;
  for (const auto& [data, code] : {std::pair{values_.substr(1), grpc::StatusCode::DATA_LOSS},
                                   std::pair{values_ + "x", grpc::StatusCode::OUT_OF_RANGE}}) {
    request.set_data(data);
    grpc::ClientContext context;
    EXPECT_EQ(stub_->Quantize(&context, request, &response).error_code(), code);
  }
  v1::DequantizeRequest back;
  *back.mutable_start()->mutable_tensor() = ToProto(tensor_);
  back.mutable_start()->mutable_spec()->set_text("int8");
  v1::PlaneData& codes = *back.add_planes();
  codes.mutable_plane()->set_name("codes");
  codes.set_data(std::string(8 * 32, '\1'));
  v1::DequantizeResponse values;
  grpc::ClientContext missing_context;
  const grpc::Status missing = stub_->Dequantize(&missing_context, back, &values);
  EXPECT_EQ(missing.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_NE(missing.error_message().find("scale has 0 bytes; 4 are expected"), std::string::npos)
      << missing.error_message();
  *back.add_planes() = codes;
  grpc::ClientContext twice_context;
  const grpc::Status twice = stub_->Dequantize(&twice_context, back, &values);
  EXPECT_EQ(twice.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_NE(twice.error_message().find("codes comes twice"), std::string::npos);
}

}  // namespace
}  // namespace quantd::testing
