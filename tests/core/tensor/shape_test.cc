#include "core/tensor/shape.h"

#include <cstdint>
#include <limits>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

Shape ShapeOf(std::vector<int64_t> dims) {
  absl::StatusOr<Shape> shape = Shape::Make(std::move(dims));
  EXPECT_TRUE(shape.ok()) << shape.status();
  return *std::move(shape);
}

TEST(ShapeTest, RankZeroIsOneElement) {
  EXPECT_EQ(Shape().num_elems(), 1);
  EXPECT_EQ(Shape().rank(), 0);
  EXPECT_EQ(Shape().last_dim(), 1);
  EXPECT_EQ(Shape().Text(), "[]");
  EXPECT_EQ(ShapeOf({}), Shape());
}

TEST(ShapeTest, KeepsDimensionsOutermostFirst) {
  const Shape shape = ShapeOf({2, 3, 5});
  EXPECT_THAT(shape.dims(), ElementsAre(2, 3, 5));
  EXPECT_EQ(shape.rank(), 3);
  EXPECT_EQ(shape.dim(1), 3);
  EXPECT_EQ(shape.last_dim(), 5);
  EXPECT_EQ(shape.num_elems(), 30);
  EXPECT_EQ(shape.Text(), "[2, 3, 5]");
  EXPECT_FALSE(shape == ShapeOf({2, 3, 6}));
  EXPECT_FALSE(shape == ShapeOf({30}));
}

TEST(ShapeTest, DimensionMayBeZero) {
  EXPECT_EQ(ShapeOf({0}).num_elems(), 0);
  EXPECT_EQ(ShapeOf({4, 0, 7}).num_elems(), 0);
  EXPECT_EQ(ShapeOf({4, 0}).last_dim(), 0);
  EXPECT_EQ(ShapeOf({0, kMax}).num_elems(), 0);
}

TEST(ShapeTest, ProductBeyondInt64IsRefusedWhateverTheOrder) {
  EXPECT_EQ(ShapeOf({kMax}).num_elems(), kMax);
  EXPECT_EQ(ShapeOf({int64_t{1} << 31, int64_t{1} << 31}).num_elems(), int64_t{1} << 62);
  const int64_t large = int64_t{1} << 32;
  for (const std::vector<int64_t>& dims : std::vector<std::vector<int64_t>>{
           {large, large}, {0, large, large}, {large, 0, large}, {large, large, 0}, {kMax, 2}}) {
    const absl::Status status = Shape::Make(dims).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(status.message(), HasSubstr("more than 2^63 - 1 elements"));
    EXPECT_THAT(status.message(), HasSubstr(std::to_string(dims[0])));
  }
}

TEST(ShapeTest, RefusesNegativeDimensionsAndHighRanks) {
  const absl::Status negative = Shape::Make({3, -1}).status();
  EXPECT_EQ(negative.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(negative.message(), "shape [3, -1] has a negative dimension");
  EXPECT_FALSE(Shape::Make({std::numeric_limits<int64_t>::min()}).ok());

  EXPECT_EQ(ShapeOf(std::vector<int64_t>(kMaxRank, 1)).rank(), kMaxRank);
  const absl::Status rank = Shape::Make(std::vector<int64_t>(kMaxRank + 1, 1)).status();
  EXPECT_EQ(rank.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(rank.message(), "shape has rank 17; at most 16 is allowed");
}

TEST(ShapeTest, SizeInBytesIsChecked) {
  EXPECT_EQ(*SizeBytes({"x", DType::kF64, ShapeOf({3, 5})}), 120);
  EXPECT_EQ(*SizeBytes({"x", DType::kBf16, Shape()}), 2);
  EXPECT_EQ(*SizeBytes({"x", DType::kF32, ShapeOf({0, 9})}), 0);
  EXPECT_EQ(*SizeBytes({"x", DType::kInt8, ShapeOf({kMax})}), kMax);
  const absl::Status status = SizeBytes({"x", DType::kF32, ShapeOf({kMax})}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "shape [9223372036854775807] of f32 has more than 2^63 - 1 bytes");
}

TEST(ShapeTest, DescriptorsCompareByAllTheirParts) {
  const TensorDesc desc = {"x", DType::kF32, ShapeOf({2})};
  EXPECT_EQ(desc, (TensorDesc{"x", DType::kF32, ShapeOf({2})}));
  EXPECT_FALSE(desc == (TensorDesc{"y", DType::kF32, ShapeOf({2})}));
  EXPECT_FALSE(desc == (TensorDesc{"x", DType::kF16, ShapeOf({2})}));
  EXPECT_FALSE(desc == (TensorDesc{"x", DType::kF32, ShapeOf({2, 1})}));
}

}  // namespace
}  // namespace quantd
