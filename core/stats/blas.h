#ifndef QUANTD_CORE_STATS_BLAS_H_
#define QUANTD_CORE_STATS_BLAS_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Linear algebra by OpenBLAS, which is pinned to one thread for the whole process at the first
// call. All functions are thread-safe. Matrices are row-major and dense. What OpenBLAS sums depends
// on the kernels that it chose for the machine (BlasCoreName), so results are the same bytes on one
// machine only; ColumnMoments alone sums by itself and is the same everywhere.

namespace quantd {

// Rows that are summed in f32 at once before they are added in double. Part of the result's bytes.
inline constexpr int64_t kGramBlockRows = 512;

// Adds X'X to `gram`, where X is `rows`: num_rows x num_cols, and `gram` is num_cols x num_cols and
// symmetric. Units: those of the values, squared. A value that is not finite makes its row and
// column of `gram` not finite. kInvalidArgument: a size is negative, does not match its span, or
// num_cols is beyond GramAccumulator::kMaxCols.
absl::Status AccumulateGram(std::span<const float> rows, int64_t num_rows, int64_t num_cols,
                            std::span<double> gram);

// Sums X'X over a matrix whose values come in row-major order and in any cuts; the cuts do not
// change the result. Not thread-safe.
class GramAccumulator {
 public:
  static constexpr int64_t kMaxCols = int64_t{1} << 16;  // 48 GiB of state

  // Returns the bytes that an accumulator of num_cols columns holds at most, 0 <= num_cols <=
  // kMaxCols: the block, its f32 sums, the f64 sums, and what a block redone in double takes.
  static int64_t ResidentBytes(int64_t num_cols);

  // kInvalidArgument: num_cols is negative or beyond kMaxCols.
  static absl::StatusOr<GramAccumulator> Create(int64_t num_cols);

  // Takes the next values of the matrix.
  void Add(std::span<const float> values);

  // Returns how many whole rows have come.
  int64_t num_rows() const { return block_rows_ + pending_rows(); }

  // Returns X'X, num_cols x num_cols, symmetric, in the accumulator's own memory, which ends its
  // use; kDataLoss if the last row is not whole.
  absl::StatusOr<std::vector<double>> Finish() &&;

 private:
  explicit GramAccumulator(int64_t num_cols);
  int64_t pending_rows() const {
    return num_cols_ == 0 ? 0 : static_cast<int64_t>(pending_.size()) / num_cols_;
  }

  int64_t num_cols_;
  int64_t block_rows_ = 0;         // rows in blocks that are summed
  std::vector<float> pending_;     // the block that is being filled
  std::vector<float> block_sums_;  // X'X of one block, upper triangle
  std::vector<double> gram_;       // the sum over blocks, upper triangle
};

// Sums x^2 by column, in double and in row order, over a matrix whose values come in row-major
// order and in any cuts. Not thread-safe.
class ColumnMoments {
 public:
  // Requires num_cols >= 0.
  explicit ColumnMoments(int64_t num_cols);

  // Takes the next values of the matrix.
  void Add(std::span<const float> values);

  // Returns how many whole rows have come.
  int64_t num_rows() const { return num_rows_; }

  // Returns the sums so far, one for each column.
  std::span<const double> sums() const { return sums_; }

 private:
  size_t next_col_ = 0;
  int64_t num_rows_ = 0;
  std::vector<double> sums_;
};

// Replaces the symmetric matrix A, n x n, of which only the lower triangle is read, by its lower
// Cholesky factor L with A = L L'; the upper triangle becomes 0. kInvalidArgument: A is not
// positive definite, naming the first pivot that is not positive or not finite (A is then half
// factored), or the span is not n x n.
absl::Status CholeskyFactor(int64_t n, std::span<float> matrix);
absl::Status CholeskyFactor(int64_t n, std::span<double> matrix);

enum class Triangle : uint8_t {
  kLower,       // L X = B
  kTransposed,  // L' X = B
};

// Replaces B (`rhs`, n x num_rhs) by the X that solves the triangular system with L (`lower`, n x
// n, of which only the lower triangle is read). kInvalidArgument: a diagonal element of L is 0, or
// a span does not have its size.
absl::Status SolveTriangular(Triangle triangle, int64_t n, int64_t num_rhs,
                             std::span<const float> lower, std::span<float> rhs);
absl::Status SolveTriangular(Triangle triangle, int64_t n, int64_t num_rhs,
                             std::span<const double> lower, std::span<double> rhs);

// Returns the name of the kernels that OpenBLAS chose, e.g. "Haswell".
std::string BlasCoreName();

// Returns how many threads OpenBLAS uses: 1.
int BlasThreads();

}  // namespace quantd

#endif  // QUANTD_CORE_STATS_BLAS_H_
