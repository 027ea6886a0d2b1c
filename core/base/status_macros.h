#ifndef QUANTD_CORE_BASE_STATUS_MACROS_H_
#define QUANTD_CORE_BASE_STATUS_MACROS_H_

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Returns from the enclosing function if `expr` (an absl::Status) is not OK.
#define QUANTD_RETURN_IF_ERROR(expr)                                \
  do {                                                              \
    if (absl::Status quantd_status = (expr); !quantd_status.ok()) { \
      return quantd_status;                                         \
    }                                                               \
  } while (false)

#define QUANTD_CONCAT_INNER(a, b) a##b
#define QUANTD_CONCAT(a, b) QUANTD_CONCAT_INNER(a, b)

// Declares or assigns `lhs` from `expr` (an absl::StatusOr), or returns its error.
#define QUANTD_ASSIGN_OR_RETURN(lhs, expr) \
  QUANTD_ASSIGN_OR_RETURN_IMPL(QUANTD_CONCAT(quantd_or_, __LINE__), lhs, expr)
#define QUANTD_ASSIGN_OR_RETURN_IMPL(tmp, lhs, expr) \
  auto tmp = (expr);                                 \
  if (!tmp.ok()) return std::move(tmp).status();     \
  lhs = *std::move(tmp)

// Stops the program on a bug of ours, in debug builds only; never on what a peer or a file said.
#ifdef NDEBUG
#define QUANTD_DCHECK(condition) ((void)sizeof(condition))
#else
#define QUANTD_DCHECK(condition)                                                         \
  do {                                                                                   \
    if (!(condition)) {                                                                  \
      std::fprintf(stderr, "%s:%d: bug: %s is false\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                      \
    }                                                                                    \
  } while (false)
#endif

#endif  // QUANTD_CORE_BASE_STATUS_MACROS_H_
