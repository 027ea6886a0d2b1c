// npy: | header | values |, a tensor a file, and a directory of such files with kNpyIndexFile for
// what npy cannot say. A tensor's name becomes a file's by escapes: "a/b" is a%2fb.npy, ".x" is
// %2ex.npy, "" is %.npy, so that none leaves the directory and no two are the same. A tensor of a
// type that is none of ours is written as its bytes, of uint8; kNpyIndexFile says what they are.
//
// Entry: npy_container. Tested by tests/core/io/npy_test.cc, npy_dir_test.cc and
// container_test.cc.
#include "core/io/npy.h"

#include <algorithm>
#include <bit>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/checked_math.h"
#include "core/base/status_macros.h"
#include "core/io/container.h"
#include "core/io/npy_dir.h"
#include "core/io/npy_header.h"
#include "core/io/output_dir.h"
#include "core/io/output_file.h"
#include "core/io/quote.h"
#include "core/io/safetensors_header.h"
#include "core/io/write_ledger.h"

namespace quantd {
namespace {

static_assert(std::endian::native == std::endian::little);

bool Matches(std::span<const std::byte> head) {
  const absl::string_view text(reinterpret_cast<const char*>(head.data()), head.size());
  return absl::StartsWith(text, kNpyMagic);
}

// Headers are short, but for those of hundreds of dimensions and fields.
absl::StatusOr<NpyHeader> ReadHeader(const FileBytes& file, const OpenOptions& options) {
  constexpr int64_t kUsualBytes = 4096;
  std::vector<std::byte> head;
  absl::StatusOr<NpyHeader> header;
  for (const int64_t most : {kUsualBytes, kMaxNpyHeaderBytes}) {
    head.resize(static_cast<size_t>(std::min(file.size_bytes(), most)));
    QUANTD_RETURN_IF_ERROR(file.ReadAt(0, head));
    header = ParseNpyHeader(head, options.dtype);
    if (!absl::IsDataLoss(header.status())) break;  // else it is longer, or the file is cut short
  }
  return header;
}

absl::StatusOr<ContainerIndex> ReadIndex(const FileBytes& file, absl::string_view stem,
                                         const OpenOptions& options) {
  if (options.shape.has_value()) {
    return absl::InvalidArgumentError("a npy file says itself which shape it has");
  }
  QUANTD_ASSIGN_OR_RETURN(NpyHeader header, ReadHeader(file, options));
  TensorEntry entry(TensorDesc{std::string(stem), header.dtype, std::move(header.shape)},
                    header.data_offset_bytes, 0);
  entry.order = header.order;
  QUANTD_ASSIGN_OR_RETURN(entry.size_bytes, SizeBytes(entry));
  const int64_t data_bytes = file.size_bytes() - entry.offset_bytes;
  if (data_bytes < entry.size_bytes) {
    return absl::DataLossError(absl::StrCat("file has ", data_bytes, " bytes of values; shape ",
                                            entry.desc.shape.Text(), " of ",
                                            NameOf(entry.desc.dtype), " needs ", entry.size_bytes));
  }
  if (data_bytes > entry.size_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("file has ", data_bytes - entry.size_bytes,
                                                   " bytes after the array's values"));
  }
  return ContainerIndex{{std::move(entry)}, {}};
}

// Returns the header of the file that holds `tensor`.
std::string HeaderOf(const StoredTensor& tensor) {
  if (!tensor.is_foreign()) return FormatNpyHeader(tensor.desc.dtype, tensor.desc.shape);
  return FormatNpyHeader(DType::kUint8, Shape::Make({tensor.foreign_bytes}).value_or(Shape()));
}

// Writes one tensor into one file.
class NpyFileWriter : public TensorWriter {
 public:
  static absl::StatusOr<std::unique_ptr<TensorWriter>> Create(const std::string& path,
                                                              WriteLedger ledger,
                                                              const Metadata& announced) {
    if (ledger.size() != 1 || !announced.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": one npy file holds one tensor and no metadata, not ", ledger.size(),
                       " and ", announced.size(), "; name a directory or a .safetensors file"));
    }
    if (ledger.tensor(0).is_foreign()) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": npy has no type ",
                                                     TypeName(ledger.tensor(0)),
                                                     "; name a directory or a .safetensors file"));
    }
    const std::string header = HeaderOf(ledger.tensor(0));
    const int64_t header_bytes = static_cast<int64_t>(header.size());
    QUANTD_ASSIGN_OR_RETURN(const int64_t file_bytes,
                            CheckedAdd(header_bytes, ledger.size_bytes(0)));
    QUANTD_ASSIGN_OR_RETURN(OutputFile file, OutputFile::Create(path, file_bytes));
    QUANTD_RETURN_IF_ERROR(file.WriteAt(0, std::as_bytes(std::span(header))));
    return std::unique_ptr<TensorWriter>(
        new NpyFileWriter(std::move(ledger), std::move(file), header_bytes));
  }

  absl::Status WriteAt(size_t tensor, int64_t offset_bytes,
                       std::span<const std::byte> bytes) override {
    QUANTD_RETURN_IF_ERROR(ledger_.CheckRange(tensor, offset_bytes, bytes.size()));
    QUANTD_RETURN_IF_ERROR(file_.WriteAt(header_bytes_ + offset_bytes, bytes));
    ledger_.Add(tensor, bytes.size());
    return absl::OkStatus();
  }

  absl::Status Finish(const Metadata& metadata) override {
    if (!metadata.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(file_.path(), ": npy holds no metadata"));
    }
    QUANTD_RETURN_IF_ERROR(ledger_.CheckFull());
    return file_.Commit();
  }

 private:
  NpyFileWriter(WriteLedger ledger, OutputFile file, int64_t header_bytes)
      : ledger_(std::move(ledger)), file_(std::move(file)), header_bytes_(header_bytes) {}

  WriteLedger ledger_;
  OutputFile file_;
  int64_t header_bytes_;
};

// Writes a directory with one file a tensor.
class NpyDirWriter : public TensorWriter {
 public:
  static absl::StatusOr<std::unique_ptr<TensorWriter>> Create(const std::string& path,
                                                              WriteLedger ledger,
                                                              const Metadata& announced) {
    QUANTD_ASSIGN_OR_RETURN(OutputDir dir, OutputDir::Create(path));
    std::unique_ptr<NpyDirWriter> writer(new NpyDirWriter(std::move(ledger), std::move(dir)));
    writer->index_.metadata = announced;
    QUANTD_RETURN_IF_ERROR(writer->AddFiles());
    return writer;
  }

  absl::Status WriteAt(size_t tensor, int64_t offset_bytes,
                       std::span<const std::byte> bytes) override {
    QUANTD_RETURN_IF_ERROR(ledger_.CheckRange(tensor, offset_bytes, bytes.size()));
    QUANTD_RETURN_IF_ERROR(dir_.WriteAt(NpyFileName(ledger_.desc(tensor).name),
                                        header_bytes_[tensor] + offset_bytes, bytes));
    ledger_.Add(tensor, bytes.size());
    return absl::OkStatus();
  }

  absl::Status Finish(const Metadata& metadata) override {
    QUANTD_RETURN_IF_ERROR(ledger_.CheckFull());
    index_.metadata = metadata;
    QUANTD_ASSIGN_OR_RETURN(const std::string header,
                            FormatSafetensorsHeader(index_, kMaxNpyIndexBytes));
    QUANTD_RETURN_IF_ERROR(dir_.AddFile(kNpyIndexFile, static_cast<int64_t>(header.size())));
    QUANTD_RETURN_IF_ERROR(dir_.WriteAt(kNpyIndexFile, 0, std::as_bytes(std::span(header))));
    return dir_.Commit();
  }

 private:
  NpyDirWriter(WriteLedger ledger, OutputDir dir)
      : ledger_(std::move(ledger)), dir_(std::move(dir)) {}

  absl::Status AddFiles() {
    int64_t offset_bytes = 0;
    for (size_t i = 0; i < ledger_.size(); ++i) {
      const StoredTensor& tensor = ledger_.tensor(i);
      const std::string header = HeaderOf(tensor);
      header_bytes_.push_back(static_cast<int64_t>(header.size()));
      QUANTD_ASSIGN_OR_RETURN(const int64_t file_bytes,
                              CheckedAdd(header_bytes_[i], ledger_.size_bytes(i)));
      const std::string file = NpyFileName(tensor.desc.name);
      QUANTD_RETURN_IF_ERROR(dir_.AddFile(file, file_bytes));
      QUANTD_RETURN_IF_ERROR(dir_.WriteAt(file, 0, std::as_bytes(std::span(header))));
      index_.tensors.emplace_back(tensor, offset_bytes, ledger_.size_bytes(i));
      QUANTD_ASSIGN_OR_RETURN(offset_bytes, CheckedAdd(offset_bytes, ledger_.size_bytes(i)));
    }
    // So that a bad name, or a list that is too long, is found now.
    return FormatSafetensorsHeader(index_, kMaxNpyIndexBytes).status();
  }

  WriteLedger ledger_;
  OutputDir dir_;
  ContainerIndex index_;
  std::vector<int64_t> header_bytes_;  // of each tensor's file
};

absl::StatusOr<std::unique_ptr<TensorWriter>> CreateWriter(const std::string& path,
                                                           std::vector<StoredTensor> tensors,
                                                           const Metadata& announced) {
  QUANTD_ASSIGN_OR_RETURN(WriteLedger ledger, WriteLedger::Make(std::move(tensors)));
  if (absl::EndsWith(path, ".npy")) {
    return NpyFileWriter::Create(path, std::move(ledger), announced);
  }
  return NpyDirWriter::Create(path, std::move(ledger), announced);
}

constexpr absl::string_view kExtensions[] = {".npy"};

}  // namespace

std::string NpyFileName(absl::string_view name) {
  std::string out;
  for (const char c : name) {
    const bool escape = c == '/' || c == '%' ||
                        absl::ascii_iscntrl(static_cast<unsigned char>(c)) ||
                        (c == '.' && out.empty());
    if (escape) {
      absl::StrAppend(&out, "%", absl::Hex(static_cast<unsigned char>(c), absl::kZeroPad2));
    } else {
      out.push_back(c);
    }
  }
  if (out.empty()) out.push_back('%');  // which no other name becomes
  return out.append(".npy");
}

const Container& npy_container() {
  static constexpr Container kContainer = {
      .name = "npy",
      .summary = "one tensor a file; several are a directory, with the metadata in index.json",
      .extensions = kExtensions,
      .matches = &Matches,
      .read_index = &ReadIndex,
      .create = &CreateWriter,
  };
  return kContainer;
}

}  // namespace quantd
