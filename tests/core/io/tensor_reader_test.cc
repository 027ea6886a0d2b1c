#include "core/io/tensor_reader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "tests/core/io/io_test_util.h"

namespace quantd {
namespace {

using io_test::Desc;

// A tensor whose element number i, in C order, has the value i, as `order` has it in a file behind
// a few other bytes.
class Numbered {
 public:
  Numbered(DType dtype, std::vector<int64_t> dims, ValueOrder order) : order_(order) {
    entry_ = TensorEntry(Desc("t", dtype, std::move(dims)), kBefore, 0);
    entry_.order = order;
    entry_.size_bytes = *SizeBytes(entry_);
    const auto elem_bytes = static_cast<size_t>(SizeOf(dtype));
    file_.assign(static_cast<size_t>(kBefore + entry_.size_bytes), std::byte{0xEE});
    for (int64_t i = 0; i < entry_.desc.shape.num_elems(); ++i) {
      std::byte value[8] = {};
      std::memcpy(value, &i, sizeof(i));
      expected_.insert(expected_.end(), value, value + elem_bytes);
      if (order.big_endian) std::reverse(value, value + elem_bytes);
      const size_t place = static_cast<size_t>(kBefore) + PlaceOf(i) * elem_bytes;
      std::memcpy(file_.data() + place, value, elem_bytes);
    }
  }

  // Expects that the tensor reads as it is meant, in pieces of these sizes, twice.
  void ExpectRead(int64_t max_block_bytes, const std::vector<size_t>& pieces) const {
    TensorReader reader(std::make_shared<MemoryBytes>(file_), entry_, max_block_bytes);
    for (int pass = 0; pass < 2; ++pass, reader.Rewind()) {
      std::vector<std::byte> values;
      for (size_t k = 0;; ++k) {
        std::vector<std::byte> piece(pieces[k % pieces.size()]);
        const absl::StatusOr<size_t> got = reader.Read(piece);
        ASSERT_TRUE(got.ok()) << got.status();
        if (*got == 0) break;
        values.insert(values.end(), piece.begin(), piece.begin() + static_cast<ptrdiff_t>(*got));
      }
      ASSERT_EQ(values, expected_) << entry_.desc.shape.Text() << " of " << TypeName(entry_)
                                   << ", blocks of " << max_block_bytes;
      EXPECT_EQ(reader.left_bytes(), 0);
    }
  }

 private:
  static constexpr int64_t kBefore = 3;  // so that elements lie at odd places

  size_t PlaceOf(int64_t elem) const {
    if (!order_.fortran) return static_cast<size_t>(elem);
    const std::span<const int64_t> dims = entry_.desc.shape.dims();
    int64_t place = 0, step = 1;
    std::vector<int64_t> idx(dims.size());
    for (size_t i = dims.size(); i-- > 0; elem /= dims[i]) idx[i] = elem % dims[i];
    for (size_t i = 0; i < dims.size(); step *= dims[i++]) place += idx[i] * step;
    return static_cast<size_t>(place);
  }

  const ValueOrder order_;
  TensorEntry entry_;
  std::vector<std::byte> file_, expected_;
};

TEST(TensorReaderTest, TurnsFortranOrderRoundInBlocksOfAnySize) {
  const std::vector<std::vector<int64_t>> kShapes = {
      {2, 3}, {3, 2}, {7, 5}, {1, 4, 3}, {4, 1, 3}, {2, 3, 4}, {5, 4, 3, 2}, {2, 2, 2, 2, 2}};
  for (const std::vector<int64_t>& dims : kShapes) {
    for (const DType dtype : {DType::kUint8, DType::kF16, DType::kF32, DType::kF64}) {
      for (const bool big_endian : {false, true}) {
        const Numbered tensor(dtype, dims, {true, big_endian});
        for (const int64_t block_bytes : {1, 9, 24, 64, 300, 1 << 20}) {
          tensor.ExpectRead(block_bytes, {1, 7});
          tensor.ExpectRead(block_bytes, {1000});
        }
      }
    }
  }
}

// Long enough for runs that are read alone, and for a window to end within one.
TEST(TensorReaderTest, TurnsLongRunsRound) {
  const Numbered tall(DType::kF32, {40'000, 7}, {true, false});
  const Numbered wide(DType::kF32, {7, 9'000}, {true, false});
  const Numbered deep(DType::kF16, {3, 90, 70}, {true, true});
  for (const int64_t block_bytes : {20'000, 400'000, 8 << 20}) {
    tall.ExpectRead(block_bytes, {100'000});
    wide.ExpectRead(block_bytes, {100'000});
    deep.ExpectRead(block_bytes, {77'777});
  }
}

TEST(TensorReaderTest, SwapsBigEndianValues) {
  for (const DType dtype : {DType::kF16, DType::kInt32, DType::kInt64}) {
    const Numbered tensor(dtype, {101, 3}, {false, true});
    for (const int64_t block_bytes : {1, 20, 1 << 20}) tensor.ExpectRead(block_bytes, {3, 50});
  }
  // More than a window, which ends within an element.
  Numbered(DType::kF64, {200'000}, {false, true}).ExpectRead((1 << 20) + 3, {1 << 18});
}

TEST(TensorReaderTest, ReadsOtherValuesWhereTheyLie) {
  const Numbered tensor(DType::kF32, {5, 5}, {});
  tensor.ExpectRead(1, {3});
  tensor.ExpectRead(1, {1000});
  Numbered(DType::kF32, {0, 5}, {}).ExpectRead(1, {1000});
}

TEST(TensorReaderTest, TellsWhereTheFileEndsAndGoesOnWhenItDoesNot) {
  const std::vector<std::byte> file(20);
  TensorEntry entry(Desc("t", DType::kF32, {2, 3}), 0, 24);
  for (const bool fortran : {false, true}) {
    entry.order.fortran = fortran;
    TensorReader reader(std::make_shared<MemoryBytes>(file), entry);
    std::vector<std::byte> out(24);
    for (int attempt = 0; attempt < 2; ++attempt) {
      EXPECT_EQ(reader.Read(out).status().code(), absl::StatusCode::kDataLoss);
    }
  }
}

}  // namespace
}  // namespace quantd
