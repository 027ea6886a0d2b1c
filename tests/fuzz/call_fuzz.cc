// A server's calls with their peers (tests/sim/world.h): the input says what happens next, which
// frames are cut, damaged, lost or repeated, who falls silent, and which memory is refused.
// Input: | u16 which reservation or buffer is refused, 0: none | choices |
#include <string>

#include "tests/fuzz/fuzz_input.h"
#include "tests/sim/world.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size_bytes) {
  using namespace quantd;  // NOLINT
  fuzz::FuzzInput in(data, size_bytes);
  const uint16_t refused = in.Short();
  const std::span<const std::byte> rest = in.Rest();
  const sim::Outcome outcome =
      sim::Run({.choices = {reinterpret_cast<const uint8_t*>(rest.data()), rest.size()},
                .refused = refused});
  fuzz::Require(outcome.fault.empty(), outcome.fault);
  return 0;
}
