// Quantizes a model within this process, without any server, and writes it to another file:
//   quantize_file model.safetensors packed.safetensors
// Matrices become int8, codes under the tensor's name and its scale beside it; the rest is copied.
#include <atomic>
#include <cinttypes>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "client/in_process.h"
#include "client/model_file.h"

namespace {

bool IsMatrix(const quantd::StoredTensor& tensor) {
  return !tensor.is_foreign() && quantd::IsFloat(tensor.desc.dtype) &&
         tensor.desc.shape.rank() >= 2;
}

// What the output has of one tensor of the input.
struct Packed {
  std::optional<quantd::TensorPlan> plan;  // none: the tensor as it is
  size_t first = 0;                        // of the output's tensors
};

absl::Status Run(const std::string& from, const std::string& to) {
  const auto model = quantd::ModelReader::Open(from);
  if (!model.ok()) return model.status();
  const auto service = quantd::InProcessService::Start({.memory_budget_bytes = 256 << 20});
  if (!service.ok()) return service.status();
  const quantd::Client client = (*service)->MakeClient();
  const absl::StatusOr<quantd::QuantSpec> spec = quantd::ParseSpec("int8");
  if (!spec.ok()) return spec.status();

  std::vector<Packed> packed;
  std::vector<quantd::StoredTensor> tensors;  // of the output
  for (size_t i = 0; i < model->size(); ++i) {
    const quantd::StoredTensor& tensor = model->tensor(i);
    packed.push_back({.first = tensors.size()});
    if (!IsMatrix(tensor)) {
      tensors.push_back(tensor);
      continue;
    }
    absl::StatusOr<quantd::TensorPlan> plan = client.Plan(tensor.desc, *spec);
    if (!plan.ok()) return plan.status();
    for (const quantd::PlaneDesc& plane : plan->planes) {
      const bool is_codes = &plane == &plan->planes.front();
      const std::string name = is_codes ? tensor.desc.name : tensor.desc.name + "." + plane.name;
      tensors.emplace_back(quantd::TensorDesc{name, plane.dtype, plane.shape});
    }
    packed.back().plan = *std::move(plan);
  }

  auto output = quantd::ModelWriter::Create(to, std::move(tensors), model->metadata());
  if (!output.ok()) return output.status();
  std::vector<std::unique_ptr<quantd::ByteSource>> sources;
  std::vector<std::unique_ptr<quantd::PlaneSink>> sinks;
  std::vector<quantd::QuantizeJob> jobs;
  for (size_t i = 0; i < model->size(); ++i) {
    sources.push_back(model->MakeSource(i));
    if (!packed[i].plan.has_value()) {
      const absl::Status copied = output->Copy(*sources.back(), packed[i].first);
      if (!copied.ok()) return copied;
      continue;
    }
    sinks.push_back(output->MakeSink(packed[i].first));
    jobs.push_back({.tensor = model->tensor(i).desc,
                    .spec = *spec,
                    .source = sources.back().get(),
                    .sink = sinks.back().get(),
                    .plan = packed[i].plan});
  }
  std::atomic<int64_t> sent_bytes = 0;
  quantd::CallOptions options;
  options.on_sent = [&sent_bytes](int64_t bytes) { sent_bytes += bytes; };  // any thread
  for (const auto& info : client.QuantizeMany(std::move(jobs), options)) {
    if (!info.ok()) return info.status();
  }
  std::printf("%" PRId64 " bytes were quantized\n", sent_bytes.load());
  if (const absl::Status status = model->CheckUnchanged(); !status.ok()) return status;
  return output->Finish(model->metadata());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return std::fprintf(stderr, "usage: quantize_file MODEL OUTPUT\n"), 2;
  const absl::Status status = Run(argv[1], argv[2]);
  if (!status.ok()) std::fprintf(stderr, "quantize_file: %s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
