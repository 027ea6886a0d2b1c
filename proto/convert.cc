#include "proto/convert.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_detail.h"
#include "core/base/status_macros.h"
#include "core/scheme/registry.h"

namespace quantd {
namespace {

constexpr std::pair<DType, v1::DataType> kDataTypes[] = {
    {DType::kF64, v1::DATA_TYPE_F64},        {DType::kF32, v1::DATA_TYPE_F32},
    {DType::kF16, v1::DATA_TYPE_F16},        {DType::kBf16, v1::DATA_TYPE_BF16},
    {DType::kInt8, v1::DATA_TYPE_INT8},      {DType::kInt16, v1::DATA_TYPE_INT16},
    {DType::kInt32, v1::DATA_TYPE_INT32},    {DType::kInt64, v1::DATA_TYPE_INT64},
    {DType::kUint8, v1::DATA_TYPE_UINT8},    {DType::kUint16, v1::DATA_TYPE_UINT16},
    {DType::kUint32, v1::DATA_TYPE_UINT32},  {DType::kUint64, v1::DATA_TYPE_UINT64},
    {DType::kBool, v1::DATA_TYPE_BOOL},      {DType::kF8E4M3, v1::DATA_TYPE_F8_E4M3},
    {DType::kF8E5M2, v1::DATA_TYPE_F8_E5M2},
};
constexpr std::pair<Pass, v1::QuantizationPass> kPasses[] = {
    {Pass::kStatic, v1::QUANTIZATION_PASS_STATIC},
    {Pass::kLocal, v1::QUANTIZATION_PASS_LOCAL},
    {Pass::kBuffered, v1::QUANTIZATION_PASS_BUFFERED},
    {Pass::kTwoPass, v1::QUANTIZATION_PASS_TWO_PASS},
};

template <typename Core, typename Wire, size_t N>
Wire ToWire(const std::pair<Core, Wire> (&table)[N], Core value) {
  for (const auto& [core, wire] : table) {
    if (core == value) return wire;
  }
  return Wire{};
}

template <typename Core, typename Wire, size_t N>
absl::StatusOr<Core> ToCore(const std::pair<Core, Wire> (&table)[N], Wire value,
                            absl::string_view field) {
  for (const auto& [core, wire] : table) {
    if (wire == value) return core;
  }
  return WithField(absl::InvalidArgumentError(absl::StrCat(field, "=", static_cast<int>(value),
                                                           " is not a known value; use 1 to ", N)),
                   field);
}

absl::Status FieldError(absl::string_view field, absl::string_view what) {
  return WithField(absl::InvalidArgumentError(absl::StrCat(field, ": ", what)), field);
}

absl::StatusOr<Shape> ShapeFromProto(const google::protobuf::RepeatedField<int64_t>& dims,
                                     absl::string_view field) {
  absl::StatusOr<Shape> shape = Shape::Make(std::vector<int64_t>(dims.begin(), dims.end()));
  if (!shape.ok()) return FieldError(absl::StrCat(field, ".shape"), shape.status().message());
  return shape;
}

bool IsRange(const Range& range) {
  return std::isfinite(range.min) && std::isfinite(range.max) && range.min <= range.max;
}

absl::Status RangeError(absl::string_view field, const Range& range) {
  return FieldError(field, absl::StrCat(FormatDouble(range.min), "..", FormatDouble(range.max),
                                        " is not a finite MIN..MAX with MIN at most MAX"));
}

absl::Status CheckCount(int64_t count, absl::string_view field) {
  if (count >= 0) return absl::OkStatus();
  return FieldError(field, absl::StrCat(count, " is negative"));
}

v1::GroupStatistics GroupToProto(const CalibrationState::Group& group) {
  v1::GroupStatistics message;
  message.set_count(group.count);
  message.set_min(group.min);
  message.set_max(group.max);
  message.set_mean(group.mean);
  message.set_centred_second_moment(group.m2);
  message.set_magnitudes(group.magnitudes);
  return message;
}

absl::StatusOr<CalibrationState::Group> GroupFromProto(const v1::GroupStatistics& message,
                                                       absl::string_view field) {
  QUANTD_RETURN_IF_ERROR(CheckCount(message.count(), absl::StrCat(field, ".count")));
  return CalibrationState::Group{.count = message.count(),
                                 .min = message.min(),
                                 .max = message.max(),
                                 .mean = message.mean(),
                                 .m2 = message.centred_second_moment(),
                                 .magnitudes = message.magnitudes()};
}

Figures FiguresFromProto(const v1::Figures& message) {
  Figures figures;
  figures.count = message.count();
  figures.sum = message.sum();
  figures.min = message.min();
  figures.max = message.max();
  figures.m2 = message.centred_second_moment();
  figures.signal_energy = message.signal_energy();
  figures.error_energy = message.error_energy();
  figures.cross_energy = message.cross_energy();
  figures.max_error = message.max_error();
  figures.max_error_elem = message.max_error_elem();
  return figures;
}

}  // namespace

v1::DataType ToProto(DType dtype) { return ToWire(kDataTypes, dtype); }
v1::QuantizationPass ToProto(Pass pass) { return ToWire(kPasses, pass); }

v1::TensorDescriptor ToProto(const TensorDesc& tensor) {
  v1::TensorDescriptor message;
  message.set_name(tensor.name);
  message.set_data_type(ToProto(tensor.dtype));
  for (const int64_t dim : tensor.shape.dims()) message.add_shape(dim);
  return message;
}

v1::Range ToProto(const Range& range) {
  v1::Range message;
  message.set_min(range.min);
  message.set_max(range.max);
  return message;
}

v1::Plane ToProto(const PlaneDesc& plane) {
  v1::Plane message;
  message.set_name(plane.name);
  message.set_data_type(ToProto(plane.dtype));
  for (const int64_t dim : plane.shape.dims()) message.add_shape(dim);
  message.set_size_bytes(plane.size_bytes);
  return message;
}

v1::QuantizationPlan ToProto(const Plan& plan) {
  v1::QuantizationPlan message;
  message.set_resolved_spec(FormatSpec(plan.resolved.spec));
  for (const PlaneDesc& plane : plan.resolved.layout.planes) {
    *message.add_planes() = ToProto(plane);
  }
  message.set_pass(ToProto(plan.pass));
  message.set_input_bytes(plan.input_bytes);
  message.set_output_bytes(plan.output_bytes);
  message.set_resident_bytes(plan.resident_bytes);
  message.set_num_groups(plan.resolved.layout.groups.num_groups);
  message.set_fallback_reason(plan.fallback_reason);
  return message;
}

v1::CalibratedRanges ToProto(const CalibratedRanges& ranges) {
  v1::CalibratedRanges message;
  message.mutable_min()->Reserve(static_cast<int>(ranges.groups.size()));
  message.mutable_max()->Reserve(static_cast<int>(ranges.groups.size()));
  for (const Range& range : ranges.groups) {
    message.add_min(range.min);
    message.add_max(range.max);
  }
  *message.mutable_tensor() = ToProto(ranges.tensor);
  if (ranges.histogram.has_value()) {
    const std::span<const int64_t> counts = ranges.histogram->counts();
    message.mutable_histogram()->Add(counts.begin(), counts.end());
  }
  if (!ranges.spec.empty()) {
    *message.mutable_source() = ToProto(ranges.source);
    message.set_resolved_spec(ranges.spec);
  }
  return message;
}

v1::CalibrationState ToProto(const CalibrationState& state) {
  v1::CalibrationState message;
  for (const CalibrationState::Group& group : state.groups) {
    *message.add_groups() = GroupToProto(group);
  }
  *message.mutable_tensor() = GroupToProto(state.tensor);
  message.set_non_finite(state.non_finite);
  message.mutable_histogram()->Add(state.histogram.begin(), state.histogram.end());
  message.set_rows(state.rows);
  message.mutable_column_second_moments()->Add(state.column_second_moments.begin(),
                                               state.column_second_moments.end());
  message.mutable_gram()->Add(state.gram.begin(), state.gram.end());
  return message;
}

v1::Figures ToProto(const Figures& figures) {
  v1::Figures message;
  message.set_count(figures.count);
  message.set_sum(figures.sum);
  message.set_min(figures.min);
  message.set_max(figures.max);
  message.set_centred_second_moment(figures.m2);
  message.set_signal_energy(figures.signal_energy);
  message.set_error_energy(figures.error_energy);
  message.set_cross_energy(figures.cross_energy);
  message.set_max_error(figures.max_error);
  message.set_max_error_elem(figures.max_error_elem);
  return message;
}

v1::QuantizationReport ToProto(const EncodingReport& report, std::span<const PlaneDesc> planes) {
  v1::QuantizationReport message;
  if (report.has_figures) *message.mutable_figures() = ToProto(report.figures);
  message.set_clipped(report.clipped);
  message.set_non_finite(report.non_finite);
  for (const int64_t elem : report.first_non_finite_elems) {
    message.add_first_non_finite_elems(elem);
  }
  message.set_inexact_inputs(report.inexact_inputs);
  for (size_t i = 0; i < planes.size() && i < report.digests.size(); ++i) {
    (*message.mutable_digests())[planes[i].name] = report.digests[i];
  }
  return message;
}

v1::DequantizeFinished ToProto(const DecodingReport& report, std::span<const PlaneDesc> planes) {
  v1::DequantizeFinished message;
  for (size_t i = 0; i < planes.size() && i < report.plane_digests.size(); ++i) {
    (*message.mutable_plane_digests())[planes[i].name] = report.plane_digests[i];
  }
  message.set_values_digest(report.values_digest);
  message.set_saturated(report.saturated);
  return message;
}

absl::StatusOr<DType> FromProto(v1::DataType data_type, absl::string_view field) {
  return ToCore(kDataTypes, data_type, field);
}

absl::StatusOr<Pass> FromProto(v1::QuantizationPass pass, absl::string_view field) {
  return ToCore(kPasses, pass, field);
}

absl::StatusOr<TensorDesc> FromProto(const v1::TensorDescriptor& message, absl::string_view field) {
  TensorDesc tensor;
  if (message.name().size() > kMaxTensorNameBytes) {
    return FieldError(absl::StrCat(field, ".name"),
                      absl::StrCat(message.name().size(), " bytes; at most ", kMaxTensorNameBytes,
                                   " are allowed"));
  }
  tensor.name = message.name();
  QUANTD_ASSIGN_OR_RETURN(tensor.dtype,
                          FromProto(message.data_type(), absl::StrCat(field, ".data_type")));
  QUANTD_ASSIGN_OR_RETURN(tensor.shape, ShapeFromProto(message.shape(), field));
  return tensor;
}

absl::StatusOr<Range> FromProto(const v1::Range& message, absl::string_view field) {
  const Range range = {message.min(), message.max()};
  if (!IsRange(range)) return RangeError(field, range);
  return range;
}

absl::StatusOr<PlaneDesc> FromProto(const v1::Plane& message, absl::string_view field) {
  PlaneDesc plane;
  plane.name = message.name();
  plane.role = plane.name == "codes" ? PlaneRole::kCodes : PlaneRole::kPerGroup;
  QUANTD_ASSIGN_OR_RETURN(plane.dtype,
                          FromProto(message.data_type(), absl::StrCat(field, ".data_type")));
  QUANTD_ASSIGN_OR_RETURN(plane.shape, ShapeFromProto(message.shape(), field));
  QUANTD_RETURN_IF_ERROR(CheckCount(message.size_bytes(), absl::StrCat(field, ".size_bytes")));
  plane.size_bytes = message.size_bytes();
  return plane;
}

absl::StatusOr<CalibratedRanges> FromProto(const v1::CalibratedRanges& message,
                                           absl::string_view field) {
  if (message.min_size() != message.max_size()) {
    return FieldError(field, absl::StrCat(message.min_size(), " min and ", message.max_size(),
                                          " max; there must be as many of both"));
  }
  CalibratedRanges ranges;
  ranges.groups.reserve(static_cast<size_t>(message.min_size()));
  for (int i = 0; i < message.min_size(); ++i) {
    const Range group = {message.min(i), message.max(i)};
    if (!IsRange(group)) {
      const absl::Status error = RangeError(absl::StrCat(field, ", group ", i), group);
      return WithField(absl::InvalidArgumentError(error.message()), field);  // a path
    }
    ranges.groups.push_back(group);
  }
  QUANTD_ASSIGN_OR_RETURN(ranges.tensor,
                          FromProto(message.tensor(), absl::StrCat(field, ".tensor")));
  if (message.histogram_size() > 0) {
    absl::StatusOr<Histogram> histogram = Histogram::FromCounts(
        {message.histogram().data(), static_cast<size_t>(message.histogram_size())});
    if (!histogram.ok()) {
      return FieldError(absl::StrCat(field, ".histogram"), histogram.status().message());
    }
    ranges.histogram = *std::move(histogram);
  }
  ranges.spec = message.resolved_spec();
  if (!ranges.spec.empty()) {
    QUANTD_ASSIGN_OR_RETURN(ranges.source,
                            FromProto(message.source(), absl::StrCat(field, ".source")));
  }
  return ranges;
}

absl::StatusOr<CalibrationState> FromProto(const v1::CalibrationState& message,
                                           absl::string_view field) {
  CalibrationState state;
  state.groups.reserve(static_cast<size_t>(message.groups_size()));
  for (const v1::GroupStatistics& group : message.groups()) {
    QUANTD_ASSIGN_OR_RETURN(state.groups.emplace_back(),
                            GroupFromProto(group, absl::StrCat(field, ".groups")));
  }
  QUANTD_ASSIGN_OR_RETURN(state.tensor,
                          GroupFromProto(message.tensor(), absl::StrCat(field, ".tensor")));
  QUANTD_RETURN_IF_ERROR(CheckCount(message.non_finite(), absl::StrCat(field, ".non_finite")));
  QUANTD_RETURN_IF_ERROR(CheckCount(message.rows(), absl::StrCat(field, ".rows")));
  for (const int64_t count : message.histogram()) {
    QUANTD_RETURN_IF_ERROR(CheckCount(count, absl::StrCat(field, ".histogram")));
  }
  state.non_finite = message.non_finite();
  state.histogram.assign(message.histogram().begin(), message.histogram().end());
  state.rows = message.rows();
  state.column_second_moments.assign(message.column_second_moments().begin(),
                                     message.column_second_moments().end());
  state.gram.assign(message.gram().begin(), message.gram().end());
  return state;
}

absl::StatusOr<EncodingReport> FromProto(const v1::QuantizationReport& message,
                                         std::span<const PlaneDesc> planes,
                                         absl::string_view field) {
  EncodingReport report;
  report.has_figures = message.has_figures();
  report.figures = FiguresFromProto(message.figures());
  report.clipped = message.clipped();
  report.non_finite = message.non_finite();
  report.first_non_finite_elems.assign(message.first_non_finite_elems().begin(),
                                       message.first_non_finite_elems().end());
  report.inexact_inputs = message.inexact_inputs();
  for (const PlaneDesc& plane : planes) {
    const auto digest = message.digests().find(plane.name);
    if (digest == message.digests().end()) {
      return FieldError(absl::StrCat(field, ".digests"), absl::StrCat("no digest of ", plane.name));
    }
    report.digests.push_back(digest->second);
  }
  return report;
}

absl::Duration FromProto(const google::protobuf::Duration& message) {
  return absl::Seconds(message.seconds()) + absl::Nanoseconds(message.nanos());
}

}  // namespace quantd
