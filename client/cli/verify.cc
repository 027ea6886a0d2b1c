#include <algorithm>
#include <limits>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
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

constexpr int64_t kReadBytes = 4 << 20;

struct Options {
  std::string packed_path, original_path;
};

// One run of the command. Not thread-safe.
class Run {
 public:
  Run(const Globals& globals, const Options& options) : globals_(globals), options_(options) {}

  absl::StatusOr<ExitCode> operator()() {
    QUANTD_ASSIGN_OR_RETURN(file_, OpenPacked(options_.packed_path));
    QUANTD_RETURN_IF_ERROR(CheckDigests());
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

  // Returns the digest of all that `source` gives.
  static absl::StatusOr<std::string> DigestOfAll(ByteSource& source) {
    PlaneDigest digest;
    std::vector<std::byte> buffer(static_cast<size_t>(std::min(source.size_bytes(), kReadBytes)));
    for (int64_t left_bytes = source.size_bytes(); left_bytes > 0;) {
      QUANTD_ASSIGN_OR_RETURN(const size_t got, source.Read(buffer));
      digest.Update(std::span(buffer).first(got));
      left_bytes -= static_cast<int64_t>(got);
    }
    return digest.Text();
  }

  absl::Status CheckDigests() {
    for (const PackedTensor& packed : file_.packed) {
      TensorRow& row = rows_.emplace_back();
      row.tensor = packed.entry.tensor;
      row.before_bytes = SizeBytes(row.tensor).value_or(0);
      std::vector<std::string> bad;
      for (size_t k = 0; k < packed.planes.size(); ++k) {
        const size_t place = packed.planes[k];
        row.after_bytes += file_.input->size_bytes(place);
        QUANTD_ASSIGN_OR_RETURN(const std::string found,
                                DigestOfAll(*file_.input->MakeSource(place)));
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
    return absl::OkStatus();
  }

  // Opens the original. Bytes without a header are what the file says of its one tensor; an
  // original of one tensor is that one, whatever its name.
  absl::StatusOr<Input> OpenOriginal() {
    InputOptions options;
    options.path = options_.original_path;
    absl::StatusOr<Input> original = Input::Open(options);
    const bool is_of_content =
        absl::IsInvalidArgument(original.status()) || absl::IsDataLoss(original.status());
    if (!is_of_content || file_.packed.size() != 1 || !file_.kept.empty()) return original;
    const TensorDesc& tensor = file_.packed[0].entry.tensor;
    options.dtype = std::string(NameOf(tensor.dtype));
    // An npy may lack a name for the type, and has the shape.
    const bool is_npy = absl::EndsWithIgnoreCase(options.path, ".npy");
    if (!is_npy) options.shape = ShapeText(tensor.shape);
    return Input::Open(options);
  }

  absl::Status CompareAll() {
    QUANTD_ASSIGN_OR_RETURN(const Input original, OpenOriginal());
    std::map<std::string, size_t> places;
    for (size_t i = 0; i < original.size(); ++i) places[original.tensor(i).name] = i;
    if (original.is_single() && file_.packed.size() == 1) {
      places[file_.packed[0].entry.tensor.name] = 0;
    }
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
      if (place == places.end() || !SameKind(original.tensor(place->second), entry.tensor)) {
        return absl::InvalidArgumentError(absl::StrCat(
            entry.tensor.name, ": ", options_.original_path, " has no tensor of ",
            NameOf(entry.tensor.dtype), " ", entry.tensor.shape.Text(), " under this name"));
      }
      sinks.push_back(
          std::make_unique<CompareSink>(entry.tensor, original.MakeSource(place->second)));
      DequantizeJob& job = jobs.emplace_back();
      job.tensor = entry.tensor;
      const absl::StatusOr<QuantSpec> spec = ParseSpec(entry.spec);
      if (!spec.ok()) return Named(entry.tensor.name, spec.status());
      job.spec = *spec;
      job.output_dtype = DefaultOutputType(entry.tensor.dtype);
      job.sink = sinks.back().get();
      for (size_t k = 0; k < packed.planes.size(); ++k) {
        sources.push_back(file_.input->MakeSource(packed.planes[k]));
        job.planes.push_back({entry.planes[k], sources.back().get()});
      }
    }
    const auto results =
        connection->client().DequantizeMany(std::move(jobs), connection->call_options(progress));
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
    QUANTD_RETURN_IF_ERROR(file_.input->CheckUnchanged());
    return original.CheckUnchanged();
  }

  // True if the tensors have one type and shape.
  static bool SameKind(const TensorDesc& a, const TensorDesc& b) {
    return a.dtype == b.dtype && a.shape == b.shape;
  }

  // True if the sources give the same bytes; they have the same size.
  static absl::StatusOr<bool> SameBytes(ByteSource& a, ByteSource& b) {
    const auto size_bytes = static_cast<size_t>(std::min(a.size_bytes(), kReadBytes));
    std::vector<std::byte> from_a(size_bytes), from_b(size_bytes);
    for (int64_t left_bytes = a.size_bytes(); left_bytes > 0;) {
      QUANTD_ASSIGN_OR_RETURN(const size_t got, a.Read(from_a));
      QUANTD_ASSIGN_OR_RETURN(const size_t got_b, b.Read(std::span(from_b).first(got)));
      if (got_b != got || !std::equal(from_a.begin(), from_a.begin() + static_cast<ptrdiff_t>(got),
                                      from_b.begin())) {
        return false;
      }
      left_bytes -= static_cast<int64_t>(got);
    }
    return true;
  }

  // Tensors that were kept must be the original's, byte for byte.
  absl::Status CompareKept(const Input& original, const std::map<std::string, size_t>& places) {
    for (const size_t kept : file_.kept) {
      const TensorDesc& tensor = file_.input->tensor(kept);
      const auto place = places.find(tensor.name);
      bool same =
          place != places.end() && original.stored(place->second) == file_.input->stored(kept);
      if (same) {
        QUANTD_ASSIGN_OR_RETURN(
            same, SameBytes(*file_.input->MakeSource(kept), *original.MakeSource(place->second)));
      }
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
