#ifndef QUANTD_TESTS_SUPPORT_FAULTY_SINK_H_
#define QUANTD_TESTS_SUPPORT_FAULTY_SINK_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "tests/support/cuts.h"

namespace quantd::testing {

// A MemorySink that has no memory when a test says so, and calls it when a stripe is committed.
class FaultySink final : public MemorySink {
 public:
  using MemorySink::MemorySink;

  SinkMemory Acquire(int64_t offset_bytes, int64_t size_bytes) override {
    if (!has_memory(++attempts)) {
      ++refusals;
      return std::nullopt;
    }
    ++acquired;
    return MemorySink::Acquire(offset_bytes, size_bytes);
  }
  void Commit(int64_t offset_bytes, int64_t size_bytes, uint32_t crc32c) override {
    MemorySink::Commit(offset_bytes, size_bytes, crc32c);
    committed_bytes += size_bytes;
    on_commit(committed++);
  }

  std::function<bool(int64_t attempt)> has_memory = [](int64_t) { return true; };  // from 1 on
  std::function<void(int64_t stripe)> on_commit = [](int64_t) {};
  std::atomic<int64_t> attempts = 0, refusals = 0, acquired = 0, committed = 0;
  std::atomic<int64_t> committed_bytes = 0;
};

}  // namespace quantd::testing

#endif  // QUANTD_TESTS_SUPPORT_FAULTY_SINK_H_
