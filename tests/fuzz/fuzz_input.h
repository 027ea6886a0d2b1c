#ifndef QUANTD_TESTS_FUZZ_FUZZ_INPUT_H_
#define QUANTD_TESTS_FUZZ_FUZZ_INPUT_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace quantd::fuzz {

// Takes choices from the front of a fuzzer's input; what is used up gives zeros. Not thread-safe.
class FuzzInput {
 public:
  FuzzInput(const uint8_t* data, size_t size_bytes) : rest_(data, size_bytes) {}

  uint8_t Byte() { return static_cast<uint8_t>(Number(1)); }
  uint16_t Short() { return static_cast<uint16_t>(Number(2)); }
  uint32_t Word() { return Number(4); }

  // A length byte, and as many bytes.
  std::string Text() {
    const size_t wanted_bytes = Byte();  // before the rest is looked at: this takes some of it
    const size_t size_bytes = std::min(wanted_bytes, rest_.size());
    const std::string text(rest_.begin(), rest_.begin() + static_cast<ptrdiff_t>(size_bytes));
    rest_ = rest_.subspan(size_bytes);
    return text;
  }

  // Everything that is left.
  std::span<const std::byte> Rest() const { return std::as_bytes(rest_); }
  absl::string_view RestText() const {
    return {reinterpret_cast<const char*>(rest_.data()), rest_.size()};
  }

  // Returns `size_bytes` that repeat what is left; zeros where nothing is.
  std::vector<std::byte> Repeated(size_t size_bytes) const {
    std::vector<std::byte> bytes(size_bytes);
    for (size_t i = 0; i < size_bytes && !rest_.empty(); ++i) bytes[i] = Rest()[i % rest_.size()];
    return bytes;
  }

 private:
  uint32_t Number(size_t size_bytes) {
    uint32_t value = 0;
    for (size_t i = 0; i < size_bytes && !rest_.empty(); ++i) {
      value |= uint32_t{rest_.front()} << (8 * i);
      rest_ = rest_.subspan(1);
    }
    return value;
  }

  std::span<const uint8_t> rest_;
};

// Ends the process where a promise is broken: that is how a fuzz target reports.
inline void Require(bool holds, absl::string_view what) {
  if (holds) return;
  std::fprintf(stderr, "broken promise: %.*s\n", static_cast<int>(what.size()), what.data());
  std::abort();
}

}  // namespace quantd::fuzz

#endif  // QUANTD_TESTS_FUZZ_FUZZ_INPUT_H_
