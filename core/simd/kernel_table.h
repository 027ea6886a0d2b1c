#ifndef QUANTD_CORE_SIMD_KERNEL_TABLE_H_
#define QUANTD_CORE_SIMD_KERNEL_TABLE_H_

namespace quantd {

// The kernels of a family on one SIMD target: `Row<T>` holds its functions for values of type T,
// which is float or double.
template <template <typename> class Row>
struct KernelTable {
  Row<float> f32;
  Row<double> f64;

  template <typename T>
  const Row<T>& Of() const {
    if constexpr (sizeof(T) == sizeof(float)) {
      return f32;
    } else {
      return f64;
    }
  }
};

}  // namespace quantd

#endif  // QUANTD_CORE_SIMD_KERNEL_TABLE_H_
