// Files of the npy container. Input: | u8: the dtype that the caller names, or none | the file |
#include <memory>

#include "core/io/container.h"
#include "core/io/npy_header.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/index_check.h"

namespace quantd::fuzz {
namespace {

// All values come, whatever their order, in pieces and blocks that are not those of the elements.
void RequireReadable(const ContainerIndex& index, std::span<const std::byte> file) {
  const auto bytes = std::make_shared<MemoryBytes>(file);
  for (const TensorEntry& entry : index.tensors) {
    TensorReader reader(bytes, entry, 13);
    std::byte piece[1000];
    int64_t read_bytes = 0;
    while (true) {
      const absl::StatusOr<size_t> got = reader.Read(piece);
      Require(got.ok(), "values cannot be read");
      if (*got == 0) break;
      read_bytes += static_cast<int64_t>(*got);
    }
    Require(read_bytes == entry.size_bytes, "another number of values");
  }
}

void Run(FuzzInput in) {
  const size_t choice = in.Byte() % (AllDTypes().size() + 1);
  std::optional<DType> dtype;
  if (choice < AllDTypes().size()) dtype = AllDTypes()[choice];
  const std::span<const std::byte> file = in.Rest();

  const absl::StatusOr<NpyHeader> header = ParseNpyHeader(file, dtype);
  const absl::StatusOr<ContainerIndex> index =
      (*FindContainer("npy"))->read_index(MemoryBytes(file), "t", {.dtype = dtype});
  if (index.ok()) {
    Require(header.ok(), "a file without a header");
    RequireWithin(*index, file);
    RequireReadable(*index, file);
  }
  if (!header.ok()) return;
  Require(header->data_offset_bytes <= static_cast<int64_t>(file.size()), "values past the end");
  const std::string text = FormatNpyHeader(header->dtype, header->shape);
  Require(text.size() % 64 == 0, "an unaligned header");
  const absl::StatusOr<NpyHeader> again =
      ParseNpyHeader(std::as_bytes(std::span(text)), header->dtype);
  Require(again.ok() && again->dtype == header->dtype && again->shape == header->shape,
          "a header that was written reads as another one");
}

}  // namespace
}  // namespace quantd::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size_bytes) {
  quantd::fuzz::Run(quantd::fuzz::FuzzInput(data, size_bytes));
  return 0;
}
