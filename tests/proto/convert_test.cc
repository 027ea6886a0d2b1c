#include "proto/convert.h"

#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/strip.h"

namespace quantd {
namespace {

// Checks that the wire's enum and core's have the same members under the same names, both ways.
template <typename Core>
void ExpectSameMembers(const google::protobuf::EnumDescriptor* wire, int count,
                       absl::string_view prefix) {
  ASSERT_EQ(wire->value_count(), count + 1) << wire->name();
  EXPECT_EQ(wire->FindValueByNumber(0)->name(), std::string(prefix) + "UNSPECIFIED");
  std::set<int> numbers;
  for (int i = 0; i < count; ++i) {
    const auto core = static_cast<Core>(i);
    const int number = static_cast<int>(ToProto(core));
    EXPECT_TRUE(numbers.insert(number).second) << wire->name() << " " << number;
    const google::protobuf::EnumValueDescriptor* value = wire->FindValueByNumber(number);
    ASSERT_NE(value, nullptr) << wire->name() << " " << number;
    absl::string_view name = value->name();
    ASSERT_TRUE(absl::ConsumePrefix(&name, prefix)) << name;
    EXPECT_EQ(absl::AsciiStrToLower(name), NameOf(core));
  }
  EXPECT_EQ(numbers.count(0), 0u) << wire->name() << ": a member of core has no number";
}

TEST(Enums, HaveNotDriftedFromCore) {
  ExpectSameMembers<DType>(v1::DataType_descriptor(), kNumDTypes, "DATA_TYPE_");
  ExpectSameMembers<Pass>(v1::QuantizationPass_descriptor(), 4, "QUANTIZATION_PASS_");
}

TEST(Enums, ReadBack) {
  for (const DType dtype : AllDTypes()) {
    const auto read = FromProto(ToProto(dtype), "data_type");
    ASSERT_TRUE(read.ok());
    EXPECT_EQ(*read, dtype);
  }
  for (int i = 0; i < 4; ++i) {
    const auto read = FromProto(ToProto(static_cast<Pass>(i)), "pass");
    ASSERT_TRUE(read.ok());
    EXPECT_EQ(*read, static_cast<Pass>(i));
  }
}

void ExpectError(const absl::Status& status, absl::string_view part) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_NE(status.message().find(part), absl::string_view::npos) << status << " lacks " << part;
}

TEST(Tensor, GoesThroughTheMessageAndErrorsNameTheField) {
  const TensorDesc tensor{"layer.0/weight", DType::kBf16, *Shape::Make({3, 0, 5})};
  const auto read = FromProto(ToProto(tensor));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, tensor);

  v1::TensorDescriptor message;
  ExpectError(FromProto(message).status(), "tensor.data_type=0 is not a known value; use 1 to 15");
  message.set_data_type(v1::DATA_TYPE_F32);
  message.add_shape(int64_t{1} << 62);
  message.add_shape(4);
  ExpectError(FromProto(message).status(), "tensor.shape: ");
  message.set_shape(0, -1);
  ExpectError(FromProto(message).status(), "tensor.shape: ");
  message.clear_shape();
  message.set_name(std::string(kMaxTensorNameBytes + 1, 'n'));
  ExpectError(FromProto(message).status(), "tensor.name: 1025 bytes; at most 1024 are allowed");
}

TEST(Plane, GoesThroughTheMessage) {
  const PlaneDesc plane{"scale", PlaneRole::kPerGroup, DType::kF32, *Shape::Make({7, 1}), 28};
  const auto read = FromProto(ToProto(plane));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->name, plane.name);
  EXPECT_EQ(read->dtype, plane.dtype);
  EXPECT_EQ(read->shape, plane.shape);
  EXPECT_EQ(read->size_bytes, plane.size_bytes);
  v1::Plane message = ToProto(plane);
  message.set_size_bytes(-1);
  ExpectError(FromProto(message).status(), "plane.size_bytes: -1 is negative");
}

TEST(Ranges, GoThroughTheMessageAndErrorsNameTheGroup) {
  const CalibratedRanges ranges{{{-1, 2}, {0, 0}, {-3.5, -1e-9}}, {-3.5, 2}};
  const auto read = FromProto(ToProto(ranges));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->groups, ranges.groups);
  EXPECT_EQ(read->tensor, ranges.tensor);
  EXPECT_TRUE(read->spec.empty());
  CalibratedRanges said = ranges;
  said.source = {"w", DType::kBf16, *Shape::Make({4, 3})};
  said.spec = "int8:axis=1";
  EXPECT_EQ(FromProto(ToProto(said))->source, said.source);
  EXPECT_EQ(FromProto(ToProto(said))->spec, said.spec);

  v1::CalibratedRanges message = ToProto(ranges);
  message.set_min(1, 0.5);
  ExpectError(FromProto(message).status(), "ranges, group 1: 0.5..0 is not a finite");
  message.add_min(0);
  ExpectError(FromProto(message).status(), "ranges: 4 min and 3 max");
}

TEST(Report, GoesThroughTheMessage) {
  EncodingReport report;
  report.has_figures = true;
  report.figures = {.count = 10,
                    .sum = 1.5,
                    .min = -2,
                    .max = 3,
                    .m2 = 4.25,
                    .signal_energy = 5.5,
                    .error_energy = 0.125,
                    .cross_energy = 5.25,
                    .max_error = 0.0625,
                    .max_error_elem = 9};
  report.clipped = 4;
  report.non_finite = 2;
  report.first_non_finite_elems = {3, 8};
  report.inexact_inputs = 1;
  report.digests = {"xxh3:aa", "xxh3:bb"};
  std::vector<PlaneDesc> planes(2);
  planes[0].name = "codes";
  planes[1].name = "scale";
  const v1::QuantizationReport message = ToProto(report, planes);
  const auto read = FromProto(message, planes);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(ToProto(*read, planes).DebugString(), message.DebugString());
  EXPECT_EQ(read->digests, report.digests);
  EXPECT_EQ(read->figures.max_error_elem, 9);
  EXPECT_EQ(read->first_non_finite_elems, report.first_non_finite_elems);
  planes[1].name = "zero_point";
  ExpectError(FromProto(message, planes).status(), "report.digests: no digest of zero_point");
}

TEST(CalibrationStates, GoThroughTheMessage) {
  CalibrationState state;
  state.groups = {
      {.count = 2, .min = -1, .max = 1, .mean = 0.5, .m2 = 0.25, .magnitudes = 1.75}, {}};
  state.tensor = {.count = 2, .min = -1, .max = 1, .mean = 0.5, .m2 = 0.25};
  state.non_finite = 3;
  state.histogram.assign(65536, 0);
  state.histogram[777] = 2;
  state.rows = 5;
  state.column_second_moments = {1, 2};
  state.gram = {1, 0.5, 0.5, 2};
  const auto read = FromProto(ToProto(state));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, state);
  v1::CalibrationState message = ToProto(state);
  message.set_histogram(3, -1);
  ExpectError(FromProto(message).status(), "state.histogram: -1 is negative");
}

}  // namespace
}  // namespace quantd
