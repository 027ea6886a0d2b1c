// OpenBLAS at work. The Gram matrix X'X is summed in blocks of kGramBlockRows rows: a block in f32
// (ssyrk), the blocks in double, so that the error does not grow with the number of rows:
//
//   rows 0 .. 511     f32 X'X -+
//   rows 512 .. 1023  f32 X'X -+-> added in double, upper triangle; mirrored at the end
//   ...                        +
//
// A block whose squares f32 does not hold (1e20, 1e-30) is done again in double. Blocks are counted
// from the first row, so that cuts of the input change nothing. Moments of columns are summed here,
// without BLAS, as they have to be the same on every machine.
//
// Entries: those of blas.h. Tested by tests/core/stats/blas_test.cc.
#include "core/stats/blas.h"

#include <cblas.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/checked_math.h"
#include "core/base/status_macros.h"

// The LAPACK routines of OpenBLAS, which <cblas.h> does not declare: Netlib LAPACK 3.9, spotrf.f.
extern "C" {
void spotrf_(const char* uplo, const blasint* n, float* a, const blasint* lda, blasint* info);
void dpotrf_(const char* uplo, const blasint* n, double* a, const blasint* lda, blasint* info);
}

namespace quantd {
namespace {

// Our own pool spreads the work; OpenBLAS' threads would fight it and change the sums.
void PinToOneThread() {
  static std::once_flag once;
  std::call_once(once, [] { openblas_set_num_threads(1); });
}

void Potrf(blasint n, float* a, blasint* info) { spotrf_("U", &n, a, &n, info); }
void Potrf(blasint n, double* a, blasint* info) { dpotrf_("U", &n, a, &n, info); }

void Trsm(CBLAS_TRANSPOSE transpose, blasint n, blasint num_rhs, const float* l, float* b) {
  cblas_strsm(CblasRowMajor, CblasLeft, CblasLower, transpose, CblasNonUnit, n, num_rhs, 1, l, n, b,
              num_rhs);
}
void Trsm(CBLAS_TRANSPOSE transpose, blasint n, blasint num_rhs, const double* l, double* b) {
  cblas_dtrsm(CblasRowMajor, CblasLeft, CblasLower, transpose, CblasNonUnit, n, num_rhs, 1, l, n, b,
              num_rhs);
}

// Checks that `found` is rows x cols and that BLAS can count both.
absl::Status CheckSize(absl::string_view what, int64_t rows, int64_t cols, size_t found) {
  constexpr int64_t kMax = std::numeric_limits<blasint>::max();
  if (rows < 0 || cols < 0 || rows > kMax || cols > kMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " is ", rows, " x ", cols, "; each must be in 0..", kMax));
  }
  if (static_cast<int64_t>(found) != rows * cols) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " has ", found, " elems; ", rows, " x ", cols, " are needed"));
  }
  return absl::OkStatus();
}

absl::Status CheckCols(int64_t num_cols) {
  if (num_cols >= 0 && num_cols <= GramAccumulator::kMaxCols) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the Gram matrix of ", num_cols,
                                                 " columns is not possible; 0..",
                                                 GramAccumulator::kMaxCols, " are"));
}

// True where the f32 sums of squares of a block hold what they should: squares overflow above 2^64
// and lose bits below 2^-63. Then so do the mixed products, which are at most as large.
bool SumsHold(const float* block, int64_t rows, int64_t cols, const std::vector<float>& sums) {
  constexpr float kSmallest = 0x1p-80f;
  for (int64_t c = 0; c < cols; ++c) {
    const float sum = sums[static_cast<size_t>(c * cols + c)];
    if (!std::isfinite(sum)) return false;
    if (sum >= kSmallest) continue;
    for (int64_t r = 0; r < rows; ++r) {
      if (block[r * cols + c] != 0) return false;
    }
  }
  return true;
}

// Adds X'X of one block to the upper triangle of `gram`; `sums` is scratch, cols x cols.
void AddBlock(const float* block, int64_t rows, int64_t cols, std::vector<float>& sums,
              std::span<double> gram) {
  const auto k = static_cast<blasint>(rows), n = static_cast<blasint>(cols);
  cblas_ssyrk(CblasRowMajor, CblasUpper, CblasTrans, n, k, 1, block, n, 0, sums.data(), n);
  if (!SumsHold(block, rows, cols, sums)) {
    const std::vector<double> wide(block, block + rows * cols);
    cblas_dsyrk(CblasRowMajor, CblasUpper, CblasTrans, n, k, 1, wide.data(), n, 1, gram.data(), n);
    return;
  }
  for (int64_t r = 0; r < cols; ++r) {
    const float* from = &sums[static_cast<size_t>(r * cols)];
    double* to = &gram[static_cast<size_t>(r * cols)];
    for (int64_t c = r; c < cols; ++c) to[c] += from[c];
  }
}

void MirrorUpper(int64_t n, std::span<double> matrix) {
  constexpr int64_t kTile = 32;  // so that the strided reads stay in the cache
  for (int64_t r0 = 0; r0 < n; r0 += kTile) {
    for (int64_t c0 = 0; c0 <= r0; c0 += kTile) {
      for (int64_t r = r0; r < std::min(r0 + kTile, n); ++r) {
        for (int64_t c = c0; c < std::min(c0 + kTile, r); ++c) {
          matrix[static_cast<size_t>(r * n + c)] = matrix[static_cast<size_t>(c * n + r)];
        }
      }
    }
  }
}

template <typename T>
absl::Status Factor(int64_t n, std::span<T> matrix) {
  PinToOneThread();
  QUANTD_RETURN_IF_ERROR(CheckSize("matrix to factor", n, n, matrix.size()));
  if (n == 0) return absl::OkStatus();
  // LAPACK sees columns where we have rows, so its upper triangle is our lower one.
  blasint info = 0;
  Potrf(static_cast<blasint>(n), matrix.data(), &info);
  // NaN passes through potrf, which compares with <= 0.
  const int64_t checked = info > 0 ? info : n;
  for (int64_t i = 0; i < checked; ++i) {
    const T pivot = matrix[static_cast<size_t>(i * n + i)];
    if ((pivot > 0 && std::isfinite(pivot)) && i != info - 1) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("matrix of ", n, " x ", n, " is not positive definite: pivot ", i, " is ",
                     pivot, "; all must be positive, add to the diagonal"));
  }
  for (int64_t r = 0; r < n; ++r) {
    std::fill(matrix.begin() + r * n + r + 1, matrix.begin() + (r + 1) * n, T{0});
  }
  return absl::OkStatus();
}

template <typename T>
absl::Status Solve(Triangle triangle, int64_t n, int64_t num_rhs, std::span<const T> lower,
                   std::span<T> rhs) {
  PinToOneThread();
  QUANTD_RETURN_IF_ERROR(CheckSize("triangular matrix", n, n, lower.size()));
  QUANTD_RETURN_IF_ERROR(CheckSize("right-hand side", n, num_rhs, rhs.size()));
  if (rhs.empty()) return absl::OkStatus();
  for (int64_t i = 0; i < n; ++i) {
    if (lower[static_cast<size_t>(i * n + i)] == 0) {
      return absl::InvalidArgumentError(absl::StrCat("triangular matrix of ", n, " x ", n,
                                                     " has 0 at diagonal ", i,
                                                     "; all must differ from 0"));
    }
  }
  Trsm(triangle == Triangle::kTransposed ? CblasTrans : CblasNoTrans, static_cast<blasint>(n),
       static_cast<blasint>(num_rhs), lower.data(), rhs.data());
  return absl::OkStatus();
}

}  // namespace

absl::Status AccumulateGram(std::span<const float> rows, int64_t num_rows, int64_t num_cols,
                            std::span<double> gram) {
  PinToOneThread();
  QUANTD_RETURN_IF_ERROR(CheckCols(num_cols));
  QUANTD_RETURN_IF_ERROR(CheckSize("matrix of rows", num_rows, num_cols, rows.size()));
  QUANTD_RETURN_IF_ERROR(CheckSize("Gram matrix", num_cols, num_cols, gram.size()));
  if (num_cols == 0) return absl::OkStatus();
  std::vector<float> sums(gram.size());
  for (int64_t row = 0; row < num_rows; row += kGramBlockRows) {
    AddBlock(rows.data() + row * num_cols, std::min(kGramBlockRows, num_rows - row), num_cols, sums,
             gram);
  }
  MirrorUpper(num_cols, gram);
  return absl::OkStatus();
}

int64_t GramAccumulator::ResidentBytes(int64_t num_cols) {
  constexpr int64_t kBlockBytes = kGramBlockRows * (sizeof(float) + sizeof(double));
  return num_cols * kBlockBytes + num_cols * num_cols * int64_t{sizeof(float) + sizeof(double)};
}

absl::StatusOr<GramAccumulator> GramAccumulator::Create(int64_t num_cols) {
  QUANTD_RETURN_IF_ERROR(CheckCols(num_cols));
  PinToOneThread();
  return GramAccumulator(num_cols);
}

GramAccumulator::GramAccumulator(int64_t num_cols)
    : num_cols_(num_cols),
      block_sums_(static_cast<size_t>(num_cols * num_cols)),
      gram_(static_cast<size_t>(num_cols * num_cols)) {}

void GramAccumulator::Add(std::span<const float> values) {
  if (num_cols_ == 0) return;
  const auto block_elems = static_cast<size_t>(kGramBlockRows * num_cols_);
  while (!values.empty()) {
    const float* block = nullptr;
    size_t step_elems = std::min(values.size(), block_elems - pending_.size());
    if (step_elems == block_elems) {  // a whole block is read in place
      block = values.data();
    } else {
      pending_.reserve(block_elems);
      pending_.insert(pending_.end(), values.begin(), values.begin() + step_elems);
      if (pending_.size() == block_elems) block = pending_.data();
    }
    if (block != nullptr) {
      AddBlock(block, kGramBlockRows, num_cols_, block_sums_, gram_);
      pending_.clear();
      block_rows_ += kGramBlockRows;
    }
    values = values.subspan(step_elems);
  }
}

absl::StatusOr<std::vector<double>> GramAccumulator::Finish() && {
  if (num_cols_ == 0) return std::vector<double>();
  const auto cols = static_cast<size_t>(num_cols_);
  if (pending_.size() % cols != 0) {
    return absl::DataLossError(absl::StrCat("the last row has ", pending_.size() % cols,
                                            " values; ", num_cols_, " are needed"));
  }
  if (!pending_.empty()) {
    AddBlock(pending_.data(), pending_rows(), num_cols_, block_sums_, gram_);
  }
  MirrorUpper(num_cols_, gram_);
  return std::move(gram_);
}

ColumnMoments::ColumnMoments(int64_t num_cols) : sums_(static_cast<size_t>(num_cols)) {}

void ColumnMoments::Add(std::span<const float> values) {
  if (sums_.empty()) return;
  while (!values.empty()) {
    const size_t step_elems = std::min(values.size(), sums_.size() - next_col_);
    double* sums = &sums_[next_col_];
    for (size_t i = 0; i < step_elems; ++i) {
      sums[i] += static_cast<double>(values[i]) * values[i];  // the square is exact in double
    }
    next_col_ += step_elems;
    if (next_col_ == sums_.size()) {
      next_col_ = 0;
      ++num_rows_;
    }
    values = values.subspan(step_elems);
  }
}

absl::Status CholeskyFactor(int64_t n, std::span<float> matrix) { return Factor(n, matrix); }
absl::Status CholeskyFactor(int64_t n, std::span<double> matrix) { return Factor(n, matrix); }

absl::Status SolveTriangular(Triangle triangle, int64_t n, int64_t num_rhs,
                             std::span<const float> lower, std::span<float> rhs) {
  return Solve<float>(triangle, n, num_rhs, lower, rhs);
}
absl::Status SolveTriangular(Triangle triangle, int64_t n, int64_t num_rhs,
                             std::span<const double> lower, std::span<double> rhs) {
  return Solve<double>(triangle, n, num_rhs, lower, rhs);
}

std::string BlasCoreName() { return openblas_get_corename(); }

int BlasThreads() {
  PinToOneThread();
  return openblas_get_num_threads();
}

}  // namespace quantd
