#ifndef QUANTD_CORE_SCHEME_BLOCK_H_
#define QUANTD_CORE_SCHEME_BLOCK_H_

#include "absl/status/statusor.h"
#include "core/scheme/scheme.h"

namespace quantd {

// Returns the layout of rows (the last dimension) cut into blocks of `block_elems` values that take
// `block_bytes`: plane "codes", uint8 [.., blocks per row * block_bytes]. Under tail=reject rows
// must be whole blocks; under tail=pad the last block of a row is filled with zeros. There are no
// groups; layouts whose blocks take parameters add theirs.
absl::StatusOr<PackedLayout> PlanRowBlocks(Tail tail, const Shape& shape, int64_t block_elems,
                                           int64_t block_bytes);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_BLOCK_H_
