#include "client/cli/packed_output.h"

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cli/exit_code.h"
#include "client/cli/spool.h"
#include "core/base/status_macros.h"

namespace quantd::cli {
namespace {

constexpr int64_t kCopyBytes = 4 << 20;
constexpr absl::string_view kPipeContainer = "safetensors";

// Finds two tensors that would have one name. Not thread-safe.
class NameCheck {
 public:
  absl::Status Add(const std::string& name, std::string what) {
    const auto [found, is_new] = names_.emplace(name, what);
    if (is_new) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(name, ": ", what, " and ", found->second,
                                                   " would have one name in the output; exclude "
                                                   "one of them"));
  }

 private:
  std::map<std::string, std::string> names_;
};

}  // namespace

absl::StatusOr<const Container*> OutputContainer(const std::string& path,
                                                 const std::string& format) {
  // A pipe takes one file, and its name says nothing.
  const bool is_pipe = IsPipeOutput(path);
  if (is_pipe && !format.empty() && format != kPipeContainer) {
    return absl::InvalidArgumentError(absl::StrCat("--format=", format, " is not allowed for a pipe; use ",
                                                   kPipeContainer));
  }
  absl::StatusOr<const Container*> container =
      is_pipe           ? FindContainer(kPipeContainer)
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
  NameCheck names, keys;
  QUANTD_RETURN_IF_ERROR(keys.Add(kVersionKey, "the format's version"));
  std::vector<TensorDesc> tensors;
  for (size_t i = 0; i < input.size(); ++i) {
    const TensorDesc& tensor = input.tensor(i);
    output->first_.push_back(tensors.size());
    if (!plans[i].has_value()) {
      QUANTD_RETURN_IF_ERROR(names.Add(tensor.name, "the tensor"));
      tensors.push_back(tensor);
      output->entries_.emplace_back();
      continue;
    }
    QUANTD_RETURN_IF_ERROR(keys.Add(absl::StrCat("quantd.", tensor.name), "the tensor's metadata"));
    for (const PlaneDesc& plane : plans[i]->planes) {
      std::string name = PlaneTensorName(tensor.name, plane.name);
      QUANTD_RETURN_IF_ERROR(
          names.Add(name, absl::StrCat("plane ", plane.name, " of ", tensor.name)));
      tensors.push_back({std::move(name), plane.dtype, plane.shape});
    }
    output->entries_.push_back(AnnouncedEntry(tensor, *plans[i]));
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
