#ifndef QUANTD_CLIENT_EXCHANGE_H_
#define QUANTD_CLIENT_EXCHANGE_H_

#include <span>
#include <string>

#include "client/route.h"
#include "client/tensor_call.h"
#include "client/types.h"

namespace quantd {

// Brings all calls to their end over streams of `method`; what came of each is its status(). Those
// that fail with kUnavailable are made again, as the options say. Blocks.
void RunCalls(const Route& route, const std::string& method, std::span<TensorCall* const> calls,
              const CallOptions& options);

}  // namespace quantd

#endif  // QUANTD_CLIENT_EXCHANGE_H_
