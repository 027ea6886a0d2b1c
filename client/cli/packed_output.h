#ifndef QUANTD_CLIENT_CLI_PACKED_OUTPUT_H_
#define QUANTD_CLIENT_CLI_PACKED_OUTPUT_H_

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/input.h"
#include "client/cli/interrupts.h"
#include "client/cli/metadata.h"
#include "client/types.h"
#include "core/io/container.h"

namespace quantd::cli {

// Returns the container that `format` names, or else that `path`'s extension does; for a pipe, the
// one that is one file.
// kInvalidArgument: neither names one that can be written.
absl::StatusOr<const Container*> OutputContainer(const std::string& path,
                                                 const std::string& format);

// Writes the planes that it gets as tensors `first` and following of `writer`.
class WriterSink final : public PlaneSink {
 public:
  // `writer` outlives this.
  WriterSink(GuardedWriter* writer, size_t first) : writer_(writer), first_(first) {}

  absl::Status Begin(std::span<const PlaneDesc>) override { return absl::OkStatus(); }
  absl::Status Write(int plane, int64_t offset_bytes, std::span<const std::byte> piece) override {
    return writer_->WriteAt(first_ + static_cast<size_t>(plane), offset_bytes, piece);
  }
  absl::Status Restart() override { return absl::OkStatus(); }  // bytes are written over

 private:
  GuardedWriter* const writer_;
  const size_t first_;
};

// Writes all that `source` gives to tensor `tensor` of `writer`.
absl::Status CopyTo(ByteSource& source, GuardedWriter& writer, size_t tensor);

// The file, or folder, that `quantctl quantize` makes of an input: packed tensors as their planes,
// others as they are. Not thread-safe, but sinks of different tensors may be used at once.
class PackedOutput {
 public:
  // `plans` has an entry for each tensor of the input, absent for those that are kept.
  // kInvalidArgument: a tensor cannot be quantized because of its name.
  static absl::StatusOr<std::unique_ptr<PackedOutput>> Create(
      const std::string& path, const Container& container, const Input& input,
      std::span<const std::optional<TensorPlan>> plans, Interrupts* interrupts);

  // Copies a tensor that is kept.
  absl::Status Keep(const Input& input, size_t i);

  // Returns where the planes of tensor `i` go.
  std::unique_ptr<PlaneSink> MakeSink(size_t i) {
    return std::make_unique<WriterSink>(writer_.get(), first_[i]);
  }

  // Tells the digests of tensor `i`'s planes.
  void SetDigests(size_t i, const std::vector<std::string>& digests) {
    entries_[i]->digests = digests;
  }

  // Brings the output under its name.
  absl::Status Finish();

 private:
  PackedOutput() = default;
  Metadata AllMetadata() const;

  Metadata input_metadata_;
  std::vector<size_t> first_;  // of each input tensor's tensors in the output
  std::vector<std::optional<PackedEntry>> entries_;
  std::unique_ptr<GuardedWriter> writer_;
};

}  // namespace quantd::cli

#endif  // QUANTD_CLIENT_CLI_PACKED_OUTPUT_H_
