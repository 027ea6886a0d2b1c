#include "core/tensor/shape.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/checked_math.h"
#include "core/base/status_macros.h"

namespace quantd {

absl::StatusOr<Shape> Shape::Make(std::vector<int64_t> dims) {
  if (dims.size() > kMaxRank) {
    return absl::InvalidArgumentError(
        absl::StrCat("shape has rank ", dims.size(), "; at most ", kMaxRank, " is allowed"));
  }
  Shape shape;
  int64_t nonzero_product = 1;  // so that [2^40, 2^40, 0] is refused whatever the order
  bool empty = false;
  for (const int64_t dim : dims) {
    if (dim < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("shape [", absl::StrJoin(dims, ", "), "] has a negative dimension"));
    }
    if (dim == 0) {
      empty = true;
      continue;
    }
    if (__builtin_mul_overflow(nonzero_product, dim, &nonzero_product)) {
      return absl::InvalidArgumentError(
          absl::StrCat("shape [", absl::StrJoin(dims, ", "), "] has more than 2^63 - 1 elements"));
    }
  }
  shape.num_elems_ = empty ? 0 : nonzero_product;
  shape.dims_ = std::move(dims);
  return shape;
}

std::string Shape::Text() const { return absl::StrCat("[", absl::StrJoin(dims_, ", "), "]"); }

absl::StatusOr<int64_t> SizeBytes(const TensorDesc& tensor) {
  absl::StatusOr<int64_t> size_bytes = CheckedMul(tensor.shape.num_elems(), SizeOf(tensor.dtype));
  if (!size_bytes.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("shape ", tensor.shape.Text(), " of ",
                                                   NameOf(tensor.dtype),
                                                   " has more than 2^63 - 1 bytes"));
  }
  return size_bytes;
}

}  // namespace quantd
