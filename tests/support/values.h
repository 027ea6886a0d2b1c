#ifndef QUANTD_TESTS_SUPPORT_VALUES_H_
#define QUANTD_TESTS_SUPPORT_VALUES_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/exec/buffer_pool.h"
#include "core/exec/executor.h"
#include "core/exec/memory_budget.h"
#include "core/scheme/scheme.h"
#include "core/session/quantize_session.h"
#include "core/session/session_context.h"
#include "core/tensor/shape.h"

namespace quantd::testing {

// What the values of a test tensor look like.
enum class ValueKind {
  kNormal,     // around 0, with a few outliers
  kTies,       // multiples of 0.5 of small magnitude
  kWide,       // from subnormal to the largest
  kTiny,       // all subnormal or zero
  kNonFinite,  // some NaN and infinities among normal ones
  kZero,
};

// Returns the bytes of `tensor`'s values; the same for the same arguments everywhere. Integer types
// get whole numbers over their whole range for kWide, small ones else.
std::vector<std::byte> MakeValues(const TensorDesc& tensor, ValueKind kind, uint32_t seed);

// Returns a descriptor; the shape must be valid.
TensorDesc MakeTensor(std::string name, DType dtype, std::vector<int64_t> dims);

// Everything that sessions share, with `workers` threads beside the caller.
struct Bench {
  explicit Bench(int workers = 0, int64_t budget_bytes = int64_t{1} << 32)
      : executor(workers), pool(size_t{64} << 20), budget(budget_bytes) {}
  SessionContext context() { return {&executor, &pool, &budget}; }

  Executor executor;
  BufferPool pool;
  MemoryBudget budget;
};

// Returns a text that holds every byte of the planes and every figure of the report.
std::string Fingerprint(const QuantizedTensor& tensor);

}  // namespace quantd::testing

#endif  // QUANTD_TESTS_SUPPORT_VALUES_H_
