#include "core/tensor/dtype.h"

#include <set>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantd {
namespace {

using ::testing::HasSubstr;

TEST(DTypeTest, TableIsInTheOrderOfTheEnum) {
  ASSERT_EQ(AllDTypes().size(), static_cast<size_t>(kNumDTypes));
  for (int i = 0; i < kNumDTypes; ++i) {
    EXPECT_EQ(static_cast<int>(AllDTypes()[static_cast<size_t>(i)]), i);
  }
}

TEST(DTypeTest, NamesAreDistinctAndParseBack) {
  std::set<std::string> names;
  for (const DType dtype : AllDTypes()) {
    const std::string name(NameOf(dtype));
    EXPECT_TRUE(names.insert(name).second) << name;
    const absl::StatusOr<DType> parsed = ParseDType(name);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(*parsed, dtype);
  }
}

TEST(DTypeTest, NamesAndSizesAreThoseOfTheWire) {
  struct Expected {
    DType dtype;
    const char* name;
    int64_t size_bytes;
  };
  const Expected kExpected[] = {
      {DType::kF64, "f64", 8},       {DType::kF32, "f32", 4},        {DType::kF16, "f16", 2},
      {DType::kBf16, "bf16", 2},     {DType::kInt8, "int8", 1},      {DType::kInt16, "int16", 2},
      {DType::kInt32, "int32", 4},   {DType::kInt64, "int64", 8},    {DType::kUint8, "uint8", 1},
      {DType::kUint16, "uint16", 2}, {DType::kUint32, "uint32", 4},  {DType::kUint64, "uint64", 8},
      {DType::kBool, "bool", 1},     {DType::kF8E4M3, "f8_e4m3", 1}, {DType::kF8E5M2, "f8_e5m2", 1},
  };
  for (const Expected& expected : kExpected) {
    EXPECT_EQ(NameOf(expected.dtype), expected.name);
    EXPECT_EQ(SizeOf(expected.dtype), expected.size_bytes) << expected.name;
  }
}

TEST(DTypeTest, KnowsWhatQuantizeTakesAndDequantizeGives) {
  std::string floats, quantizable, targets;
  for (const DType dtype : AllDTypes()) {
    const std::string name = std::string(NameOf(dtype)) + " ";
    if (IsFloat(dtype)) floats += name;
    if (IsQuantizable(dtype)) quantizable += name;
    if (IsDequantizeTarget(dtype)) targets += name;
  }
  EXPECT_EQ(floats, "f64 f32 f16 bf16 f8_e4m3 f8_e5m2 ");
  EXPECT_EQ(quantizable, "f64 f32 f16 bf16 int8 int16 int32 int64 uint8 uint16 uint32 ");
  EXPECT_EQ(targets, "f64 f32 f16 bf16 ");
}

TEST(DTypeTest, UnknownNameListsTheKnownOnes) {
  for (const char* name : {"", "F32", "float32", "f32 ", "int4"}) {
    const absl::Status status = ParseDType(name).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
    EXPECT_THAT(status.message(), HasSubstr(std::string("unknown dtype \"") + name + "\""));
    for (const DType dtype : AllDTypes()) {
      EXPECT_THAT(status.message(), HasSubstr(std::string(NameOf(dtype))));
    }
  }
}

TEST(DTypeTest, SaysWhatNamesOfOtherProjectsMean) {
  const std::pair<const char*, const char*> cases[] = {
      {"float32", "f32"},       {"F32", "f32"},  {"torch.float16", "f16"}, {"bfloat16", "bf16"},
      {"np.float64", "f64"},    {"half", "f16"}, {"i8", "int8"},           {"U16", "uint16"},
      {"float8_e4m3fn", "f8_e4m3"}};
  for (const auto& [name, ours] : cases) {
    EXPECT_THAT(ParseDType(name).status().message(),
                HasSubstr(std::string("did you mean ") + ours + "?; known: "));
  }
  EXPECT_THAT(ParseDType("complex64").status().message(), ::testing::Not(HasSubstr("did you")));
}

}  // namespace
}  // namespace quantd
