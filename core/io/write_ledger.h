#ifndef QUANTD_CORE_IO_WRITE_LEDGER_H_
#define QUANTD_CORE_IO_WRITE_LEDGER_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/io/container_index.h"
#include "core/io/quote.h"

namespace quantd {

// What a TensorWriter is asked to write and how much of it has come. Thread-safe once made.
class WriteLedger {
 public:
  // kInvalidArgument if two tensors have the same name, or one has more than 2^63 - 1 bytes.
  static absl::StatusOr<WriteLedger> Make(std::vector<StoredTensor> tensors) {
    WriteLedger ledger;
    absl::flat_hash_set<std::string> names;
    for (StoredTensor& tensor : tensors) {
      if (!names.insert(tensor.desc.name).second) {
        return absl::InvalidArgumentError(
            absl::StrCat("two output tensors have the name ", Quote(tensor.desc.name)));
      }
      QUANTD_ASSIGN_OR_RETURN(const int64_t size_bytes, SizeBytes(tensor));
      ledger.tensors_.push_back({std::move(tensor), size_bytes});
    }
    ledger.written_bytes_ = std::make_unique<std::atomic<int64_t>[]>(ledger.tensors_.size());
    return ledger;
  }

  size_t size() const { return tensors_.size(); }
  const StoredTensor& tensor(size_t tensor) const { return tensors_[tensor].tensor; }
  const TensorDesc& desc(size_t tensor) const { return tensors_[tensor].tensor.desc; }
  int64_t size_bytes(size_t tensor) const { return tensors_[tensor].size_bytes; }

  // Returns kOutOfRange unless bytes [offset_bytes, + count_bytes) lie within the tensor.
  absl::Status CheckRange(size_t tensor, int64_t offset_bytes, size_t count_bytes) const {
    if (tensor >= size()) {
      return absl::OutOfRangeError(absl::StrCat("tensor ", tensor, " of ", size(), " tensors"));
    }
    const int64_t limit_bytes = size_bytes(tensor);
    if (offset_bytes < 0 || offset_bytes > limit_bytes ||
        count_bytes > static_cast<uint64_t>(limit_bytes - offset_bytes)) {
      return absl::OutOfRangeError(absl::StrCat(Quote(desc(tensor).name), ": ", count_bytes,
                                                " bytes at ", offset_bytes,
                                                " do not lie within its ", limit_bytes, " bytes"));
    }
    return absl::OkStatus();
  }

  // Counts bytes that were written.
  void Add(size_t tensor, size_t count_bytes) {
    written_bytes_[tensor].fetch_add(static_cast<int64_t>(count_bytes), std::memory_order_relaxed);
  }

  // Returns kFailedPrecondition naming a tensor that was given fewer bytes than it has. Bytes that
  // came twice count twice, so this catches what was forgotten, not every hole.
  absl::Status CheckFull() const {
    for (size_t i = 0; i < size(); ++i) {
      const int64_t written_bytes = written_bytes_[i].load(std::memory_order_relaxed);
      if (written_bytes < size_bytes(i)) {
        return absl::FailedPreconditionError(absl::StrCat(Quote(desc(i).name), ": ", written_bytes,
                                                          " of ", size_bytes(i),
                                                          " bytes were written"));
      }
    }
    return absl::OkStatus();
  }

 private:
  struct Row {
    StoredTensor tensor;
    int64_t size_bytes;
  };
  std::vector<Row> tensors_;
  std::unique_ptr<std::atomic<int64_t>[]> written_bytes_;
};

}  // namespace quantd

#endif  // QUANTD_CORE_IO_WRITE_LEDGER_H_
