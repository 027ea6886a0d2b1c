#ifndef QUANTD_CORE_EXEC_PIECE_H_
#define QUANTD_CORE_EXEC_PIECE_H_

#include <cstddef>
#include <memory>
#include <span>

namespace quantd {

// Bytes and what keeps them alive: a slice of a received message, a range of shared memory, a file
// mapping, an array of the caller's. Cheap to copy. Thread-compatible; `keeper` may be let go on any
// thread.
struct Piece {
  std::span<const std::byte> bytes;
  // Null: whoever gave the piece keeps the bytes until the session has ended.
  std::shared_ptr<const void> keeper;
  // The memory is wanted back soon: bytes that cannot be worked on yet are copied.
  bool scarce = false;

  // True where the bytes may be kept for as long as wanted; what is lent is let go when it is read.
  bool owned() const { return keeper == nullptr; }
};

}  // namespace quantd

#endif  // QUANTD_CORE_EXEC_PIECE_H_
