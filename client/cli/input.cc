#include "client/cli/input.h"

#include <fcntl.h>
#include <re2/re2.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/cli/exit_code.h"
#include "client/file_source.h"
#include "core/base/status_macros.h"

namespace quantd::cli {
namespace {

// Patterns come from users: RE2 takes time in proportion to the name, and no stack, whatever they
// are.
using Patterns = std::vector<std::unique_ptr<RE2>>;

absl::StatusOr<Patterns> Compile(const std::vector<std::string>& patterns) {
  Patterns compiled;
  for (const std::string& pattern : patterns) {
    RE2::Options options;
    options.set_log_errors(false);
    compiled.push_back(std::make_unique<RE2>(pattern, options));
    if (!compiled.back()->ok()) {
      return absl::InvalidArgumentError(absl::StrCat("regular expression '", pattern,
                                                     "': ", compiled.back()->error(),
                                                     "; RE2's syntax is what there is"));
    }
  }
  return compiled;
}

bool AnyMatches(const Patterns& patterns, const std::string& name) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&name](const auto& pattern) { return RE2::PartialMatch(name, *pattern); });
}

// The values of a tensor of a file, whose errors are those of a file.
class InputSource final : public ByteSource {
 public:
  explicit InputSource(TensorReader reader) : source_(std::move(reader)) {}

  int64_t size_bytes() const override { return source_.size_bytes(); }
  absl::StatusOr<SourcePiece> Next(int64_t max_bytes) override {
    absl::StatusOr<SourcePiece> piece = source_.Next(max_bytes);
    if (!piece.ok()) return FileError(piece.status());
    return piece;
  }
  absl::StatusOr<size_t> Read(std::span<std::byte> out) override {
    const absl::StatusOr<size_t> count = source_.Read(out);
    if (!count.ok()) return FileError(count.status());
    return count;
  }
  bool can_rewind() const override { return true; }
  absl::Status Rewind() override { return source_.Rewind(); }

 private:
  FileSource source_;
};

bool IsFifo(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 && S_ISFIFO(info.st_mode);
}

std::string WhyKeptByKind(const TensorDesc& tensor) {
  if (!IsFloat(tensor.dtype)) return "integers";
  if (tensor.shape.rank() < 2) return absl::StrCat("rank ", tensor.shape.rank());
  return "";
}

}  // namespace

void InputOptions::AddTo(CLI::App& command) {
  command
      .add_option("INPUT", path,
                  ".safetensors, .npy, a folder of .npy files, or raw bytes with --dtype and "
                  "--shape, as a pipe (- is standard input) has them")
      ->required();
  command.add_option("--dtype", dtype, "element type of raw bytes: f32, bf16, int8 ...");
  command.add_option("--shape", shape, "shape of raw bytes: 128x64");
  command.add_option("--name", name, "tensor name for what a pipe has (default: stdin)");
}

void SelectOptions::AddTo(CLI::App& command) {
  command.add_option(
      "--include", include,
      "quantize only tensors whose name matches this regular expression (RE2); takes "
      "integer tensors and those of rank 0 and 1 in, which are kept otherwise");
  command.add_option("--exclude", exclude, "keep tensors whose name matches");
  // One pattern each time, or INPUT behind it would be taken as one.
  for (const char* option : {"--include", "--exclude"}) {
    command.get_option(option)->allow_extra_args(false);
  }
}

absl::StatusOr<Shape> ParseShape(const std::string& text) {
  if (text == "scalar") return Shape();
  std::vector<int64_t> dims;
  for (const absl::string_view part : absl::StrSplit(text, absl::ByAnyChar("x,"))) {
    int64_t dim;
    if (!absl::SimpleAtoi(part, &dim)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--shape=", text, ": '", part, "' is no number; use 128x64"));
    }
    dims.push_back(dim);
  }
  return Shape::Make(std::move(dims));
}

absl::StatusOr<Input> Input::Open(const InputOptions& options) {
  OpenOptions open;
  if (!options.dtype.empty()) {
    QUANTD_ASSIGN_OR_RETURN(open.dtype, ParseDType(options.dtype));
  }
  if (!options.shape.empty()) {
    QUANTD_ASSIGN_OR_RETURN(open.shape, ParseShape(options.shape));
  }
  Input input;
  if (options.path == "-" || IsFifo(options.path)) {
    if (!open.dtype.has_value() || !open.shape.has_value()) {
      return absl::InvalidArgumentError(absl::StrCat(
          options.path == "-" ? "standard input" : options.path,
          " is raw bytes, as all pipes are: --dtype and --shape say what; other formats are read "
          "from files"));
    }
    QUANTD_ASSIGN_OR_RETURN(input.pipe_, Pipe::Open(options.path));
    input.tensors_.push_back(
        {options.name.empty() ? "stdin" : options.name, *open.dtype, *std::move(open.shape)});
    QUANTD_ASSIGN_OR_RETURN(const int64_t size_bytes, SizeBytes(input.tensors_[0]));
    input.sizes_bytes_.push_back(size_bytes);
    input.single_ = true;
    return input;
  }
  if (!options.name.empty()) {
    return absl::InvalidArgumentError(
        "--name goes with a pipe, or standard input (-); files have names");
  }
  absl::StatusOr<TensorFile> file = TensorFile::Open(options.path, open);
  if (!file.ok()) return Named(options.path, FileError(file.status()));
  input.file_ = std::make_shared<const TensorFile>(*std::move(file));
  input.metadata_ = input.file_->metadata();
  for (const TensorEntry& entry : input.file_->tensors()) {
    input.tensors_.push_back(entry.desc);
    input.sizes_bytes_.push_back(entry.size_bytes);
  }
  std::error_code error;
  input.single_ = input.file_->container().name != "safetensors" &&
                  !std::filesystem::is_directory(options.path, error);
  return input;
}

StoredTensor Input::stored(size_t i) const {
  if (file_ == nullptr) return tensors_[i];
  return file_->tensors()[i];
}

absl::StatusOr<std::shared_ptr<const Input::Pipe>> Input::Pipe::Open(const std::string& path) {
  if (path == "-") return std::make_shared<const Pipe>(STDIN_FILENO, "standard input");
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);  // waits for somebody who writes
  if (fd < 0) return FileError(absl::ErrnoToStatus(errno, path));
  return std::make_shared<const Pipe>(fd, path);
}

Input::Pipe::~Pipe() {
  if (fd_ != STDIN_FILENO) close(fd_);
}

std::unique_ptr<ByteSource> Input::MakeSource(size_t i) const {
  if (file_ == nullptr) {
    return std::make_unique<FdSource>(pipe_->fd(), sizes_bytes_[i], pipe_->name());
  }
  return std::make_unique<InputSource>(file_->MakeReader(i));
}

bool Input::Reads(const FileId& file) const {
  if (file_ != nullptr) return file_->Reads(file);
  return FileIdOf("/proc/self/fd/0") == file;  // a file that was redirected
}

absl::Status Input::CheckUnchanged() const {
  return file_ == nullptr ? absl::OkStatus() : FileError(file_->CheckUnchanged());
}

absl::Status CheckOverwrites(const std::string& output, const Input& input,
                             const std::string& other, bool force) {
  const std::optional<FileId> file = FileIdOf(output);
  if (force || !file.has_value()) return absl::OkStatus();
  const bool is_other = !other.empty() && FileIdOf(other) == file;
  if (!is_other && !input.Reads(*file)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(output, ": is ", is_other ? other : "the input itself",
                   ", which would be replaced; name another output, or say --force"));
}

void AddForce(CLI::App& command, bool& force) {
  command.add_flag("--force", force, "replace the input, where the output is the same file");
}

absl::StatusOr<std::vector<std::string>> Input::Select(const SelectOptions& options) const {
  QUANTD_ASSIGN_OR_RETURN(const auto include, Compile(options.include));
  QUANTD_ASSIGN_OR_RETURN(const auto exclude, Compile(options.exclude));
  std::vector<std::string> why_kept;
  bool any_included = false;
  for (const TensorDesc& tensor : tensors_) {
    const bool included = AnyMatches(include, tensor.name);
    any_included |= included;
    if (!include.empty() && !included) {
      why_kept.push_back("not included");
    } else if (AnyMatches(exclude, tensor.name)) {
      why_kept.push_back("excluded");
    } else if (const StoredTensor stored = this->stored(why_kept.size());
               stored.is_foreign() || !IsQuantizable(tensor.dtype)) {
      why_kept.push_back(absl::StrCat(TypeName(stored), " cannot be quantized"));
      if (!included) continue;
      return absl::InvalidArgumentError(
          absl::StrCat(tensor.name, ": --include takes it, but ", why_kept.back(),
                       "; convert it first, to f32 for one, or keep it by --exclude"));
    } else {
      why_kept.push_back(included || single_ ? "" : WhyKeptByKind(tensor));
    }
  }
  if (!include.empty() && !any_included) {
    return absl::InvalidArgumentError(absl::StrCat("--include takes none of the ", tensors_.size(),
                                                   " tensors; see quantctl inspect"));
  }
  return why_kept;
}

}  // namespace quantd::cli
