#ifndef QUANTD_TESTS_CLIENT_FAKE_SERVER_H_
#define QUANTD_TESTS_CLIENT_FAKE_SERVER_H_

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "client/client.h"
#include "core/base/crc32c.h"
#include "core/base/digest.h"
#include "proto/convert.h"
#include "quantd/v1/quantization.grpc.pb.h"

namespace quantd {

// What a FakeServer does wrong.
enum class Lie {
  kNone,
  kOtherName,
  kOtherShape,
  kOtherSpec,
  kOtherPlane,
  kUnaddedPlanes,
  kHugePlane,
  kNoStart,
  kWrongCrc,
  kWrongOffset,
  kTooManyBytes,
  kTooFewBytes,
  kUnknownPlane,
  kWrongDigest,
  kNoDigest,
  kUnknownTensor,
  kEndsEarly,
};

// A service whose codes are the lowest byte of each element, and which does wrong what it is told.
// Thread-safe.
class FakeServer final : public v1::QuantizationService::Service {
 public:
  FakeServer() {
    grpc::ServerBuilder builder;
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~FakeServer() override { server_->Shutdown(); }

  Client client() { return Client(server_->InProcessChannel(ClientChannelArguments())); }

  std::atomic<Lie> lie = Lie::kNone;
  std::atomic<int> streams_to_break = 0;   // end with UNAVAILABLE in the middle of a tensor
  std::atomic<int> tensors_to_refuse = 0;  // get an error frame with UNAVAILABLE
  std::atomic<int> queries_to_refuse = 0;  // Plan and GetServerInfo end with UNAVAILABLE
  std::atomic<int> queries = 0;            // that there were
  std::atomic<bool> two_pass = false;      // no tensor is taken without ranges
  std::atomic<int> streams = 0, starts = 0, calibrations = 0;  // that there were

 private:
  struct Tensor {
    v1::QuantizeStart start;
    std::string values;
    bool is_let_in = false;  // the client was told so
  };
  using Stream =
      grpc::ServerReaderWriter<v1::StreamingQuantizeResponse, v1::StreamingQuantizeRequest>;

  v1::QuantizationPlan MakePlan(const v1::TensorDescriptor& tensor, bool with_ranges) const {
    const TensorDesc desc = FromProto(tensor).value();
    v1::QuantizationPlan plan;
    plan.set_resolved_spec("fake");
    plan.set_pass(two_pass && !with_ranges ? v1::QUANTIZATION_PASS_TWO_PASS
                                           : v1::QUANTIZATION_PASS_STATIC);
    plan.set_input_bytes(SizeBytes(desc).value());
    plan.set_output_bytes(desc.shape.num_elems());
    v1::Plane& codes = *plan.add_planes();
    codes.set_name("codes");
    codes.set_data_type(v1::DATA_TYPE_UINT8);
    *codes.mutable_shape() = tensor.shape();
    codes.set_size_bytes(desc.shape.num_elems());
    if (lie == Lie::kUnaddedPlanes) plan.set_output_bytes(1);
    if (lie == Lie::kHugePlane) {
      codes.clear_shape();
      codes.add_shape(int64_t{1} << 50);
      codes.set_size_bytes(int64_t{1} << 50);
      plan.set_output_bytes(int64_t{1} << 50);
    }
    return plan;
  }

  grpc::Status Plan(grpc::ServerContext*, const v1::PlanRequest* request,
                    v1::PlanResponse* response) override {
    ++queries;
    if (queries_to_refuse-- > 0) return {grpc::StatusCode::UNAVAILABLE, "not yet"};
    *response->mutable_plan() = MakePlan(request->tensor(), request->with_ranges());
    return grpc::Status::OK;
  }

  grpc::Status GetServerInfo(grpc::ServerContext*, const v1::GetServerInfoRequest*,
                             v1::GetServerInfoResponse*) override {
    ++queries;
    if (queries_to_refuse-- > 0) return {grpc::StatusCode::UNAVAILABLE, "not yet"};
    return grpc::Status::OK;
  }

  grpc::Status Calibrate(grpc::ServerContext*, grpc::ServerReader<v1::CalibrateRequest>* reader,
                         v1::CalibrateResponse* response) override {
    ++calibrations;
    v1::CalibrateRequest request;
    while (reader->Read(&request)) {
    }
    response->set_resolved_spec("fake");
    response->mutable_ranges()->add_min(-1);
    response->mutable_ranges()->add_max(1);
    response->mutable_ranges()->mutable_tensor()->set_min(-1);
    response->mutable_ranges()->mutable_tensor()->set_max(1);
    return grpc::Status::OK;
  }

  grpc::Status StreamingQuantize(grpc::ServerContext*, Stream* stream) override {
    ++streams;
    std::map<uint64_t, Tensor> tensors;
    v1::StreamingQuantizeRequest message;
    while (stream->Read(&message)) {
      if (message.frames_size() == 0) {
        const v1::StreamingQuantizeRequest alone = message;
        *message.add_frames() = alone;
      }
      for (const v1::StreamingQuantizeRequest& request : message.frames()) {
        if (const auto end = Take(request, tensors, *stream); end.has_value()) return *end;
      }
    }
    return grpc::Status::OK;
  }

  // Returns what the stream shall end with now; nothing: it goes on.
  std::optional<grpc::Status> Take(const v1::StreamingQuantizeRequest& request,
                                   std::map<uint64_t, Tensor>& tensors, Stream& stream) {
    Tensor& tensor = tensors[request.tensor_id()];
    if (request.has_start()) {
      ++starts;
      tensor.start = request.start();
      tensor.is_let_in = LetsIn(tensor);
      v1::StreamingQuantizeResponse frame;
      frame.set_tensor_id(request.tensor_id());
      if (tensor.is_let_in) SendStart(tensor, frame, stream);
    }
    if (request.has_chunk()) {
      if (streams_to_break > 0) {
        --streams_to_break;
        return grpc::Status(grpc::StatusCode::UNAVAILABLE, "going down");
      }
      tensor.values += request.chunk().data();
    }
    if (!request.has_end()) return std::nullopt;
    if (lie == Lie::kEndsEarly) return grpc::Status::OK;
    Answer(request.tensor_id(), tensor, stream);
    tensors.erase(request.tensor_id());
    return std::nullopt;
  }

  // The others are told what becomes of them when they are whole.
  bool LetsIn(const Tensor& tensor) const {
    return tensors_to_refuse <= 0 && !(two_pass && !tensor.start.has_ranges()) &&
           lie != Lie::kNoStart && lie != Lie::kUnknownTensor;
  }

  void Answer(uint64_t tensor_id, const Tensor& tensor, Stream& stream) {
    v1::StreamingQuantizeResponse frame;
    frame.set_tensor_id(tensor_id);
    if (tensors_to_refuse > 0) {
      --tensors_to_refuse;
      frame.mutable_error()->set_code(grpc::StatusCode::UNAVAILABLE);
      frame.mutable_error()->set_message("not now");
      stream.Write(frame);
      return;
    }
    if (two_pass && !tensor.start.has_ranges()) {
      frame.mutable_error()->set_code(grpc::StatusCode::FAILED_PRECONDITION);
      frame.mutable_error()->set_message("no ranges");
      stream.Write(frame);
      return;
    }
    if (lie == Lie::kUnknownTensor) frame.set_tensor_id(tensor_id + 1000);
    if (lie != Lie::kNoStart && !tensor.is_let_in) SendStart(tensor, frame, stream);
    std::string codes;
    const size_t elem_bytes = tensor.values.size() / static_cast<size_t>(NumElems(tensor));
    for (size_t i = 0; i < tensor.values.size(); i += elem_bytes) codes += tensor.values[i];
    const std::string digest = DigestOf(std::as_bytes(std::span(codes)));
    SendCodes(codes, frame, stream);
    v1::QuantizationReport& report = *frame.mutable_end()->mutable_report();
    if (lie != Lie::kNoDigest) {
      (*report.mutable_digests())["codes"] = lie == Lie::kWrongDigest ? DigestOf({}) : digest;
    }
    stream.Write(frame);
  }

  static int64_t NumElems(const Tensor& tensor) {
    return FromProto(tensor.start.tensor()).value().shape.num_elems();
  }

  void SendStart(const Tensor& tensor, v1::StreamingQuantizeResponse frame, Stream& stream) const {
    v1::QuantizeStarted& started = *frame.mutable_start();
    *started.mutable_tensor() = tensor.start.tensor();
    *started.mutable_plan() = MakePlan(tensor.start.tensor(), tensor.start.has_ranges());
    if (lie == Lie::kOtherName) started.mutable_tensor()->set_name("other");
    if (lie == Lie::kOtherShape) started.mutable_tensor()->add_shape(1);
    if (lie == Lie::kOtherSpec) started.mutable_plan()->set_resolved_spec("other");
    if (lie == Lie::kOtherPlane) started.mutable_plan()->mutable_planes(0)->set_name("other");
    stream.Write(frame);
  }

  void SendCodes(const std::string& codes, v1::StreamingQuantizeResponse frame,
                 Stream& stream) const {
    const size_t half = codes.size() / 2;
    for (const size_t begin : {size_t{0}, half}) {
      if (lie == Lie::kTooFewBytes && begin != 0) break;
      v1::Chunk& chunk = *frame.mutable_chunk();
      chunk.set_plane(lie == Lie::kUnknownPlane ? "other" : "codes");
      chunk.set_offset(static_cast<int64_t>(begin) + (lie == Lie::kWrongOffset ? 1 : 0));
      chunk.set_data(begin == 0 ? codes.substr(0, half) : codes.substr(half));
      if (lie == Lie::kTooManyBytes) chunk.mutable_data()->append(codes);
      chunk.set_crc32c(Crc32c(std::as_bytes(std::span(chunk.data()))) ^
                       (lie == Lie::kWrongCrc ? 1 : 0));
      stream.Write(frame);
    }
  }

  std::unique_ptr<grpc::Server> server_;
};

}  // namespace quantd

#endif  // QUANTD_TESTS_CLIENT_FAKE_SERVER_H_
