// Quantizes four numbers by the server whose address is the argument, and prints their codes.
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <vector>

#include "client/client.h"

namespace {

absl::Status Run(const std::string& address) {
  absl::StatusOr<quantd::Client> client = quantd::Client::Connect(address);
  if (!client.ok()) return client.status();
  const absl::StatusOr<quantd::QuantSpec> spec = quantd::ParseSpec("int8");
  if (!spec.ok()) return spec.status();
  const absl::StatusOr<quantd::Shape> shape = quantd::Shape::Make({4});
  if (!shape.ok()) return shape.status();

  const std::vector<float> values = {-1.0f, -0.25f, 0.5f, 1.0f};
  quantd::MemorySource source(std::as_bytes(std::span(values)));
  quantd::MemorySink sink;
  quantd::Cancellation cancellation;  // Cancel(), by any thread, ends the call
  quantd::CallOptions options;
  options.cancellation = &cancellation;
  options.on_sent = [](int64_t bytes) {
    std::fprintf(stderr, "%lld bytes on their way\n", static_cast<long long>(bytes));
  };
  const absl::StatusOr<quantd::QuantizedInfo> info =
      client->Quantize({.tensor = {"values", quantd::DType::kF32, *shape},
                        .spec = *spec,
                        .source = &source,
                        .sink = &sink},
                       options);
  if (!info.ok()) return info.status();
  for (const std::byte code : sink.planes().front()) {
    std::printf("%d ", static_cast<int>(static_cast<int8_t>(code)));
  }
  std::printf("at %.2f dB\n", info->report.figures.SqnrDb().value_or(0));
  return absl::OkStatus();
}

}  // namespace

int main(int argc, char** argv) {
  const absl::Status status = Run(argc > 1 ? argv[1] : "127.0.0.1:7717");
  if (!status.ok()) std::fprintf(stderr, "example: %s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
