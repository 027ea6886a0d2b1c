// Values in Fortran order are turned round block by block. In C order of the shape [A, B, C],
// element (a, b, c) is number (a * B + b) * C + c; in the file it is number a + A * (b + B * c):
//
//   goes out:  (0,0) (0,1) (0,2) | (1,0) (1,1) (1,2) | ...      a block: some rows of all columns
//   file:      (0,0) (1,0) (2,0) ... | (0,1) (1,1) (2,1) ...    of each column, a run of those rows
//
// A block is a range of one axis, with all of the axes after it: of the first axis where a whole
// slab fits the memory, else of the one after it. Its runs are visited in the order of the file, so
// that a window that is read ahead serves many where they lie close, and each is read alone where
// they do not. Some 8 KiB of a run are taken at once, as far as memory goes: with runs of a few
// bytes, each page of the file would be read again for every block.
//
// 1 GiB of f32 [16384, 16384] goes through blocks of 128 MiB, 8 passes over runs of 8 KiB; each
// page of the file is read once. What has at most one dimension above 1 is the same in both orders,
// and is no case for this (npy_header.cc).
//
// Entry: TensorReader::Read. Tested by tests/core/io/tensor_reader_test.cc.
#include "core/io/tensor_reader.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/base/status_macros.h"
#include "core/io/machine_memory.h"

namespace quantd {
namespace {

constexpr int64_t kWindowBytes = 1 << 20;
// Runs with less between them are read together.
constexpr int64_t kGapBytes = 16 << 10;
constexpr int64_t kRunBytes = 8 << 10;

// Reads a file at ascending places through a window. Not thread-safe.
class WindowReader {
 public:
  // The values are the bytes [begin, end) of `file`; `near` says to read ahead.
  WindowReader(const FileBytes& file, int64_t begin_bytes, int64_t end_bytes, bool near)
      : file_(file), begin_bytes_(begin_bytes), end_bytes_(end_bytes), near_(near) {}

  // Returns the bytes [offset, + count) of the values, count at most kWindowBytes; valid until the
  // next call.
  absl::StatusOr<const std::byte*> At(int64_t offset_bytes, int64_t count_bytes) {
    const int64_t place = begin_bytes_ + offset_bytes;
    if (place < window_begin_ ||
        place + count_bytes > window_begin_ + static_cast<int64_t>(window_.size())) {
      const int64_t wanted = near_ ? kWindowBytes : count_bytes;
      window_.resize(static_cast<size_t>(std::min(wanted, end_bytes_ - place)));
      window_begin_ = place;
      QUANTD_RETURN_IF_ERROR(file_.ReadAt(place, window_));
    }
    return window_.data() + (place - window_begin_);
  }

 private:
  const FileBytes& file_;
  const int64_t begin_bytes_, end_bytes_;
  const bool near_;
  int64_t window_begin_ = 0;
  std::vector<std::byte> window_;
};

// Copies `count` elements of `kBytes`, `from_step` and `to_step` elements apart.
template <size_t kBytes>
void CopyElems(const std::byte* from, int64_t from_step, std::byte* to, int64_t to_step,
               int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    std::memcpy(to, from, kBytes);
    from += from_step * static_cast<int64_t>(kBytes);
    to += to_step * static_cast<int64_t>(kBytes);
  }
}

using CopyFunction = void (*)(const std::byte*, int64_t, std::byte*, int64_t, int64_t);

CopyFunction CopyFunctionOf(int64_t elem_bytes) {
  return elem_bytes == 1   ? &CopyElems<1>
         : elem_bytes == 2 ? &CopyElems<2>
         : elem_bytes == 4 ? &CopyElems<4>
                           : &CopyElems<8>;
}

void SwapBytes(std::span<std::byte> values, int64_t elem_bytes) {
  for (size_t i = 0; i < values.size(); i += static_cast<size_t>(elem_bytes)) {
    std::reverse(values.data() + i, values.data() + i + elem_bytes);
  }
}

// The axis that blocks are ranges of, and where one of them begins.
struct Block {
  size_t axis = 0;
  int64_t first = 0, count = 0;  // the range of that axis
  int64_t rest_elems = 1;        // of one index of that axis, with all axes after it
  int64_t file_elem = 0;         // of the block's first element, in Fortran order
};

// Returns the block that begins with element `begin_elem` of C order.
Block BlockAt(std::span<const int64_t> dims, int64_t begin_elem, int64_t max_elems,
              int64_t run_elems) {
  Block block;
  for (size_t i = 1; i < dims.size(); ++i) block.rest_elems *= dims[i];
  int64_t file_step = 1, within = begin_elem;
  while (block.rest_elems > max_elems) {  // ends at the last axis, where it is 1
    block.file_elem += within / block.rest_elems * file_step;
    within %= block.rest_elems;
    file_step *= dims[block.axis];
    block.rest_elems /= dims[++block.axis];
  }
  block.first = within / block.rest_elems;
  block.file_elem += block.first * file_step;
  block.count = std::min({dims[block.axis] - block.first, max_elems / block.rest_elems,
                          std::max(run_elems, max_elems / block.rest_elems / 8)});
  return block;
}

}  // namespace

int64_t DefaultBlockBytes() {
  return std::clamp(MachineMemoryBytes() / 16, int64_t{4} << 20, int64_t{512} << 20);
}

TensorReader::TensorReader(std::shared_ptr<const FileBytes> file, TensorEntry entry,
                           int64_t max_block_bytes)
    : file_(std::move(file)),
      entry_(std::move(entry)),
      elem_bytes_(entry_.is_foreign() ? 1 : SizeOf(entry_.desc.dtype)),
      // What the machine has is asked for only where a block will be.
      max_block_bytes_(std::max(max_block_bytes > 0    ? max_block_bytes
                                : entry_.order.fortran ? DefaultBlockBytes()
                                                       : kWindowBytes,
                                elem_bytes_)) {}

void TensorReader::Rewind() {
  position_bytes_ = 0;
  block_ = {};
  block_begin_bytes_ = 0;
}

absl::StatusOr<size_t> TensorReader::Read(std::span<std::byte> out) {
  out = out.first(static_cast<size_t>(
      std::min(static_cast<int64_t>(out.size()), entry_.size_bytes - position_bytes_)));
  if (entry_.order == ValueOrder()) {
    QUANTD_RETURN_IF_ERROR(file_->ReadAt(entry_.offset_bytes + position_bytes_, out));
    position_bytes_ += static_cast<int64_t>(out.size());
    return out.size();
  }
  size_t done = 0;
  while (done < out.size()) {
    const auto used = static_cast<size_t>(position_bytes_ - block_begin_bytes_);
    if (used == block_.size()) {
      if (const absl::Status status = FillBlock(); !status.ok()) {
        block_.clear();
        return status;
      }
      continue;
    }
    const size_t count = std::min(out.size() - done, block_.size() - used);
    std::memcpy(out.data() + done, block_.data() + used, count);
    done += count;
    position_bytes_ += static_cast<int64_t>(count);
  }
  // Whoever has read the last byte seldom destroys this at once, and a block is large.
  if (position_bytes_ == entry_.size_bytes) {
    block_ = {};
    block_begin_bytes_ = position_bytes_;
  }
  return done;
}

// Puts the bytes from position_bytes_ on, which is an element's beginning, into the block.
absl::Status TensorReader::FillBlock() {
  block_begin_bytes_ = position_bytes_;
  block_.clear();
  if (entry_.order.fortran) {
    QUANTD_RETURN_IF_ERROR(
        Transpose(position_bytes_ / elem_bytes_, max_block_bytes_ / elem_bytes_));
  } else {
    const int64_t whole_bytes =
        std::min(max_block_bytes_, kWindowBytes) / elem_bytes_ * elem_bytes_;
    block_.resize(static_cast<size_t>(std::min(whole_bytes, entry_.size_bytes - position_bytes_)));
    QUANTD_RETURN_IF_ERROR(file_->ReadAt(entry_.offset_bytes + position_bytes_, block_));
  }
  if (entry_.order.big_endian) SwapBytes(block_, elem_bytes_);
  return absl::OkStatus();
}

absl::Status TensorReader::Transpose(int64_t begin_elem, int64_t max_elems) {
  const std::span<const int64_t> dims = entry_.desc.shape.dims();
  const Block block = BlockAt(dims, begin_elem, max_elems, kRunBytes / elem_bytes_);
  block_.resize(static_cast<size_t>(block.count * block.rest_elems * elem_bytes_));

  int64_t run_step = 1;  // between elements of a run, in the file
  for (size_t i = 0; i < block.axis; ++i) run_step *= dims[i];
  const int64_t runs_step = run_step * dims[block.axis];  // between runs, in the file
  const bool near = (runs_step - (block.count - 1) * run_step - 1) * elem_bytes_ <= kGapBytes &&
                    run_step * elem_bytes_ <= kGapBytes;
  // As many elements of a run as a window holds.
  const int64_t part_elems =
      std::clamp(near ? kWindowBytes / (run_step * elem_bytes_) : (run_step == 1 ? block.count : 1),
                 int64_t{1}, std::max(int64_t{1}, kWindowBytes / elem_bytes_));
  WindowReader reader(*file_, entry_.offset_bytes, entry_.offset_bytes + entry_.size_bytes, near);
  const CopyFunction copy = CopyFunctionOf(elem_bytes_);

  std::vector<int64_t> idx(dims.size(), 0);  // of the axes after the block's
  int64_t out_elem = 0;                      // of that index, in C order
  const int64_t num_runs = block.rest_elems;
  for (int64_t run = 0; run < num_runs; ++run) {
    for (int64_t i = 0; i < block.count; i += part_elems) {
      const int64_t count = std::min(part_elems, block.count - i);
      const int64_t file_elem = block.file_elem + run * runs_step + i * run_step;
      QUANTD_ASSIGN_OR_RETURN(
          const std::byte* const from,
          reader.At(file_elem * elem_bytes_, ((count - 1) * run_step + 1) * elem_bytes_));
      copy(from, run_step, block_.data() + (out_elem + i * block.rest_elems) * elem_bytes_,
           block.rest_elems, count);
    }
    // The next index in the order of the file: the first of these axes runs fastest.
    int64_t out_step = block.rest_elems;
    for (size_t axis = block.axis + 1; axis < dims.size(); ++axis) {
      out_step /= dims[axis];
      out_elem += out_step;
      if (++idx[axis] < dims[axis]) break;
      out_elem -= dims[axis] * out_step;
      idx[axis] = 0;
    }
  }
  return absl::OkStatus();
}

}  // namespace quantd
