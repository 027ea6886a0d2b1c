#ifndef QUANTD_CORE_SESSION_SESSION_CONTEXT_H_
#define QUANTD_CORE_SESSION_SESSION_CONTEXT_H_

#include "core/exec/buffer_pool.h"
#include "core/exec/executor.h"
#include "core/exec/memory_budget.h"

namespace quantd {

// What sessions share. All three outlive the sessions.
struct SessionContext {
  Executor* executor = nullptr;
  BufferPool* pool = nullptr;
  MemoryBudget* budget = nullptr;
};

}  // namespace quantd

#endif  // QUANTD_CORE_SESSION_SESSION_CONTEXT_H_
