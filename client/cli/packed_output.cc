#include "client/cli/packed_output.h"

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cli/exit_code.h"
#include "client/cli/spool.h"
#include "core/base/status_macros.h"

namespace quantd::cli {
namespace {

constexpr int64_t kCopyBytes = 4 << 20;
constexpr absl::string_view kPipeContainer = "safetensors";

// Names of the output's tensors: those of the input, and those of planes that give way to them.
// "w" as int8, beside a tensor "w.scale", has its scales in "w.scale.2". Not thread-safe.
class NameBook {
 public:
  explicit NameBook(const Input& input) {
    for (size_t i = 0; i < input.size(); ++i) taken_.insert(input.tensor(i).name);
  }

  // Returns the names of the planes of `tensor`.
  std::vector<std::string> TakeNames(const TensorDesc& tensor, const TensorPlan& plan) {
    std::vector<std::string> names;
    for (const PlaneDesc& plane : plan.planes) {
      const std::string wanted = PlaneTensorName(tensor.name, plane.name);
      std::string name = wanted;
      // The codes have the tensor's own name.
      for (int n = 2; name != tensor.name && !taken_.insert(name).second; ++n) {
        name = absl::StrCat(wanted, ".", n);
      }
      names.push_back(std::move(name));
    }
    return names;
  }

 private:
  std::set<std::string> taken_;
};

// Returns kInvalidArgument if the metadata of a tensor that is quantized has a key that is taken.
absl::Status CheckKey(const TensorDesc& tensor) {
  if (absl::StrCat("quantd.", tensor.name) != kVersionKey) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("a tensor called ", tensor.name,
                                                 " cannot be quantized: the format keeps its "
                                                 "version under the key ",
                                                 kVersionKey, "; keep it by --exclude '^",
                                                 tensor.name, "$'"));
}

}  // namespace

absl::StatusOr<const Container*> OutputContainer(const std::string& path,
                                                 const std::string& format) {
  // A pipe takes one file, and its name says nothing.
  const bool is_pipe = IsPipeOutput(path);
  if (is_pipe && !format.empty() && format != kPipeContainer) {
    return absl::InvalidArgumentError(
        absl::StrCat("--format=", format, " is not allowed for a pipe; use ", kPipeContainer));
  }
  absl::StatusOr<const Container*> container = is_pipe          ? FindContainer(kPipeContainer)
                                               : format.empty() ? DetectContainer(path, {})
                                                                : FindContainer(format);
  if (container.ok() && (*container)->create != nullptr) return container;
  std::string names;
  for (const Container* candidate : AllContainers()) {
    if (candidate->create != nullptr)
      absl::StrAppend(&names, names.empty() ? "" : ", ", candidate->name);
  }
  return absl::InvalidArgumentError(absl::StrCat(path, ": no format to write (",
                                                 format.empty() ? "by its extension" : format,
                                                 "); use --format with one of ", names));
}

absl::Status CopyTo(ByteSource& source, GuardedWriter& writer, size_t tensor) {
  int64_t offset_bytes = 0;
  while (true) {
    QUANTD_ASSIGN_OR_RETURN(const SourcePiece piece, source.Next(kCopyBytes));
    if (piece.bytes.empty()) return absl::OkStatus();
    QUANTD_RETURN_IF_ERROR(writer.WriteAt(tensor, offset_bytes, piece.bytes));
    offset_bytes += static_cast<int64_t>(piece.bytes.size());
  }
}

absl::StatusOr<std::unique_ptr<PackedOutput>> PackedOutput::Create(
    const std::string& path, const Container& container, const Input& input,
    std::span<const std::optional<TensorPlan>> plans, Interrupts* interrupts) {
  std::unique_ptr<PackedOutput> output(new PackedOutput);
  output->input_metadata_ = input.metadata();
  NameBook names(input);
  std::vector<StoredTensor> tensors;
  for (size_t i = 0; i < input.size(); ++i) {
    const TensorDesc& tensor = input.tensor(i);
    output->first_.push_back(tensors.size());
    StoredTensor stored = input.stored(i);
    if (!plans[i].has_value()) {
      tensors.push_back(std::move(stored));
      output->entries_.emplace_back();
      continue;
    }
    QUANTD_RETURN_IF_ERROR(CheckKey(tensor));
    std::vector<std::string> plane_names = names.TakeNames(tensor, *plans[i]);
    for (size_t k = 0; k < plane_names.size(); ++k) {
      const PlaneDesc& plane = plans[i]->planes[k];
      tensors.push_back(TensorDesc{plane_names[k], plane.dtype, plane.shape});
      // What else the header says of the tensor goes with its name.
      if (plane_names[k] == tensor.name) tensors.back().extra = std::move(stored.extra);
    }
    output->entries_.push_back(AnnouncedEntry(tensor, *plans[i], std::move(plane_names)));
  }
  QUANTD_ASSIGN_OR_RETURN(output->writer_,
                          GuardedWriter::Create(container, path, std::move(tensors),
                                                output->AllMetadata(), interrupts));
  return output;
}

absl::Status PackedOutput::Keep(const Input& input, size_t i) {
  const std::unique_ptr<ByteSource> source = input.MakeSource(i);
  return CopyTo(*source, *writer_, first_[i]);
}

Metadata PackedOutput::AllMetadata() const {
  Metadata metadata = input_metadata_;
  for (const std::optional<PackedEntry>& entry : entries_) {
    if (entry.has_value()) AddEntry(*entry, metadata);
  }
  return metadata;
}

absl::Status PackedOutput::Finish() { return writer_->Finish(AllMetadata()); }

}  // namespace quantd::cli
