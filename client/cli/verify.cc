#include <algorithm>
#include <limits>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/cli/commands.h"
#include "client/cli/compare.h"
#include "client/cli/packed_file.h"
#include "client/cli/progress.h"
#include "client/cli/report_view.h"
#include "client/cli/text.h"
#include "core/base/digest.h"
#include "core/base/status_macros.h"
#include "core/session/planner.h"

namespace quantd::cli {
namespace {

struct Options {
  std::string packed_path, original_path;
};

// One run of the command. Not thread-safe.
class Run {
 public:
  Run(const Globals& globals, const Options& options) : globals_(globals), options_(options) {}

  absl::StatusOr<ExitCode> operator()() {
    QUANTD_ASSIGN_OR_RETURN(file_, OpenPacked(options_.packed_path));
    CheckDigests();
    if (!options_.original_path.empty()) QUANTD_RETURN_IF_ERROR(CompareAll());
    Print();
    return problems_.empty() ? kOk : kCheckFailed;
  }

 private:
  // kDataLoss if the tensor's planes are not those that its spec, type and shape give.
  absl::Status CheckPlanes(const PackedTensor& packed) const {
    QUANTD_ASSIGN_OR_RETURN(const QuantSpec spec, ParseSpec(packed.entry.spec));
    QUANTD_ASSIGN_OR_RETURN(
        const Plan plan, MakePlan(spec, packed.entry.tensor, std::numeric_limits<int64_t>::max()));
    const std::vector<PlaneDesc>& planes = plan.resolved.layout.planes;
    bool same = planes.size() == packed.planes.size();
    for (size_t k = 0; same && k < planes.size(); ++k) {
      const TensorDesc& found = file_.input->tensor(packed.planes[k]);
      same = planes[k].name == packed.entry.planes[k] && planes[k].dtype == found.dtype &&
             planes[k].shape == found.shape;
    }
    if (same) return absl::OkStatus();
    return absl::DataLossError(
        absl::StrCat("its planes are not those of ", NameOf(packed.entry.tensor.dtype), " ",
                     packed.entry.tensor.shape.Text(), " as ", packed.entry.spec));
  }

  void CheckDigests() {
    for (const PackedTensor& packed : file_.packed) {
      TensorRow& row = rows_.emplace_back();
      row.tensor = packed.entry.tensor;
      row.before_bytes = SizeBytes(row.tensor).value_or(0);
      std::vector<std::string> bad;
      for (size_t k = 0; k < packed.planes.size(); ++k) {
        const size_t place = packed.planes[k];
        row.after_bytes += file_.input->size_bytes(place);
        const std::string found = DigestOf(*file_.input->Values(place));
        ++num_planes_;
        if (found == packed.entry.digests[k]) continue;
        bad.push_back(packed.entry.planes[k]);
        problems_.push_back(std::string(DigestDiffers(packed.entry, k, found).message()));
      }
      const absl::Status planes = CheckPlanes(packed);
      if (!planes.ok()) {
        problems_.push_back(absl::StrCat(packed.entry.tensor.name, ": ", planes.message()));
      }
      row.details["spec"] = packed.entry.spec;
      row.details["ok"] = bad.empty() && planes.ok();
      row.details["bad_planes"] = bad;
      row.note = !bad.empty()   ? absl::StrCat("CHANGED: ", absl::StrJoin(bad, ", "))
                 : !planes.ok() ? "CONTRADICTS its metadata"
                                : "ok";
    }
  }

  absl::Status CompareAll() {
    InputOptions options;
    options.path = options_.original_path;
    QUANTD_ASSIGN_OR_RETURN(const Input original, Input::Open(options));
    std::map<std::string, size_t> places;
    for (size_t i = 0; i < original.size(); ++i) places[original.tensor(i).name] = i;
    QUANTD_RETURN_IF_ERROR(CompareKept(original, places));
    QUANTD_ASSIGN_OR_RETURN(const auto connection, Connection::Open(globals_));
    std::vector<std::unique_ptr<ByteSource>> sources;
    std::vector<std::unique_ptr<CompareSink>> sinks;
    std::vector<DequantizeJob> jobs;
    int64_t total_bytes = 0;
    for (const TensorRow& row : rows_) total_bytes += row.after_bytes;
    Progress progress("comparing", total_bytes, globals_.quiet);
    for (const PackedTensor& packed : file_.packed) {
      const PackedEntry& entry = packed.entry;
      const auto place = places.find(entry.tensor.name);
      if (place == places.end() || !(original.tensor(place->second) == entry.tensor)) {
        return absl::InvalidArgumentError(absl::StrCat(
            entry.tensor.name, ": ", options_.original_path, " has no tensor of ",
            NameOf(entry.tensor.dtype), " ", entry.tensor.shape.Text(), " under this name"));
      }
      sinks.push_back(std::make_unique<CompareSink>(entry.tensor, *original.Values(place->second)));
      DequantizeJob& job = jobs.emplace_back();
      job.tensor = entry.tensor;
      const absl::StatusOr<QuantSpec> spec = ParseSpec(entry.spec);
      if (!spec.ok()) return Named(entry.tensor.name, spec.status());
      job.spec = *spec;
      job.output_dtype = DefaultOutputType(entry.tensor.dtype);
      job.sink = sinks.back().get();
      for (size_t k = 0; k < packed.planes.size(); ++k) {
        sources.push_back(
            std::make_unique<CountedSource>(file_.input->MakeSource(packed.planes[k]), &progress));
        job.planes.push_back({entry.planes[k], sources.back().get()});
      }
    }
    const auto results =
        connection->client().DequantizeMany(std::move(jobs), connection->call_options());
    for (size_t k = 0; k < results.size(); ++k) {
      if (!results[k].ok()) return connection->ErrorOf(rows_[k].tensor.name, results[k].status());
      TensorRow& row = rows_[k];
      const DType dtype = DefaultOutputType(row.tensor.dtype);
      row.figures = sinks[k]->figures();
      row.details["compared_as"] = std::string(NameOf(dtype));
      row.details["saturated"] = results[k]->saturated;
      if (results[k]->saturated == 0) continue;
      absl::StrAppend(&row.note, "; ", SaturatedText(results[k]->saturated, dtype));
    }
    return absl::OkStatus();
  }

  // Tensors that were kept must be the original's, byte for byte.
  absl::Status CompareKept(const Input& original, const std::map<std::string, size_t>& places) {
    for (const size_t kept : file_.kept) {
      const TensorDesc& tensor = file_.input->tensor(kept);
      const auto place = places.find(tensor.name);
      const std::span<const std::byte> values = *file_.input->Values(kept);
      const bool same = place != places.end() && original.tensor(place->second) == tensor &&
                        std::ranges::equal(values, *original.Values(place->second));
      if (!same) {
        problems_.push_back(
            absl::StrCat(tensor.name, ": it was kept, but differs from ", options_.original_path));
      }
    }
    return absl::OkStatus();
  }

  void Print() const {
    if (globals_.json) {
      Json json;
      json["command"] = "verify";
      json["input"] = options_.packed_path;
      json["ok"] = problems_.empty();
      json["problems"] = problems_;
      json["tensors"] = Json::array();
      for (const TensorRow& row : rows_) json["tensors"].push_back(ToJson(row));
      json["totals"] = TotalsJson(rows_);
      PrintJson(json, globals_.out());
    } else {
      absl::PrintF("%s\n", ReportTable(rows_, globals_.columns()));
      if (problems_.empty()) {
        absl::PrintF("%s: all %d planes of %d tensors have the digests of when they were made\n",
                     Printable(options_.packed_path), num_planes_, rows_.size());
      }
    }
    for (const std::string& problem : problems_) {
      absl::FPrintF(stderr, "quantctl: %s\n", ShownMessage(problem));
    }
  }

  const Globals& globals_;
  const Options& options_;
  PackedFile file_;
  std::vector<TensorRow> rows_;
  std::vector<std::string> problems_;
  int64_t num_planes_ = 0;
};

}  // namespace

Command AddVerify(CLI::App& app, const Globals& globals) {
  CLI::App* const command = app.add_subcommand(
      "verify", "Check the digests of a file that quantize wrote; exit code 1 if one differs");
  auto options = std::make_shared<Options>();
  command->add_option("INPUT", options->packed_path, "what quantctl quantize wrote")->required();
  command->add_option("--against", options->original_path,
                      "the original: also say what quantizing cost, and compare kept tensors");
  return {command, [options, &globals] { return Run(globals, *options)(); }};
}

}  // namespace quantd::cli
