#include "client/file_source.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "core/base/status_macros.h"

namespace quantd {

absl::StatusOr<SourcePiece> FileSource::Next(int64_t max_bytes) {
  const auto wanted = static_cast<size_t>(std::min(max_bytes, reader_.left_bytes()));
  if (wanted == 0) return SourcePiece{};
  // Not make_shared<[]>: that would zero the memory first.
  std::shared_ptr<std::byte[]> buffer(new std::byte[wanted]);
  QUANTD_ASSIGN_OR_RETURN(const size_t got, reader_.Read({buffer.get(), wanted}));
  return SourcePiece{{buffer.get(), got}, std::move(buffer)};
}

absl::Status FileSource::Rewind() {
  reader_.Rewind();
  return absl::OkStatus();
}

}  // namespace quantd
