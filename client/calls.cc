// What the kinds of calls say at their start and check at both ends: the rest is TensorCall's.
//
// Entries: MakeQuantizeCall, MakeDequantizeCall, MakeCalibrateCall, ReadPlan. Tested by
// tests/client/client_test.cc against a server that lies.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/tensor_call.h"
#include "core/base/checked_math.h"
#include "core/base/status_macros.h"
#include "core/tensor/shape.h"

namespace quantd {
namespace {

// No plan is larger: the widest parameters of one element take far less than this.
constexpr int64_t kMaxGrowth = 64;
constexpr int64_t kMaxFixedBytes = 64 << 10;

absl::Status BadAnswer(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("the server's answer is wrong: ", what));
}

// Returns the message of a frame; kDataLoss if it cannot be read.
template <typename Message>
absl::StatusOr<Message> ParseMessage(const ParsedFrame& frame) {
  Message message;
  if (!message.ParseFromString(frame.message)) {
    return absl::DataLossError("the server sent a frame that cannot be read");
  }
  return message;
}

// kDataLoss unless the server speaks of the tensor that it was asked for.
absl::Status CheckEcho(const v1::TensorDescriptor& echo, const TensorDesc& asked) {
  const auto found = FromProto(echo);
  if (found.ok() && *found == asked) return absl::OkStatus();
  return BadAnswer(absl::StrCat(
      "it is about ",
      found.ok() ? absl::StrCat(found->name, " ", NameOf(found->dtype), " ", found->shape.Text())
                 : "no tensor",
      ", asked was ", asked.name, " ", NameOf(asked.dtype), " ", asked.shape.Text()));
}

// Returns what a map of digests says of a plane.
std::string DigestIn(const google::protobuf::Map<std::string, std::string>& digests,
                     const std::string& plane, absl::string_view otherwise) {
  const auto found = digests.find(plane);
  return found == digests.end() ? std::string(otherwise) : found->second;
}

bool SamePlane(const PlaneDesc& a, const PlaneDesc& b) {
  return a.name == b.name && a.dtype == b.dtype && a.shape == b.shape &&
         a.size_bytes == b.size_bytes;
}

absl::Status CheckPlanes(const TensorPlan& plan) {
  if (plan.planes.empty()) return BadAnswer("no planes");
  int64_t total_bytes = 0;
  for (size_t i = 0; i < plan.planes.size(); ++i) {
    const PlaneDesc& plane = plan.planes[i];
    const auto size_bytes = SizeBytes({plane.name, plane.dtype, plane.shape});
    if (!size_bytes.ok() || *size_bytes != plane.size_bytes) {
      return BadAnswer(absl::StrCat("plane ", plane.name, " of ", NameOf(plane.dtype), " ",
                                    plane.shape.Text(), " with ", plane.size_bytes, " bytes"));
    }
    for (size_t j = 0; j < i; ++j) {
      if (plan.planes[j].name == plane.name) {
        return BadAnswer(absl::StrCat("two planes called ", plane.name));
      }
    }
    QUANTD_ASSIGN_OR_RETURN(total_bytes, CheckedAdd(total_bytes, plane.size_bytes));
  }
  if (total_bytes != plan.output_bytes) {
    return BadAnswer(
        absl::StrCat("planes of ", total_bytes, " bytes in an output of ", plan.output_bytes));
  }
  if (total_bytes / kMaxGrowth > plan.input_bytes + kMaxFixedBytes) {
    return BadAnswer(absl::StrCat("an output of ", total_bytes, " bytes from ", plan.input_bytes));
  }
  return absl::OkStatus();
}

class QuantizeCall final : public TensorCall {
 public:
  QuantizeCall(QuantizeJob job, const CallOptions& options, FindRanges find_ranges,
               QuantizedInfo& info)
      : TensorCall(kQuantizeStream, std::vector<PlaneInput>{{"", job.source}}, job.sink, options),
        job_(std::move(job)),
        find_ranges_(std::move(find_ranges)),
        info_(info) {}

  absl::Status Prepare() override {
    QUANTD_ASSIGN_OR_RETURN(const int64_t size_bytes, SizeBytes(job_.tensor));
    if (job_.source->size_bytes() != size_bytes) {
      return absl::InvalidArgumentError(absl::StrCat(
          "source of ", job_.source->size_bytes(), " bytes for a tensor ",
          NameOf(job_.tensor.dtype), " ", job_.tensor.shape.Text(), " of ", size_bytes));
    }
    const bool finds = job_.plan->pass == Pass::kTwoPass && job_.codebook.empty();
    if (!finds || job_.ranges.has_value()) return absl::OkStatus();
    if (!job_.source->can_rewind()) {
      return absl::FailedPreconditionError(absl::StrCat(
          FormatSpec(job_.spec), " needs the whole tensor (", size_bytes,
          " bytes), which is over the server's memory budget, and a pipe cannot be read twice; "
          "send a file, give the range (range=MIN..MAX or ranges of calibrate), raise the budget, "
          "or let rows or groups have their own scales (axis=0, group=N)"));
    }
    QUANTD_ASSIGN_OR_RETURN(job_.ranges, find_ranges_(job_));
    info_.two_pass = true;
    if (options().on_sent != nullptr) options().on_sent(-size_bytes);
    return RewindSources();
  }

  absl::Status Restart() override {
    if (has_read() && !job_.source->can_rewind()) {
      return absl::FailedPreconditionError("a pipe cannot be sent again");
    }
    ++info_.attempts;
    return TensorCall::Restart();
  }

 protected:
  grpc::ByteBuffer StartRequest(uint64_t tensor_id, const StreamRegion* region) const override {
    v1::StreamingQuantizeRequest request;
    request.set_tensor_id(tensor_id);
    v1::QuantizeStart& start = *request.mutable_start();
    FillStart(job_.tensor, job_.spec, region, start);
    if (job_.ranges.has_value()) *start.mutable_ranges() = ToProto(*job_.ranges);
    start.mutable_importance()->Add(job_.importance.begin(), job_.importance.end());
    start.mutable_codebook()->Add(job_.codebook.begin(), job_.codebook.end());
    start.set_omit_figures(!options().figures);
    return SerializeFrame(request);
  }

  absl::StatusOr<std::vector<PlaneDesc>> TakeStart(const ParsedFrame& frame) override {
    QUANTD_ASSIGN_OR_RETURN(const auto started, ParseMessage<v1::QuantizeStarted>(frame));
    QUANTD_RETURN_IF_ERROR(CheckEcho(started.tensor(), job_.tensor));
    QUANTD_ASSIGN_OR_RETURN(info_.plan, ReadPlan(started.plan(), job_.tensor));
    // The pass may differ: the ranges are known by now, or the budget is another.
    const TensorPlan& planned = *job_.plan;
    if (info_.plan.resolved_spec != planned.resolved_spec) {
      return absl::DataLossError(absl::StrCat("the server took spec ", info_.plan.resolved_spec,
                                              " where it had planned ", planned.resolved_spec));
    }
    if (!std::equal(info_.plan.planes.begin(), info_.plan.planes.end(), planned.planes.begin(),
                    planned.planes.end(), SamePlane)) {
      return absl::DataLossError("the server announced other planes than it had planned");
    }
    return info_.plan.planes;
  }

  absl::Status TakeEnd(const ParsedFrame& frame) override {
    QUANTD_ASSIGN_OR_RETURN(const auto finished, ParseMessage<v1::QuantizeFinished>(frame));
    const v1::QuantizationReport& report = finished.report();
    QUANTD_RETURN_IF_ERROR(EndPlanes([&report](const std::string& plane) {
      return DigestIn(report.digests(), plane, "nothing of it");
    }));
    QUANTD_ASSIGN_OR_RETURN(info_.report, FromProto(report, info_.plan.planes));
    info_.elapsed = FromProto(report.elapsed());
    info_.encoding = FromProto(report.encoding());
    return absl::OkStatus();
  }

 private:
  QuantizeJob job_;
  const FindRanges find_ranges_;
  QuantizedInfo& info_;
};

// Parameters are sent as a whole before the codes, which is early enough for any window.
std::vector<PlaneInput> CodesLast(std::vector<PlaneInput> planes) {
  std::rotate(planes.begin(), planes.begin() + 1, planes.end());
  return planes;
}

class DequantizeCall final : public TensorCall {
 public:
  DequantizeCall(DequantizeJob job, const CallOptions& options, DequantizedInfo& info)
      : TensorCall(kDequantizeStream, CodesLast(job.planes), job.sink, options),
        job_(std::move(job)),
        info_(info) {}

 protected:
  grpc::ByteBuffer StartRequest(uint64_t tensor_id, const StreamRegion* region) const override {
    v1::StreamingDequantizeRequest request;
    request.set_tensor_id(tensor_id);
    FillStart(job_.tensor, job_.spec, region, *request.mutable_start());
    request.mutable_start()->set_output_data_type(ToProto(job_.output_dtype));
    return SerializeFrame(request);
  }

  absl::StatusOr<std::vector<PlaneDesc>> TakeStart(const ParsedFrame& frame) override {
    QUANTD_ASSIGN_OR_RETURN(const auto started, ParseMessage<v1::DequantizeStarted>(frame));
    TensorDesc values = job_.tensor;
    values.dtype = job_.output_dtype;
    QUANTD_RETURN_IF_ERROR(CheckEcho(started.tensor(), values));
    const auto& planes = started.planes();
    const bool same =
        std::equal(planes.begin(), planes.end(), job_.planes.begin(), job_.planes.end(),
                   [](const v1::Plane& expected, const PlaneInput& given) {
                     return expected.name() == given.name &&
                            expected.size_bytes() == given.source->size_bytes();
                   });
    if (!same) {
      std::string text;
      for (const v1::Plane& plane : planes) {
        absl::StrAppend(&text, " ", plane.name(), " (", plane.size_bytes(), " bytes)");
      }
      return absl::InvalidArgumentError(
          absl::StrCat("spec ", FormatSpec(job_.spec), " has other planes than were given:", text));
    }
    QUANTD_ASSIGN_OR_RETURN(const int64_t size_bytes, SizeBytes(values));
    return std::vector<PlaneDesc>{{.name = "values",
                                   .dtype = values.dtype,
                                   .shape = values.shape,
                                   .size_bytes = size_bytes}};
  }

  absl::Status TakeEnd(const ParsedFrame& frame) override {
    QUANTD_ASSIGN_OR_RETURN(const auto finished, ParseMessage<v1::DequantizeFinished>(frame));
    QUANTD_RETURN_IF_ERROR(
        EndPlanes([&finished](const std::string&) { return finished.values_digest(); }));
    info_.values_digest = finished.values_digest();
    info_.saturated = finished.saturated();
    for (const PlaneInput& plane : job_.planes) {
      info_.plane_digests.push_back(DigestIn(finished.plane_digests(), plane.name, ""));
    }
    return absl::OkStatus();
  }

 private:
  const DequantizeJob job_;
  DequantizedInfo& info_;
};

// No planes come back, and the answer is one message.
class CalibrateCall final : public TensorCall {
 public:
  CalibrateCall(v1::CalibrateRequest start, ByteSource& source, const CallOptions& options,
                CalibrationInfo& info)
      : TensorCall(kCalibrateStream, std::vector<PlaneInput>{{"", &source}}, nullptr, options),
        start_(std::move(start)),
        info_(info) {}

 protected:
  grpc::ByteBuffer StartRequest(uint64_t, const StreamRegion*) const override {
    return SerializeFrame(start_);
  }
  absl::Status TakeEnd(const ParsedFrame& frame) override {
    QUANTD_ASSIGN_OR_RETURN(const auto response, ParseMessage<v1::CalibrateResponse>(frame));
    info_.resolved_spec = response.resolved_spec();
    QUANTD_ASSIGN_OR_RETURN(info_.ranges, FromProto(response.ranges()));
    QUANTD_ASSIGN_OR_RETURN(info_.state, FromProto(response.state()));
    return absl::OkStatus();
  }

 private:
  const v1::CalibrateRequest start_;
  CalibrationInfo& info_;
};

}  // namespace

absl::StatusOr<TensorPlan> ReadPlan(const v1::QuantizationPlan& message, const TensorDesc& tensor) {
  TensorPlan plan;
  plan.resolved_spec = message.resolved_spec();
  plan.input_bytes = message.input_bytes();
  plan.output_bytes = message.output_bytes();
  plan.resident_bytes = message.resident_bytes();
  plan.num_groups = message.num_groups();
  plan.fallback_reason = message.fallback_reason();
  for (const v1::Plane& plane : message.planes()) {
    absl::StatusOr<PlaneDesc> read = FromProto(plane);
    if (!read.ok()) return BadAnswer(read.status().message());
    plan.planes.push_back(*std::move(read));
  }
  const absl::StatusOr<Pass> pass = FromProto(message.pass(), "pass");
  if (!pass.ok()) return BadAnswer(pass.status().message());
  plan.pass = *pass;
  QUANTD_ASSIGN_OR_RETURN(const int64_t input_bytes, SizeBytes(tensor));
  if (plan.input_bytes != input_bytes) {
    return BadAnswer(absl::StrCat("input of ", plan.input_bytes, " bytes, which is ", input_bytes));
  }
  QUANTD_RETURN_IF_ERROR(CheckPlanes(plan));
  return plan;
}

std::unique_ptr<TensorCall> MakeQuantizeCall(QuantizeJob job, const CallOptions& options,
                                             FindRanges find_ranges, QuantizedInfo& info) {
  return std::make_unique<QuantizeCall>(std::move(job), options, std::move(find_ranges), info);
}

std::unique_ptr<TensorCall> MakeDequantizeCall(DequantizeJob job, const CallOptions& options,
                                               DequantizedInfo& info) {
  return std::make_unique<DequantizeCall>(std::move(job), options, info);
}

std::unique_ptr<TensorCall> MakeCalibrateCall(const TensorDesc& tensor, const QuantSpec& spec,
                                              ByteSource& source,
                                              const CalibrationOptions& calibration,
                                              const CallOptions& options, CalibrationInfo& info) {
  v1::CalibrateRequest request;
  v1::CalibrateStart& start = *request.mutable_start();
  *start.mutable_tensor() = ToProto(tensor);
  *start.mutable_spec() = ToProto(spec);
  start.set_histogram(calibration.histogram);
  start.set_column_moments(calibration.column_moments);
  start.set_gram(calibration.gram);
  return std::make_unique<CalibrateCall>(std::move(request), source, options, info);
}

}  // namespace quantd
