#ifndef QUANTD_CORE_SESSION_PIECE_QUEUE_H_
#define QUANTD_CORE_SESSION_PIECE_QUEUE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <list>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/exec/piece.h"
#include "core/session/tiles.h"

namespace quantd {

// The bytes of a stripe and what keeps them alive.
struct PieceRange {
  ByteRange bytes;
  std::vector<std::shared_ptr<const void>> keepers;
  bool owned = true;  // all pieces are

  void Clear() {
    bytes.Clear();
    keepers.clear();
    owned = true;
  }
};

// Input that has come and has not been cut yet. Pieces so small that keeping them would take more
// than their bytes are gathered in blocks. Not thread-safe.
class PieceQueue {
 public:
  static constexpr int64_t kBlockBytes = int64_t{64} << 10;

  // Of at most `total_bytes`.
  explicit PieceQueue(int64_t total_bytes)
      : block_bytes_(static_cast<size_t>(std::min(total_bytes, kBlockBytes))) {}

  // Takes the piece, or its bytes, and then leaves it to the caller.
  void Push(Piece& piece) {
    if (piece.bytes.empty()) return;
    size_bytes_ += static_cast<int64_t>(piece.bytes.size());
    if (piece.bytes.size() >= kSmallBytes) {
      has_scarce_ = has_scarce_ || piece.scarce;
      pieces_.push_back(std::move(piece));
    } else {
      Gather(piece.bytes);
    }
  }
  int64_t size_bytes() const { return size_bytes_; }

  // Copies what is scarce, and returns what it was: to be let go of under no lock.
  std::vector<Piece> Settle() {
    std::vector<Piece> before;
    if (!std::exchange(has_scarce_, false)) return before;
    before.assign(pieces_.begin(), pieces_.end());
    pieces_.clear();
    for (const Piece& piece : before) {
      if (piece.scarce) {
        GatherAll(piece.bytes);
      } else {
        pieces_.push_back(piece);
      }
    }
    return before;
  }

  // Appends the next `size_bytes` bytes, which are there, to `range`.
  void Take(int64_t size_bytes, PieceRange& range) {
    size_bytes_ -= size_bytes;
    while (size_bytes > 0) {
      Piece& piece = pieces_.front();
      const auto step = std::min(static_cast<size_t>(size_bytes), piece.bytes.size());
      range.bytes.Append(piece.bytes.first(step));
      range.owned = range.owned && piece.owned();
      if (!piece.owned() && (range.keepers.empty() || range.keepers.back() != piece.keeper)) {
        range.keepers.push_back(piece.keeper);
      }
      piece.bytes = piece.bytes.subspan(step);
      size_bytes -= static_cast<int64_t>(step);
      if (piece.bytes.empty()) pieces_.pop_front();
    }
  }

 private:
  static constexpr size_t kSmallBytes = 4096;
  void GatherAll(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const size_t step = std::min(bytes.size(), block_bytes_);
      Gather(bytes.first(step));
      bytes = bytes.subspan(step);
    }
  }

  void Gather(std::span<const std::byte> bytes) {
    if (block_ == nullptr || block_bytes_ - block_used_ < bytes.size()) {
      block_ = std::make_shared_for_overwrite<std::byte[]>(block_bytes_);
      block_used_ = 0;
    }
    std::byte* place = block_.get() + block_used_;
    std::memcpy(place, bytes.data(), bytes.size());
    block_used_ += bytes.size();
    Piece* last = pieces_.empty() ? nullptr : &pieces_.back();
    if (last != nullptr && last->bytes.data() + last->bytes.size() == place) {
      last->bytes = {last->bytes.data(), last->bytes.size() + bytes.size()};
    } else {
      pieces_.push_back({{place, bytes.size()}, block_});
    }
  }

  const size_t block_bytes_;
  std::list<Piece> pieces_;
  int64_t size_bytes_ = 0;
  bool has_scarce_ = false;
  std::shared_ptr<std::byte[]> block_;  // that small pieces are copied into
  size_t block_used_ = 0;
};

// What is wrong with more or fewer bytes than the `total_bytes` of `name`.
inline absl::Status TooManyBytes(absl::string_view name, int64_t total_bytes, int64_t more_bytes) {
  return absl::OutOfRangeError(
      absl::StrCat(name, " has ", total_bytes, " bytes; ", more_bytes, " more were sent"));
}
inline absl::Status MissingBytes(absl::string_view name, int64_t total_bytes,
                                 int64_t received_bytes) {
  if (received_bytes == total_bytes) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(name, " has ", total_bytes, " bytes; ",
                                          total_bytes - received_bytes, " of them are missing"));
}

// The bytes of one tensor, or of one plane, as they come, and what is wrong with them: that is told
// when what came before it has been taken. Not thread-safe.
class CheckedInput {
 public:
  // Of `total_bytes`; `name` is what errors call it: `tensor "w"`.
  CheckedInput(int64_t total_bytes, std::string name)
      : total_bytes_(total_bytes), name_(std::move(name)), queue_(total_bytes) {}

  // Takes the piece, or leaves it to the caller.
  void Push(Piece& piece) {
    if (!error_.ok()) return;
    const auto piece_bytes = static_cast<int64_t>(piece.bytes.size());
    const int64_t left_bytes = total_bytes_ - received_bytes_;
    if (piece_bytes > left_bytes) {
      error_ = TooManyBytes(name_, total_bytes_, piece_bytes - left_bytes);
      piece.bytes = piece.bytes.first(static_cast<size_t>(left_bytes));
    }
    received_bytes_ += std::min(piece_bytes, left_bytes);
    queue_.Push(piece);
  }
  // Says that no more comes.
  void End() { Fail(MissingBytes(name_, total_bytes_, received_bytes_)); }
  void Fail(const absl::Status& status) { error_.Update(status); }

  const absl::Status& error() const { return error_; }
  bool may_come() const { return error_.ok() && received_bytes_ < total_bytes_; }
  int64_t received_bytes() const { return received_bytes_; }
  int64_t size_bytes() const { return queue_.size_bytes(); }  // that are here
  // To be called when pieces that are scarce cannot be worked on yet.
  std::vector<Piece> Settle() { return queue_.Settle(); }
  void Take(int64_t size_bytes, PieceRange& range) { queue_.Take(size_bytes, range); }

 private:
  const int64_t total_bytes_;
  const std::string name_;
  PieceQueue queue_;
  int64_t received_bytes_ = 0;
  absl::Status error_;
};

}  // namespace quantd

#endif  // QUANTD_CORE_SESSION_PIECE_QUEUE_H_
