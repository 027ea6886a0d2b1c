#ifndef QUANTD_CORE_TENSOR_SHAPE_H_
#define QUANTD_CORE_TENSOR_SHAPE_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/tensor/dtype.h"

namespace quantd {

inline constexpr int kMaxRank = 16;

// The dimensions of a C-order tensor, outermost first; rank 0 is one element, and a dimension may
// be 0. Always valid: rank at most kMaxRank, no negative dimension, the product in int64.
class Shape {
 public:
  Shape() = default;  // rank 0

  // Returns the shape, or kInvalidArgument naming the dimension or the product at fault.
  static absl::StatusOr<Shape> Make(std::vector<int64_t> dims);

  std::span<const int64_t> dims() const { return dims_; }
  int rank() const { return static_cast<int>(dims_.size()); }
  int64_t dim(int i) const { return dims_[static_cast<size_t>(i)]; }
  int64_t last_dim() const { return dims_.empty() ? 1 : dims_.back(); }
  int64_t num_elems() const { return num_elems_; }

  // Returns e.g. "[128, 64]".
  std::string Text() const;

  bool operator==(const Shape&) const = default;

 private:
  std::vector<int64_t> dims_;
  int64_t num_elems_ = 1;
};

// What a tensor is, beside its values.
struct TensorDesc {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;

  bool operator==(const TensorDesc&) const = default;
};

// Returns the size of the tensor's values, or kInvalidArgument where it leaves int64.
absl::StatusOr<int64_t> SizeBytes(const TensorDesc& tensor);

}  // namespace quantd

#endif  // QUANTD_CORE_TENSOR_SHAPE_H_
