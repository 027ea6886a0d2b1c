#ifndef QUANTD_PROTO_CONVERT_H_
#define QUANTD_PROTO_CONVERT_H_

#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/scheme/scheme.h"
#include "core/scheme/spec.h"
#include "core/session/calibration.h"
#include "core/session/dequantize_session.h"
#include "core/session/planner.h"
#include "core/session/report.h"
#include "core/tensor/shape.h"
#include "quantd/v1/quantization.pb.h"

// Messages to core structures and back; nothing else knows both. FromProto checks what it takes
// over: kInvalidArgument names the field, the value found, and what is allowed. All functions are
// thread-safe.
namespace quantd {

// Longest tensor name on the wire.
inline constexpr size_t kMaxTensorNameBytes = 1024;

v1::DataType ToProto(DType dtype);
v1::QuantizationPass ToProto(Pass pass);
v1::TensorDescriptor ToProto(const TensorDesc& tensor);
v1::QuantizationSpec ToProto(const QuantSpec& spec);
v1::Range ToProto(const Range& range);
v1::Plane ToProto(const PlaneDesc& plane);
v1::QuantizationPlan ToProto(const Plan& plan);
v1::CalibratedRanges ToProto(const CalibratedRanges& ranges);
v1::CalibrationState ToProto(const CalibrationState& state);
v1::Figures ToProto(const Figures& figures);
v1::SchemeDescription ToProto(const Scheme& scheme);
// Times are left out; `planes` gives the digests their names.
v1::QuantizationReport ToProto(const EncodingReport& report, std::span<const PlaneDesc> planes);
v1::DequantizeFinished ToProto(const DecodingReport& report, std::span<const PlaneDesc> planes);

// `field` is what errors call the message or value.
absl::StatusOr<DType> FromProto(v1::DataType data_type, absl::string_view field);
absl::StatusOr<Pass> FromProto(v1::QuantizationPass pass, absl::string_view field);
absl::StatusOr<TensorDesc> FromProto(const v1::TensorDescriptor& message,
                                     absl::string_view field = "tensor");
// Takes `text`, or all other fields; both at once are an error.
absl::StatusOr<QuantSpec> FromProto(const v1::QuantizationSpec& message,
                                    absl::string_view field = "spec");
absl::StatusOr<Range> FromProto(const v1::Range& message, absl::string_view field = "range");
// The role is kCodes for the plane of that name and kPerGroup for others: the wire has none.
absl::StatusOr<PlaneDesc> FromProto(const v1::Plane& message, absl::string_view field = "plane");
absl::StatusOr<CalibratedRanges> FromProto(const v1::CalibratedRanges& message,
                                           absl::string_view field = "ranges");
absl::StatusOr<CalibrationState> FromProto(const v1::CalibrationState& message,
                                           absl::string_view field = "state");
// Digests come in the order of `planes`; one that is missing is an error.
absl::StatusOr<EncodingReport> FromProto(const v1::QuantizationReport& message,
                                         std::span<const PlaneDesc> planes,
                                         absl::string_view field = "report");
absl::Duration FromProto(const google::protobuf::Duration& message);

}  // namespace quantd

#endif  // QUANTD_PROTO_CONVERT_H_
