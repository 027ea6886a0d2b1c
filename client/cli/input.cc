#include "client/cli/input.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <regex>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/cli/exit_code.h"
#include "core/base/status_macros.h"

namespace quantd::cli {
namespace {

absl::StatusOr<std::vector<std::regex>> Compile(const std::vector<std::string>& patterns) {
  std::vector<std::regex> compiled;
  for (const std::string& pattern : patterns) {
    try {
      compiled.emplace_back(pattern);
    } catch (const std::regex_error& error) {
      return absl::InvalidArgumentError(
          absl::StrCat("regular expression '", pattern, "': ", error.what()));
    }
  }
  return compiled;
}

bool AnyMatches(const std::vector<std::regex>& patterns, const std::string& name) {
  for (const std::regex& pattern : patterns) {
    if (std::regex_search(name, pattern)) return true;
  }
  return false;
}

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
  command.add_option("--include", include,
                     "quantize only tensors whose name matches this regular expression; takes "
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
    return absl::InvalidArgumentError("--name goes with a pipe, or standard input (-); files have names");
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
  return std::make_unique<MemorySource>(file_->Values(i), file_);
}

std::optional<std::span<const std::byte>> Input::Values(size_t i) const {
  if (file_ == nullptr) return std::nullopt;
  return file_->Values(i);
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
    } else if (!IsQuantizable(tensor.dtype)) {
      why_kept.push_back(absl::StrCat(NameOf(tensor.dtype), " cannot be quantized"));
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
