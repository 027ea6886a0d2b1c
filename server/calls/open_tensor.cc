// Tested by tests/server/bad_input_test.cc.
#include "server/calls/open_tensor.h"

#include <span>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "core/base/status_macros.h"

namespace quantd {
namespace {

// Checks that `chunk` is the next one of `plane`, and counts it.
absl::Status CountChunk(const ReceivedChunk& chunk, IncomingPlane& plane) {
  if (chunk.offset < 0) {
    return absl::InvalidArgumentError(absl::StrCat("chunk of plane ", plane.name, " has offset=",
                                                   chunk.offset, ", which is negative"));
  }
  if (chunk.offset > plane.size_bytes || chunk.size_bytes > plane.size_bytes - chunk.offset) {
    return absl::OutOfRangeError(absl::StrCat("chunk of plane ", plane.name, " with offset=",
                                              chunk.offset, " and ", chunk.size_bytes,
                                              " bytes goes past the end of its ", plane.size_bytes,
                                              " bytes"));
  }
  if (chunk.offset != plane.received_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "chunk of plane ", plane.name, " with offset=", chunk.offset,
        chunk.offset < plane.received_bytes ? " comes twice or overlaps" : " is out of order",
        "; the next is offset=", plane.received_bytes));
  }
  plane.received_bytes += chunk.size_bytes;
  return absl::OkStatus();
}

}  // namespace

std::vector<IncomingPlane> IncomingPlanes(const Plan& plan) {
  std::vector<IncomingPlane> planes;
  for (const PlaneDesc& plane : plan.resolved.layout.planes) {
    planes.push_back({plane.name, plane.size_bytes, 0});
  }
  return planes;
}

absl::StatusOr<int> FindPlane(const std::vector<IncomingPlane>& planes, absl::string_view name) {
  for (size_t i = 0; i < planes.size(); ++i) {
    if (planes[i].name == name) return static_cast<int>(i);
  }
  return absl::NotFoundError(absl::StrCat(
      "unknown plane \"", absl::CHexEscape(name),
      "\"; known: ", absl::StrJoin(planes, ", ", [](std::string* out, const IncomingPlane& plane) {
        absl::StrAppend(out, plane.name);
      })));
}

OpenTensor::OpenTensor(const Plan& plan, std::vector<IncomingPlane> planes)
    : planes_(std::move(planes)) {
  ended_.scheme = plan.scheme->info.name;
}

absl::Status OpenTensor::Accept(ReceivedChunk chunk) {
  int plane = 0;
  if (!chunk.plane.empty() || planes_.size() > 1) {
    QUANTD_ASSIGN_OR_RETURN(plane, FindPlane(planes_, chunk.plane));
  }
  QUANTD_RETURN_IF_ERROR(CountChunk(chunk, planes_[static_cast<size_t>(plane)]));
  for (Piece& piece : chunk.pieces) Push(plane, std::move(piece));
  return absl::OkStatus();
}

void OpenTensor::PushWhole(int plane, const std::string& bytes) {
  planes_[static_cast<size_t>(plane)].received_bytes = std::ssize(bytes);
  Push(plane, {std::as_bytes(std::span(bytes.data(), bytes.size())), nullptr});
}

TensorOutcome OpenTensor::outcome() {
  TensorOutcome outcome = ended_;
  for (const IncomingPlane& plane : planes_) outcome.input_bytes += plane.received_bytes;
  const SessionWork work = session().work();
  outcome.statistics = absl::FromChrono(work.statistics);
  outcome.encode = absl::FromChrono(work.encoding);
  outcome.elapsed = absl::FromChrono(elapsed());
  return outcome;
}

}  // namespace quantd
