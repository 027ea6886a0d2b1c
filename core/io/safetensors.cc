// safetensors: | u64 N | N bytes of JSON, padded with spaces | values, without gaps |, all of it
// little-endian. Values that overlap, leave a hole or do not end with the file are refused, as by
// the format's own reader. A file is written with room for its header, which comes last: digests,
// for one, are known only when all values are.
//
// Entry: safetensors_container. Tested by tests/core/io/safetensors_test.cc, container_test.cc and
// tests/fuzz/safetensors_fuzz.cc.
#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/checked_math.h"
#include "core/base/status_macros.h"
#include "core/io/container.h"
#include "core/io/output_file.h"
#include "core/io/quote.h"
#include "core/io/safetensors_header.h"
#include "core/io/write_ledger.h"

namespace quantd {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr int64_t kLengthBytes = 8;

bool Matches(std::span<const std::byte> head) {
  uint64_t header_bytes;
  if (head.size() <= sizeof(header_bytes)) return false;
  std::memcpy(&header_bytes, head.data(), sizeof(header_bytes));
  return header_bytes <= static_cast<uint64_t>(kMaxSafetensorsHeaderBytes) &&
         head[kLengthBytes] == std::byte{'{'};
}

// Returns the length of the header, which lies within the file.
absl::StatusOr<int64_t> HeaderBytes(const FileBytes& file) {
  uint64_t header_bytes;
  if (file.size_bytes() < kLengthBytes) {
    return absl::DataLossError(
        absl::StrCat("file has ", file.size_bytes(), " bytes; a safetensors file has at least 8"));
  }
  QUANTD_RETURN_IF_ERROR(file.ReadAt(0, std::as_writable_bytes(std::span(&header_bytes, 1))));
  if (header_bytes > static_cast<uint64_t>(kMaxSafetensorsHeaderBytes)) {
    return absl::InvalidArgumentError(absl::StrCat("header length ", header_bytes,
                                                   " is over the format's limit of ",
                                                   kMaxSafetensorsHeaderBytes));
  }
  if (static_cast<int64_t>(header_bytes) > file.size_bytes() - kLengthBytes) {
    return absl::DataLossError(absl::StrCat(
        "header of ", header_bytes, " bytes does not fit into the file's ", file.size_bytes()));
  }
  return static_cast<int64_t>(header_bytes);
}

absl::StatusOr<ContainerIndex> ReadIndex(const FileBytes& file, absl::string_view,
                                         const OpenOptions& options) {
  if (options.dtype.has_value() || options.shape.has_value()) {
    return absl::InvalidArgumentError(
        "a safetensors file says itself which dtype and shape it has");
  }
  QUANTD_ASSIGN_OR_RETURN(const int64_t header_bytes, HeaderBytes(file));
  const int64_t data_begin = kLengthBytes + header_bytes;
  std::string header(static_cast<size_t>(header_bytes), '\0');
  QUANTD_RETURN_IF_ERROR(file.ReadAt(kLengthBytes, std::as_writable_bytes(std::span(header))));
  QUANTD_ASSIGN_OR_RETURN(ContainerIndex index, ParseSafetensorsHeader(header));
  const auto by_place = [](const TensorEntry& a, const TensorEntry& b) {
    return std::pair(a.offset_bytes, a.size_bytes) < std::pair(b.offset_bytes, b.size_bytes);
  };
  std::stable_sort(index.tensors.begin(), index.tensors.end(), by_place);

  const int64_t data_bytes = file.size_bytes() - data_begin;
  int64_t expected = 0;
  for (TensorEntry& entry : index.tensors) {
    if (entry.offset_bytes != expected) {
      return absl::InvalidArgumentError(
          absl::StrCat(Quote(entry.desc.name), ": values begin at ", entry.offset_bytes,
                       entry.offset_bytes < expected ? ", within the tensor before it that ends at "
                                                     : ", with a hole after ",
                       expected));
    }
    // At most 2^63 - 1, as the header's end offset was.
    expected += entry.size_bytes;
    if (expected > data_bytes) {
      return absl::DataLossError(absl::StrCat(Quote(entry.desc.name), ": values end at ", expected,
                                              ", but the file has ", data_bytes,
                                              " bytes of values"));
    }
    entry.offset_bytes += data_begin;
  }
  if (expected != data_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("file has ", data_bytes - expected, " bytes after the last tensor's values"));
  }
  return index;
}

// Returns the entries of `ledger` as the file has them: `order` is their places in the ledger.
ContainerIndex LayOut(const WriteLedger& ledger, const std::vector<size_t>& order) {
  ContainerIndex index;
  int64_t offset_bytes = 0;
  for (const size_t tensor : order) {
    index.tensors.emplace_back(ledger.tensor(tensor), offset_bytes, ledger.size_bytes(tensor));
    offset_bytes += ledger.size_bytes(tensor);
  }
  return index;
}

class SafetensorsWriter : public TensorWriter {
 public:
  static absl::StatusOr<std::unique_ptr<TensorWriter>> Create(const std::string& path,
                                                              std::vector<StoredTensor> tensors,
                                                              const Metadata& announced) {
    QUANTD_ASSIGN_OR_RETURN(WriteLedger ledger, WriteLedger::Make(std::move(tensors)));
    std::vector<size_t> order(ledger.size());
    int64_t data_bytes = 0;
    for (size_t i = 0; i < order.size(); ++i) {
      order[i] = i;
      QUANTD_ASSIGN_OR_RETURN(data_bytes, CheckedAdd(data_bytes, ledger.size_bytes(i)));
    }
    std::sort(order.begin(), order.end(), [&ledger](size_t a, size_t b) {
      const int rank_a = SafetensorsRank(ledger.tensor(a));
      const int rank_b = SafetensorsRank(ledger.tensor(b));
      return rank_a != rank_b ? rank_a > rank_b : ledger.desc(a).name < ledger.desc(b).name;
    });
    ContainerIndex index = LayOut(ledger, order);
    index.metadata = announced;
    QUANTD_ASSIGN_OR_RETURN(const std::string header, FormatSafetensorsHeader(index));
    // Within the limit even when rounded up, as the limit is a multiple of 8.
    static_assert(kMaxSafetensorsHeaderBytes % 8 == 0);
    const int64_t header_bytes = RoundUp(static_cast<int64_t>(header.size()), 8);
    QUANTD_ASSIGN_OR_RETURN(const int64_t file_bytes,
                            CheckedAdd(kLengthBytes + header_bytes, data_bytes));
    QUANTD_ASSIGN_OR_RETURN(OutputFile file, OutputFile::Create(path, file_bytes));
    return std::unique_ptr<TensorWriter>(new SafetensorsWriter(
        std::move(ledger), std::move(index), order, std::move(file), header_bytes));
  }

  absl::Status WriteAt(size_t tensor, int64_t offset_bytes,
                       std::span<const std::byte> bytes) override {
    QUANTD_RETURN_IF_ERROR(ledger_.CheckRange(tensor, offset_bytes, bytes.size()));
    const int64_t begin = kLengthBytes + header_bytes_ + offsets_[tensor];
    QUANTD_RETURN_IF_ERROR(file_.WriteAt(begin + offset_bytes, bytes));
    ledger_.Add(tensor, bytes.size());
    return absl::OkStatus();
  }

  absl::Status Finish(const Metadata& metadata) override {
    QUANTD_RETURN_IF_ERROR(ledger_.CheckFull());
    index_.metadata = metadata;
    QUANTD_ASSIGN_OR_RETURN(std::string header, FormatSafetensorsHeader(index_));
    if (static_cast<int64_t>(header.size()) > header_bytes_) {
      return absl::InvalidArgumentError(absl::StrCat(
          file_.path(), ": the metadata makes a header of ", header.size(),
          " bytes; room was kept for ", header_bytes_, ", as the metadata announced needs"));
    }
    header.resize(static_cast<size_t>(header_bytes_), ' ');
    const uint64_t length = static_cast<uint64_t>(header_bytes_);
    QUANTD_RETURN_IF_ERROR(file_.WriteAt(0, std::as_bytes(std::span(&length, 1))));
    QUANTD_RETURN_IF_ERROR(file_.WriteAt(kLengthBytes, std::as_bytes(std::span(header))));
    return file_.Commit();
  }

 private:
  SafetensorsWriter(WriteLedger ledger, ContainerIndex index, const std::vector<size_t>& order,
                    OutputFile file, int64_t header_bytes)
      : ledger_(std::move(ledger)),
        index_(std::move(index)),
        offsets_(order.size()),
        file_(std::move(file)),
        header_bytes_(header_bytes) {
    for (size_t i = 0; i < order.size(); ++i) offsets_[order[i]] = index_.tensors[i].offset_bytes;
  }

  WriteLedger ledger_;
  ContainerIndex index_;          // in the order of the file, offsets from the end of the header
  std::vector<int64_t> offsets_;  // the same offsets, in the order of the ledger
  OutputFile file_;
  int64_t header_bytes_;
};

constexpr absl::string_view kExtensions[] = {".safetensors"};

}  // namespace

const Container& safetensors_container() {
  static constexpr Container kContainer = {
      .name = "safetensors",
      .summary = "many tensors and metadata in one file",
      .extensions = kExtensions,
      .matches = &Matches,
      .read_index = &ReadIndex,
      .create = &SafetensorsWriter::Create,
  };
  return kContainer;
}

}  // namespace quantd
