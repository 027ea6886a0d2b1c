#include <stdio.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/cli/commands.h"
#include "client/cli/input.h"
#include "client/cli/output_access.h"
#include "client/cli/packed_output.h"
#include "client/cli/planning.h"
#include "client/cli/progress.h"
#include "client/cli/ranges_file.h"
#include "client/cli/report_view.h"
#include "client/cli/text.h"
#include "core/base/status_macros.h"
#include "core/simd/convert.h"

namespace quantd::cli {
namespace {

struct Options {
  InputOptions input;
  SelectOptions select;
  std::string output, spec, format, ranges_path, ranges_of, codebook_path;
  bool no_figures = false, force = false;
};

// Returns the levels that the one tensor of a file holds, rounded to f32. Whether they will do is
// the service's to say.
absl::StatusOr<std::vector<float>> ReadCodebook(const std::string& path) {
  constexpr int64_t kMostLevels = 256;
  QUANTD_ASSIGN_OR_RETURN(const Input input, Input::Open({.path = path}));
  const bool is_one = input.size() == 1;
  const TensorDesc* const tensor = is_one ? &input.tensor(0) : nullptr;
  const int64_t levels = is_one ? tensor->shape.num_elems() : 0;
  if (!is_one || tensor->shape.rank() != 1 || !IsFloat(tensor->dtype) ||
      !IsQuantizable(tensor->dtype) || levels < 2 || levels > kMostLevels) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": it holds ",
        is_one ? absl::StrCat("a tensor ", NameOf(tensor->dtype), " ", tensor->shape.Text())
               : absl::StrCat(input.size(), " tensors"),
        "; a codebook is one of floats, of rank 1, with 2 to ", kMostLevels, " levels"));
  }
  std::vector<std::byte> bytes(static_cast<size_t>(input.size_bytes(0)));
  const std::unique_ptr<ByteSource> source = input.MakeSource(0);
  for (size_t done = 0; done < bytes.size();) {
    QUANTD_ASSIGN_OR_RETURN(const size_t count, source->Read(std::span(bytes).subspan(done)));
    if (count == 0) return absl::DataLossError(absl::StrCat(path, ": it ends too early"));
    done += count;
  }
  std::vector<double> wide(static_cast<size_t>(levels));
  std::vector<float> codebook(wide.size());
  if (WorksAsF32(tensor->dtype)) {
    WidenToF32(tensor->dtype, bytes.data(), levels, codebook.data());
  } else {
    WidenToF64(tensor->dtype, bytes.data(), levels, wide.data());
    std::copy(wide.begin(), wide.end(), codebook.begin());
  }
  return codebook;
}

// One run of the command. Not thread-safe.
class Run {
 public:
  Run(const Globals& globals, const Options& options) : globals_(globals), options_(options) {}

  absl::StatusOr<ExitCode> operator()() {
    QUANTD_RETURN_IF_ERROR(Prepare());
    QUANTD_RETURN_IF_ERROR(PlanAll());
    if (!options_.ranges_path.empty()) {
      QUANTD_RETURN_IF_ERROR(Named(options_.ranges_path, MatchRanges()));
    }
    QUANTD_RETURN_IF_ERROR(QuantizeAll());
    Print();
    return kOk;
  }

 private:
  absl::Status Prepare() {
    QUANTD_ASSIGN_OR_RETURN(spec_, ParseSpec(options_.spec));
    QUANTD_ASSIGN_OR_RETURN(container_, OutputContainer(options_.output, options_.format));
    if (!options_.ranges_path.empty()) {
      QUANTD_ASSIGN_OR_RETURN(ranges_, ReadRangesFile(options_.ranges_path));
    }
    if (!options_.codebook_path.empty()) {
      QUANTD_ASSIGN_OR_RETURN(codebook_, ReadCodebook(options_.codebook_path));
      // What a plan is asked for says so, too.
      if (!spec_.levels) spec_.levels = static_cast<uint32_t>(codebook_.size());
    }
    QUANTD_ASSIGN_OR_RETURN(Input input, Input::Open(options_.input));
    input_ = std::make_unique<Input>(std::move(input));
    QUANTD_RETURN_IF_ERROR(
        CheckOverwrites(options_.output, *input_, options_.ranges_path, options_.force));
    QUANTD_ASSIGN_OR_RETURN(why_kept_, input_->Select(options_.select));
    QUANTD_RETURN_IF_ERROR(KeepPacked());
    QUANTD_ASSIGN_OR_RETURN(connection_, Connection::Open(globals_));
    return absl::OkStatus();
  }

  // Keeps what an earlier run has quantized, so that two of them give a model two schemes.
  // kInvalidArgument: nothing else is left.
  absl::Status KeepPacked() {
    QUANTD_ASSIGN_OR_RETURN(const auto entries, ReadEntries(input_->metadata()));
    if (entries.empty()) return absl::OkStatus();
    std::set<std::string> planes;
    for (const auto& [name, entry] : entries) planes.insert(entry.names.begin(), entry.names.end());
    bool any_left = false;
    for (size_t i = 0; i < input_->size(); ++i) {
      if (planes.count(input_->tensor(i).name) != 0) why_kept_[i] = "quantized already";
      any_left |= why_kept_[i].empty();
    }
    if (any_left) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        options_.input.path, ": it is quantized already; use quantctl dequantize first"));
  }

  absl::Status PlanAll() {
    QUANTD_ASSIGN_OR_RETURN(plans_, PlanSelected(*connection_, *input_, spec_, why_kept_));
    for (size_t i = 0; i < input_->size(); ++i) {
      if (plans_[i].has_value()) selected_.push_back(i);
    }
    return absl::OkStatus();
  }

  // Finds the ranges of each tensor: those of its name, or of the one that the command line names.
  // Whether they fit is the service's to say.
  absl::Status MatchRanges() {
    std::set<std::string> unused;
    for (const auto& [name, ranges] : ranges_) unused.insert(name);
    for (const size_t i : selected_) {
      const std::string& own = input_->tensor(i).name;
      const std::string& name = options_.ranges_of.empty() ? own : options_.ranges_of;
      const auto found = ranges_.find(name);
      if (found == ranges_.end()) return NoRanges(name);
      matches_.push_back(found);
      unused.erase(name);
    }
    unused_ranges_.assign(unused.begin(), unused.end());
    return absl::OkStatus();
  }

  // Returns the ranges of the selected tensor `k`, for the last time where they are its alone:
  // those of many rows are large.
  CalibratedRanges TakeRanges(size_t k) {
    CalibratedRanges& found = matches_[k]->second;
    CalibratedRanges ranges = options_.ranges_of.empty() ? std::move(found) : found;
    ranges.source.name = input_->tensor(selected_[k]).name;
    return ranges;
  }

  absl::Status NoRanges(const std::string& name) const {
    constexpr size_t kMostNames = 5;
    std::vector<std::string> names;
    for (const auto& [known, ranges] : ranges_) {
      names.push_back(names.size() == kMostNames ? "..." : known);
      if (names.size() > kMostNames) break;
    }
    return absl::InvalidArgumentError(absl::StrCat(
        "it has no ranges of tensor ", name, "; it has those of ", absl::StrJoin(names, ", "),
        "; calibrate this one too, keep it by --exclude, or take the ranges of another by "
        "--ranges-of NAME"));
  }

  absl::Status QuantizeAll() {
    NarrowOutputs(options_.input.path, options_.output);
    QUANTD_ASSIGN_OR_RETURN(
        const std::unique_ptr<PackedOutput> output,
        PackedOutput::Create(options_.output, *container_, *input_, plans_, globals_.interrupts));
    for (size_t i = 0; i < input_->size(); ++i) {
      if (plans_[i].has_value()) continue;
      QUANTD_RETURN_IF_ERROR(Named(input_->tensor(i).name, output->Keep(*input_, i)));
    }
    int64_t total_bytes = 0;
    for (const size_t i : selected_) total_bytes += input_->size_bytes(i);
    Progress progress("quantizing", total_bytes, globals_.quiet);
    std::vector<std::unique_ptr<ByteSource>> sources;
    std::vector<std::unique_ptr<PlaneSink>> sinks;
    std::vector<QuantizeJob> jobs;
    for (const size_t i : selected_) {
      sources.push_back(input_->MakeSource(i));
      sinks.push_back(output->MakeSink(i));
      QuantizeJob job{.tensor = input_->tensor(i),
                      .spec = spec_,
                      .source = sources.back().get(),
                      .sink = sinks.back().get(),
                      .ranges = {},
                      .plan = plans_[i],
                      .codebook = codebook_};
      if (!matches_.empty()) job.ranges = TakeRanges(jobs.size());
      jobs.push_back(std::move(job));
    }
    ranges_.clear();
    CallOptions call_options = connection_->call_options(progress);
    call_options.figures = !options_.no_figures;
    const auto results = connection_->client().QuantizeMany(std::move(jobs), call_options);
    results_.resize(input_->size());
    for (size_t k = 0; k < selected_.size(); ++k) {
      const size_t i = selected_[k];
      if (!results[k].ok()) {
        return connection_->ErrorOf(input_->tensor(i).name, results[k].status());
      }
      output->SetDigests(i, results[k]->report.digests);
      results_[i] = *results[k];
    }
    QUANTD_RETURN_IF_ERROR(input_->CheckUnchanged());
    elapsed_ = progress.elapsed();
    quantized_bytes_ = total_bytes;
    return Named(ShownOutput(options_.output), output->Finish());
  }

  // What is stored of a scale that was given, where it is not that but for f32's rounding.
  std::optional<std::string> OtherScale(const QuantizedInfo& info) const {
    const absl::StatusOr<QuantSpec> resolved = ParseSpec(info.plan.resolved_spec);
    if (!spec_.scale || !resolved.ok() || !resolved->scale) return std::nullopt;
    if (std::fabs(*resolved->scale - *spec_.scale) <= 1e-6 * *spec_.scale) return std::nullopt;
    return absl::StrCat("scale stored as ", FormatDouble(*resolved->scale));
  }

  std::string NoteOf(const QuantizedInfo& info) const {
    std::vector<std::string> notes;
    if (!info.plan.fallback_reason.empty()) notes.push_back(info.plan.fallback_reason);
    if (std::optional<std::string> scale = OtherScale(info)) notes.push_back(*std::move(scale));
    if (info.report.non_finite > 0) {
      notes.push_back(absl::StrCat(WithCommas(info.report.non_finite),
                                   " NaN or infinite, first at ",
                                   absl::StrJoin(info.report.first_non_finite_elems, ", ")));
    }
    if (info.report.inexact_inputs > 0) {
      notes.push_back(absl::StrCat(WithCommas(info.report.inexact_inputs), " beyond 2^53"));
    }
    if (info.two_pass) notes.push_back("two passes");
    if (info.attempts > 1) notes.push_back(absl::StrCat("sent ", info.attempts, " times"));
    return absl::StrJoin(notes, "; ");
  }

  static Json DetailsOf(const QuantizedInfo& info) {
    Json details;
    details["quantized"] = true;
    details["spec"] = info.plan.resolved_spec;
    details["pass"] = std::string(NameOf(info.plan.pass));
    details["two_pass"] = info.two_pass;
    details["attempts"] = info.attempts;
    details["fallback_reason"] = info.plan.fallback_reason;
    details["clipped"] = info.report.clipped;
    details["non_finite"] = info.report.non_finite;
    details["first_non_finite_elems"] = info.report.first_non_finite_elems;
    details["inexact_inputs"] = info.report.inexact_inputs;
    details["planes"] = Json::array();
    for (size_t i = 0; i < info.plan.planes.size(); ++i) {
      const PlaneDesc& plane = info.plan.planes[i];
      Json json;
      json["name"] = plane.name;
      json["dtype"] = std::string(NameOf(plane.dtype));
      json["shape"] = ToJson(plane.shape);
      json["size_bytes"] = plane.size_bytes;
      json["digest"] = info.report.digests[i];
      details["planes"].push_back(std::move(json));
    }
    details["server_elapsed_s"] = absl::ToDoubleSeconds(info.elapsed);
    details["encoding_s"] = absl::ToDoubleSeconds(info.encoding);
    return details;
  }

  std::vector<TensorRow> Rows() const {
    std::vector<TensorRow> rows;
    for (size_t i = 0; i < input_->size(); ++i) {
      TensorRow& row = rows.emplace_back();
      row.tensor = input_->tensor(i);
      row.before_bytes = input_->size_bytes(i);
      row.after_bytes = row.before_bytes;
      if (!results_[i].has_value()) {
        row.kept = why_kept_[i];
        row.details["quantized"] = false;
        row.details["dtype"] = TypeName(input_->stored(i));
        continue;
      }
      const QuantizedInfo& info = *results_[i];
      row.after_bytes = info.plan.output_bytes;
      if (info.report.has_figures) row.figures = info.report.figures;
      row.clipped = info.report.clipped;
      row.note = NoteOf(info);
      row.details = DetailsOf(info);
    }
    return rows;
  }

  void Print() const {
    const std::vector<TensorRow> rows = Rows();
    if (globals_.json) {
      Json json;
      json["command"] = "quantize";
      json["input"] = options_.input.path;
      json["output"] = options_.output;
      json["spec"] = options_.spec;
      json["server"] = connection_->where();
      json["transport"] = connection_->transport();
      json["tensors"] = Json::array();
      for (const TensorRow& row : rows) json["tensors"].push_back(ToJson(row));
      json["totals"] = TotalsJson(rows);
      if (!options_.ranges_path.empty()) json["unused_ranges"] = unused_ranges_;
      json["elapsed_s"] = absl::ToDoubleSeconds(elapsed_);
      PrintJson(json, globals_.out());
      return;
    }
    absl::FPrintF(globals_.out(), "%s", ReportTable(rows, globals_.columns()));
    absl::FPrintF(globals_.out(), "\nwrote %s: %d of %d tensors as %s, %s in %s (%s), by %s (%s)\n",
                  ShownOutput(options_.output), selected_.size(), rows.size(), options_.spec,
                  HumanBytes(quantized_bytes_), HumanTime(elapsed_),
                  HumanRate(quantized_bytes_, elapsed_), connection_->where(),
                  connection_->transport());
    if (unused_ranges_.empty()) return;
    absl::FPrintF(globals_.out(),
                  "%s: ranges of %d tensors, %s the first, are of none that is quantized here\n",
                  Printable(options_.ranges_path), unused_ranges_.size(),
                  ShownName(unused_ranges_[0]));
  }

  const Globals& globals_;
  const Options& options_;
  QuantSpec spec_;
  const Container* container_ = nullptr;
  std::vector<float> codebook_;                  // of all tensors; none: levels are learned
  NamedRanges ranges_;                           // of the file, until the jobs have them
  std::vector<NamedRanges::iterator> matches_;   // in ranges_, by selected tensor, or none
  std::vector<std::string> unused_ranges_;       // their names
  std::unique_ptr<Input> input_;
  std::vector<std::string> why_kept_;  // by input tensor; empty: quantized
  std::vector<size_t> selected_;
  std::unique_ptr<Connection> connection_;
  std::vector<std::optional<TensorPlan>> plans_;       // by input tensor
  std::vector<std::optional<QuantizedInfo>> results_;  // by input tensor
  absl::Duration elapsed_;
  int64_t quantized_bytes_ = 0;
};

}  // namespace

Command AddQuantize(CLI::App& app, const Globals& globals) {
  CLI::App* const command =
      app.add_subcommand("quantize", "Quantize the tensors of a file, or one from a pipe");
  auto options = std::make_shared<Options>();
  options->input.AddTo(*command);
  command->add_option("-o,--output", options->output, "file or folder to write")->required();
  command
      ->add_option("--to", options->spec,
                   "SCHEME[:key=value,...]: int8, int8:axis=0, fp16; see quantctl schemes")
      ->required();
  options->select.AddTo(*command);
  command->add_option("--format", options->format,
                      "safetensors, or npy: a folder of one .npy per plane (default: by the "
                      "extension of the output)");
  CLI::Option* const ranges = command->add_option(
      "--ranges", options->ranges_path,
      "ranges that quantctl calibrate -o wrote, for the tensors of the same names");
  command
      ->add_option("--ranges-of", options->ranges_of,
                   "take those of this tensor instead, for all tensors: of a sample, say")
      ->needs(ranges);
  command->add_option("--codebook", options->codebook_path,
                      "levels in ascending order, the one tensor of a file, for schemes that would "
                      "learn them (lloyd)");
  AddForce(*command, options->force);
  command->add_flag("--no-figures", options->no_figures, "leave the error figures out");
  return {command, [options, &globals] { return Run(globals, *options)(); }};
}

}  // namespace quantd::cli
