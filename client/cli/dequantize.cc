#include <map>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/commands.h"
#include "client/cli/compare.h"
#include "client/cli/output_access.h"
#include "client/cli/packed_file.h"
#include "client/cli/packed_output.h"
#include "client/cli/planning.h"
#include "client/cli/progress.h"
#include "client/cli/report_view.h"
#include "client/cli/text.h"
#include "core/base/status_macros.h"

namespace quantd::cli {
namespace {

struct Options {
  std::string input, output, dtype, format;
  bool force = false;
};

// One tensor of the output: a packed one, or one that is copied.
struct OutputTensor {
  TensorDesc desc;
  const PackedTensor* packed = nullptr;  // null: copied from `place`
  size_t place = 0;
  int64_t saturated = 0;  // values that the type does not hold
};

// One run of the command. Not thread-safe.
class Run {
 public:
  Run(const Globals& globals, const Options& options) : globals_(globals), options_(options) {}

  absl::StatusOr<ExitCode> operator()() {
    QUANTD_RETURN_IF_ERROR(Prepare());
    QUANTD_RETURN_IF_ERROR(DequantizeAll());
    Print();
    return kOk;
  }

 private:
  absl::Status Prepare() {
    std::optional<DType> dtype;
    if (!options_.dtype.empty()) {
      QUANTD_ASSIGN_OR_RETURN(dtype, ParseDType(options_.dtype));
    }
    QUANTD_ASSIGN_OR_RETURN(container_, OutputContainer(options_.output, options_.format));
    QUANTD_ASSIGN_OR_RETURN(file_, OpenPacked(options_.input));
    QUANTD_RETURN_IF_ERROR(CheckOverwrites(options_.output, *file_.input, "", options_.force));
    std::map<size_t, OutputTensor> by_place;
    for (const PackedTensor& packed : file_.packed) {
      OutputTensor tensor{packed.entry.tensor, &packed, packed.planes[0]};
      tensor.desc.dtype = dtype.value_or(DefaultOutputType(tensor.desc.dtype));
      by_place.emplace(packed.planes[0], std::move(tensor));
    }
    for (const size_t place : file_.kept) {
      by_place.emplace(place, OutputTensor{file_.input->tensor(place), nullptr, place});
    }
    for (auto& [place, tensor] : by_place) tensors_.push_back(std::move(tensor));
    QUANTD_ASSIGN_OR_RETURN(connection_, Connection::Open(globals_));
    return absl::OkStatus();
  }

  Metadata OutputMetadata() const {
    // A single .npy file has no place for it.
    if (absl::EndsWith(options_.output, ".npy")) return {};
    Metadata metadata = file_.input->metadata();
    for (const PackedTensor& packed : file_.packed) {
      metadata.erase(absl::StrCat("quantd.", packed.entry.tensor.name));
    }
    metadata.erase(kVersionKey);
    return metadata;
  }

  absl::Status DequantizeAll() {
    std::vector<StoredTensor> stored;
    int64_t total_bytes = 0;
    for (const OutputTensor& tensor : tensors_) {
      stored.push_back(file_.input->stored(tensor.place));  // of packed ones, the codes
      if (tensor.packed == nullptr) continue;
      stored.back().desc = tensor.desc;
      for (const size_t place : tensor.packed->planes)
        total_bytes += file_.input->size_bytes(place);
    }
    NarrowOutputs(options_.input, options_.output);
    QUANTD_ASSIGN_OR_RETURN(const std::unique_ptr<GuardedWriter> writer,
                            GuardedWriter::Create(*container_, options_.output, stored,
                                                  OutputMetadata(), globals_.interrupts));
    Progress progress("dequantizing", total_bytes, globals_.quiet);
    QUANTD_RETURN_IF_ERROR(RunJobs(*writer, progress));
    QUANTD_RETURN_IF_ERROR(file_.input->CheckUnchanged());
    elapsed_ = progress.elapsed();
    return Named(ShownOutput(options_.output), writer->Finish(OutputMetadata()));
  }

  absl::Status RunJobs(GuardedWriter& writer, Progress& progress) {
    std::vector<std::unique_ptr<ByteSource>> sources;
    std::vector<std::unique_ptr<PlaneSink>> sinks;
    std::vector<DequantizeJob> jobs;
    std::vector<OutputTensor*> packed;  // by job
    for (size_t i = 0; i < tensors_.size(); ++i) {
      OutputTensor& tensor = tensors_[i];
      if (tensor.packed == nullptr) {
        const auto source = file_.input->MakeSource(tensor.place);
        QUANTD_RETURN_IF_ERROR(Named(tensor.desc.name, CopyTo(*source, writer, i)));
        continue;
      }
      const PackedEntry& entry = tensor.packed->entry;
      DequantizeJob& job = jobs.emplace_back();
      job.tensor = entry.tensor;
      const absl::StatusOr<QuantSpec> spec = ParseSpec(entry.spec);
      if (!spec.ok()) return Named(entry.tensor.name, spec.status());
      job.spec = *spec;
      job.output_dtype = tensor.desc.dtype;
      for (size_t k = 0; k < entry.planes.size(); ++k) {
        sources.push_back(file_.input->MakeSource(tensor.packed->planes[k]));
        job.planes.push_back({entry.planes[k], sources.back().get()});
      }
      sinks.push_back(std::make_unique<WriterSink>(&writer, i));
      job.sink = sinks.back().get();
      packed.push_back(&tensor);
    }
    const auto results =
        connection_->client().DequantizeMany(std::move(jobs), connection_->call_options(progress));
    for (size_t k = 0; k < results.size(); ++k) {
      QUANTD_RETURN_IF_ERROR(CheckResult(packed[k]->packed->entry, results[k]));
      packed[k]->saturated = results[k]->saturated;
    }
    return absl::OkStatus();
  }

  absl::Status CheckResult(const PackedEntry& entry, const absl::StatusOr<DequantizedInfo>& info) {
    if (!info.ok()) return connection_->ErrorOf(entry.tensor.name, info.status());
    for (size_t i = 0; i < entry.planes.size(); ++i) {
      if (info->plane_digests[i] == entry.digests[i]) continue;
      const absl::Status differs = DigestDiffers(entry, i, info->plane_digests[i]);
      if (!absl::IsDataLoss(differs)) return differs;
      return absl::DataLossError(
          absl::StrCat(differs.message(), "; it has changed since it was quantized"));
    }
    return absl::OkStatus();
  }

  void Print() const {
    using enum Table::Align;
    using enum Table::Fit;
    Table table({{"tensor", kLeft, kShrink},
                 {"shape", kLeft, kDrop},
                 {"type"},
                 {"before", kRight},
                 {"after", kRight},
                 {"note", kLeft, kWrap}});
    KeptTensors kept;
    int64_t before_bytes = 0, after_bytes = 0;
    Json list = Json::array();
    for (const OutputTensor& tensor : tensors_) {
      const bool copied = tensor.packed == nullptr;
      int64_t packed_bytes = 0;
      if (copied) {
        packed_bytes = file_.input->size_bytes(tensor.place);
      } else {
        for (const size_t place : tensor.packed->planes) {
          packed_bytes += file_.input->size_bytes(place);
        }
      }
      const std::string type = copied ? TypeName(file_.input->stored(tensor.place))
                                      : std::string(NameOf(tensor.desc.dtype));
      const int64_t value_bytes = copied ? packed_bytes : SizeBytes(tensor.desc).value_or(0);
      before_bytes += packed_bytes;
      after_bytes += value_bytes;
      if (copied) {
        kept.Add(tensor.desc.name, "not quantized", packed_bytes);
      } else {
        std::string note = absl::StrCat("from ", ShortSpec(tensor.packed->entry.spec));
        if (tensor.saturated > 0) {
          absl::StrAppend(&note, "; ", SaturatedText(tensor.saturated, tensor.desc.dtype));
        }
        table.AddRow({Printable(tensor.desc.name), ShapeText(tensor.desc.shape), type,
                      HumanBytes(packed_bytes), HumanBytes(value_bytes), Printable(note)});
      }
      Json& json = list.emplace_back();
      json["name"] = tensor.desc.name;
      json["dtype"] = type;
      json["shape"] = ToJson(tensor.desc.shape);
      json["dequantized"] = !copied;
      json["before_bytes"] = packed_bytes;
      json["after_bytes"] = value_bytes;
      json["spec"] = copied ? "" : tensor.packed->entry.spec;
      if (!copied) json["saturated"] = tensor.saturated;
    }
    if (globals_.json) {
      Json json;
      json["command"] = "dequantize";
      json["input"] = options_.input;
      json["output"] = options_.output;
      json["server"] = connection_->where();
      json["transport"] = connection_->transport();
      json["tensors"] = std::move(list);
      json["totals"] = {{"tensors", tensors_.size()},
                        {"before_bytes", before_bytes},
                        {"after_bytes", after_bytes}};
      json["elapsed_s"] = absl::ToDoubleSeconds(elapsed_);
      PrintJson(json, globals_.out());
      return;
    }
    for (const KeptTensors::Line& line : kept.Lines()) {
      const std::string size = HumanBytes(line.size_bytes);
      table.AddRow({line.name, "", "", size, size, line.note});
    }
    absl::FPrintF(globals_.out(),
                  "%s\nwrote %s: %d of %d tensors dequantized in %s, by %s (%s)\n",
                  table.Text(globals_.columns()), ShownOutput(options_.output),
                  file_.packed.size(), tensors_.size(), HumanTime(elapsed_), connection_->where(),
                  connection_->transport());
  }

  const Globals& globals_;
  const Options& options_;
  const Container* container_ = nullptr;
  PackedFile file_;
  std::vector<OutputTensor> tensors_;
  std::unique_ptr<Connection> connection_;
  absl::Duration elapsed_;
};

}  // namespace

Command AddDequantize(CLI::App& app, const Globals& globals) {
  CLI::App* const command =
      app.add_subcommand("dequantize", "Turn a file that quantize wrote back into values");
  auto options = std::make_shared<Options>();
  command->add_option("INPUT", options->input, "what quantctl quantize wrote")->required();
  command->add_option("-o,--output", options->output, "file or folder to write")->required();
  command->add_option("--dtype", options->dtype,
                      "f64, f32, f16 or bf16 (default: the original type, f32 for integers)");
  command->add_option("--format", options->format, "safetensors or npy (default: by extension)");
  AddForce(*command, options->force);
  return {command, [options, &globals] { return Run(globals, *options)(); }};
}

}  // namespace quantd::cli
