#ifndef QUANTD_CLIENT_CLI_INPUT_H_
#define QUANTD_CLIENT_CLI_INPUT_H_

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "client/byte_source.h"
#include "core/io/container.h"
#include "core/tensor/shape.h"

namespace quantd::cli {

// What the command line says about an input.
struct InputOptions {
  std::string path;  // of a file, a folder or a pipe; "-" is standard input
  std::string dtype, shape, name;

  // Adds INPUT, --dtype, --shape and --name to a command.
  void AddTo(CLI::App& command);
};

// Which tensors are quantized; others are kept as they are.
struct SelectOptions {
  std::vector<std::string> include, exclude;

  // Adds --include and --exclude to a command.
  void AddTo(CLI::App& command);
};

// Tensors that come in: a file, or one tensor from a pipe. Thread-compatible.
class Input {
 public:
  // Errors name the input.
  static absl::StatusOr<Input> Open(const InputOptions& options);

  size_t size() const { return tensors_.size(); }
  const TensorDesc& tensor(size_t i) const { return tensors_[i]; }
  int64_t size_bytes(size_t i) const { return sizes_bytes_[i]; }
  const Metadata& metadata() const { return metadata_; }

  // Returns tensor `i` as the file has it, with what is only carried on.
  StoredTensor stored(size_t i) const;

  // True if the format holds one tensor, whose name is then the file's.
  bool is_single() const { return single_; }

  // Returns the tensor's bytes, once only if it is a pipe. Valid while this object lives.
  std::unique_ptr<ByteSource> MakeSource(size_t i) const;

  // True if `file` is one that tensors come from.
  bool Reads(const FileId& file) const;

  // kDataLoss if a file has changed since it was opened.
  absl::Status CheckUnchanged() const;

  // Returns for each tensor why it is kept, or an empty text where it is to be quantized.
  // kInvalidArgument: a regular expression that is none, or that takes nothing, or a tensor of a
  // type that cannot be quantized.
  absl::StatusOr<std::vector<std::string>> Select(const SelectOptions& options) const;

 private:
  Input() = default;

  // A descriptor that is read once, from front to back: standard input, a FIFO, <(...) of a shell.
  class Pipe {
   public:
    // Opens what InputOptions::path names.
    static absl::StatusOr<std::shared_ptr<const Pipe>> Open(const std::string& path);
    Pipe(int fd, std::string name) : fd_(fd), name_(std::move(name)) {}
    ~Pipe();
    Pipe(const Pipe&) = delete;
    Pipe& operator=(const Pipe&) = delete;

    int fd() const { return fd_; }
    const std::string& name() const { return name_; }

   private:
    const int fd_;
    const std::string name_;  // in errors
  };

  std::shared_ptr<const TensorFile> file_;  // null: a pipe
  std::shared_ptr<const Pipe> pipe_;
  bool single_ = false;  // the format holds one tensor, so that naming the file names it
  std::vector<TensorDesc> tensors_;
  std::vector<int64_t> sizes_bytes_;
  Metadata metadata_;
};

// kFailedPrecondition if `output` is a file that `input` reads, or the file `other` (empty: none),
// by whatever name, and not `force`: it would be replaced.
absl::Status CheckOverwrites(const std::string& output, const Input& input,
                             const std::string& other, bool force);

// Adds --force to a command with an output.
void AddForce(CLI::App& command, bool& force);

// Reads "128x64", "128,64" or "scalar".
absl::StatusOr<Shape> ParseShape(const std::string& text);

}  // namespace quantd::cli

#endif  // QUANTD_CLIENT_CLI_INPUT_H_
