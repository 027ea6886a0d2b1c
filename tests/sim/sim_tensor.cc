#include "tests/sim/sim_tensor.h"

#include <grpcpp/support/slice.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <optional>
#include <span>

#include "absl/strings/str_cat.h"
#include "core/base/crc32c.h"
#include "core/base/digest.h"
#include "core/session/calibration.h"
#include "core/session/quantize_session.h"
#include "google/protobuf/util/message_differencer.h"
#include "proto/convert.h"
#include "quantd/v1/quantization.pb.h"
#include "tests/support/cuts.h"
#include "tests/support/values.h"

namespace quantd::sim {
namespace {

using testing::MakeTensor;
using testing::MakeValues;
using testing::ValueKind;

struct Described {
  std::vector<int64_t> dims;
  const char* spec;
};
const std::array<Described, kNumTensors> kTensors = {{
    {{3, 7}, "int8:axis=0"},
    {{0, 5}, "int8:axis=0"},
    {{700, 300}, "int8:axis=0"},
    {{150'000}, "int8"},
    {{500, 400}, "uint4:group=8"},
    {{2, 100'000}, "int8:axis=0"},
    {{300, 512}, "q8_0"},
    {{90'000}, "fp16"},
    {{66'000}, "int8:scale=0.01"},
    {{40, 1001}, "fbgemm_rowwise8"},
    {{150, 1001}, "int4:axis=0,outliers=7"},
}};

std::shared_ptr<const Exchange> Make(Rpc rpc, int64_t number) {
  testing::Bench bench;
  const Described& described = kTensors[static_cast<size_t>(number)];
  auto made = std::make_shared<Exchange>();
  made->tensor = MakeTensor("t", DType::kF32, described.dims);
  made->spec = described.spec;
  const std::vector<std::byte> values =
      MakeValues(made->tensor, ValueKind::kNormal, static_cast<uint32_t>(number));
  const QuantizedTensor whole =
      *QuantizeAll(*ParseSpec(made->spec), made->tensor, values, {}, bench.context());
  const std::vector<PlaneDesc>& planes = whole.plan.resolved.layout.planes;
  if (rpc == Rpc::kDequantize) {
    for (size_t i = 1; i <= planes.size(); ++i) {  // codes last
      const size_t plane = i % planes.size();
      made->inputs.emplace_back(planes[plane].name, whole.planes[plane]);
    }
    made->outputs["values"] =
        *testing::DequantizeCut(whole, DType::kF32, testing::Cut::kWhole, bench.context());
    PlaneDigest digest;
    digest.Update(made->outputs["values"]);
    made->digests["values"] = digest.Text();
    return made;
  }
  made->inputs.emplace_back("", values);
  made->plan = ToProto(whole.plan);
  if (rpc != Rpc::kCalibrate) {
    for (size_t plane = 0; plane < planes.size(); ++plane) {
      made->outputs[planes[plane].name] = whole.planes[plane];
      made->digests[planes[plane].name] = whole.report.digests[plane];
    }
    return made;
  }
  const CalibrationState state =
      *testing::CalibrateCut(whole.plan, values, testing::Cut::kWhole, {}, bench.context());
  v1::CalibrateResponse response;
  response.set_resolved_spec(FormatSpec(whole.plan.resolved.spec));
  *response.mutable_ranges() = ToProto(*RangesOf(whole.plan, state));
  *response.mutable_state() = ToProto(state);
  made->end = response.SerializeAsString();
  return made;
}

}  // namespace

std::shared_ptr<const Exchange> MakeExchange(Rpc rpc, int64_t number) {
  static std::map<std::pair<Rpc, int64_t>, std::shared_ptr<const Exchange>> known;
  std::shared_ptr<const Exchange>& made = known[{rpc, number}];
  if (made == nullptr) made = Make(rpc, number);
  return made;
}

std::string BytesOf(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  std::string bytes;
  if (!buffer.Dump(&slices).ok()) return bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return bytes;
}

grpc::ByteBuffer Garbled(Dice& dice, const grpc::ByteBuffer& message) {
  std::string bytes = BytesOf(message);
  if (!bytes.empty()) {
    bytes[static_cast<size_t>(dice.Below(std::min<int64_t>(std::ssize(bytes), 64)))] ^=
        static_cast<char>(1 + dice.Below(255));
  }
  const grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

FrameFields SimTensor::fields() const {
  return rpc_ == Rpc::kCalibrate ? kCalibrateFrame : kRequestFrame;
}

grpc::ByteBuffer SimTensor::StartFrame(Dice& dice) const {
  const v1::TensorDescriptor tensor = ToProto(exchange_->tensor);
  const v1::QuantizationSpec spec = ToProto(*ParseSpec(exchange_->spec));
  const int64_t chunk_bytes = dice.OneIn(3) ? 1024 << dice.Below(8) : 0;
  switch (rpc_) {
    case Rpc::kQuantize: {
      v1::StreamingQuantizeRequest frame;
      frame.set_tensor_id(id_);
      *frame.mutable_start()->mutable_tensor() = tensor;
      *frame.mutable_start()->mutable_spec() = spec;
      frame.mutable_start()->set_max_chunk_bytes(chunk_bytes);
      return SerializeFrame(frame);
    }
    case Rpc::kDequantize: {
      v1::StreamingDequantizeRequest frame;
      frame.set_tensor_id(id_);
      *frame.mutable_start()->mutable_tensor() = tensor;
      *frame.mutable_start()->mutable_spec() = spec;
      frame.mutable_start()->set_max_chunk_bytes(chunk_bytes);
      return SerializeFrame(frame);
    }
    case Rpc::kCalibrate:
    case Rpc::kUnaryQuantize:
      break;
  }
  v1::CalibrateRequest frame;
  *frame.mutable_start()->mutable_tensor() = tensor;
  *frame.mutable_start()->mutable_spec() = spec;
  return SerializeFrame(frame);
}

grpc::ByteBuffer SimTensor::Request(bool damaged) const {
  v1::QuantizeRequest request;
  *request.mutable_start()->mutable_tensor() = ToProto(exchange_->tensor);
  *request.mutable_start()->mutable_spec() = ToProto(*ParseSpec(exchange_->spec));
  const std::vector<std::byte>& values = exchange_->inputs[0].second;
  request.set_data(values.data(), values.size());
  if (damaged) request.mutable_data()->append("x");
  return SerializeFrame(request);
}

std::vector<grpc::ByteBuffer> SimTensor::Frames(Dice& dice, bool damaged) const {
  if (rpc_ == Rpc::kUnaryQuantize) return {Request(damaged)};
  std::vector<grpc::ByteBuffer> frames = {StartFrame(dice)};
  for (const auto& [plane, bytes] : exchange_->inputs) {
    for (size_t at = 0; at < bytes.size();) {
      const auto left = static_cast<int64_t>(bytes.size() - at);
      const int64_t most = dice.OneIn(4) ? 5'000 : 300'000;
      const auto size = static_cast<size_t>(std::min(left, 1 + dice.Below(most)));
      const auto part = std::span(bytes).subspan(at, size);
      uint32_t crc32c = Crc32c(part);
      if (damaged && dice.OneIn(4)) crc32c ^= 1;
      frames.push_back(BuildChunkFrame(fields(), id_, plane, static_cast<int64_t>(at), crc32c,
                                       grpc::Slice(part.data(), part.size())));
      at += size;
    }
  }
  frames.push_back(BuildEndFrame(fields(), id_));
  return frames;
}

std::string SimTensor::Take(const ParsedFrame& frame) {
  if (!strict_) {
    done_ = done_ || frame.kind == FrameKind::kEnd;
    failed_ = failed_ || frame.kind == FrameKind::kError;
    return "";
  }
  if (over()) return "it goes on after its end";
  switch (frame.kind) {
    case FrameKind::kStart:
      if (std::exchange(started_, true)) return "it starts twice";
      return "";
    case FrameKind::kChunk:
      return started_ ? TakeChunk(frame) : "a chunk before it has started";
    case FrameKind::kEnd:
      done_ = true;
      return TakeEnd(frame.message);
    case FrameKind::kError:
      failed_ = true;
      return "";
    case FrameKind::kNone:
    case FrameKind::kReleased:
      break;
  }
  return "a frame that nobody asked for";
}

std::string SimTensor::TakeChunk(const ParsedFrame& frame) {
  std::vector<std::byte>& received = received_[frame.plane];
  if (frame.offset != std::ssize(received)) return "a gap";
  uint32_t crc32c = 0;
  for (const auto part : frame.data) {
    crc32c = Crc32c(part, crc32c);
    received.insert(received.end(), part.begin(), part.end());
  }
  return frame.crc32c == crc32c ? "" : "a wrong checksum";
}

std::string SimTensor::TakeEnd(const std::string& message) {
  for (const auto& [plane, bytes] : exchange_->outputs) {
    if (received_[plane] != bytes) return absl::StrCat("plane ", plane, " has other bytes");
  }
  if (received_.size() > exchange_->outputs.size()) return "planes that are not its own";
  if (rpc_ == Rpc::kQuantize) {
    v1::QuantizeFinished end;
    if (!end.ParseFromString(message)) return "an end that cannot be read";
    const auto& digests = end.report().digests();
    return std::map<std::string, std::string>(digests.begin(), digests.end()) == exchange_->digests
               ? ""
               : "other digests";
  }
  if (rpc_ == Rpc::kDequantize) {
    v1::DequantizeFinished end;
    if (!end.ParseFromString(message)) return "an end that cannot be read";
    return end.values_digest() == exchange_->digests.at("values") ? "" : "another digest";
  }
  return "an end of what has none";
}

std::string SimTensor::TakeWhole(const std::string& bytes) {
  v1::QuantizeResponse response;
  if (!response.ParseFromString(bytes)) return "a response that cannot be read";
  if (!strict_) return "";
  for (const v1::PlaneData& plane : response.planes()) {
    const std::string& data = plane.data();
    const auto begin = reinterpret_cast<const std::byte*>(data.data());
    received_[plane.plane().name()].assign(begin, begin + data.size());
  }
  const auto& digests = response.report().digests();
  if (received_ != exchange_->outputs) return "other bytes";
  return std::map<std::string, std::string>(digests.begin(), digests.end()) == exchange_->digests
             ? ""
             : "other digests";
}

std::string SimTensor::Compare(const std::vector<PlaneDesc>& planes,
                               const std::vector<std::vector<std::byte>>& bytes) const {
  if (planes.size() != exchange_->outputs.size()) return "planes are not its own";
  for (size_t i = 0; i < planes.size(); ++i) {
    const auto expected = exchange_->outputs.find(planes[i].name);
    if (expected == exchange_->outputs.end() || bytes.at(i) != expected->second) {
      return absl::StrCat("plane ", planes[i].name, " has other bytes");
    }
  }
  return "";
}

std::string SimTensor::TakeResponse(const std::string& bytes) {
  if (over()) return "it goes on after its end";
  done_ = true;
  if (rpc_ == Rpc::kUnaryQuantize) return TakeWhole(bytes);
  v1::CalibrateResponse response, expected;
  if (!response.ParseFromString(bytes)) return "a response that cannot be read";
  expected.ParseFromString(exchange_->end);
  if (!strict_) return "";
  return google::protobuf::util::MessageDifferencer::Equals(response, expected) ? ""
                                                                                : "other ranges";
}

}  // namespace quantd::sim
