// Files of the safetensors container. Input: the file.
#include "absl/strings/str_cat.h"
#include "core/io/container.h"
#include "core/io/safetensors_header.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/index_check.h"

namespace quantd::fuzz {
namespace {

// What is read can be written, and reads the same.
void RequireRoundTrip(const ContainerIndex& index) {
  const absl::StatusOr<std::string> json = FormatSafetensorsHeader(index);
  Require(json.ok(), "a header that was read cannot be written");
  const absl::StatusOr<ContainerIndex> again = ParseSafetensorsHeader(*json);
  Require(again.ok(), "a header that was written cannot be read");
  RequireEqual(*again, index);
}

void Run(std::span<const std::byte> file) {
  const absl::StatusOr<ContainerIndex> index =
      (*FindContainer("safetensors"))->read_index(MemoryBytes(file), "t", {});
  if (index.ok()) {
    RequireWithin(*index, file);
    RequireRoundTrip(*index);
  }
  // The same bytes as a bare header, whatever length the file claims.
  const absl::StatusOr<ContainerIndex> header =
      ParseSafetensorsHeader({reinterpret_cast<const char*>(file.data()), file.size()});
  if (header.ok()) RequireRoundTrip(*header);
}

}  // namespace
}  // namespace quantd::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size_bytes) {
  quantd::fuzz::Run(quantd::fuzz::FuzzInput(data, size_bytes).Rest());
  return 0;
}
