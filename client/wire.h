#ifndef QUANTD_CLIENT_WIRE_H_
#define QUANTD_CLIENT_WIRE_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/types.h"
#include "proto/frame_codec.h"
#include "quantd/v1/quantization.pb.h"

namespace quantd {

// Returns the message of a frame; kDataLoss if it cannot be read.
template <typename Message>
absl::StatusOr<Message> ParseMessage(const ParsedFrame& frame) {
  Message message;
  if (!message.ParseFromString(frame.message)) {
    return absl::DataLossError("the server sent a frame that cannot be read");
  }
  return message;
}

// kDataLoss unless the server speaks of the tensor that it was asked for.
absl::Status CheckEcho(const v1::TensorDescriptor& echo, const TensorDesc& asked);

// Returns the server's plan for `tensor`; kDataLoss if it cannot be one: no planes, two of one
// name, sizes that do not follow from the shapes or do not add up.
absl::StatusOr<TensorPlan> ReadPlan(const v1::QuantizationPlan& plan, const TensorDesc& tensor);

// True if name, type, shape and size are equal.
bool SamePlane(const PlaneDesc& a, const PlaneDesc& b);

absl::Duration ReadDuration(const google::protobuf::Duration& duration);

}  // namespace quantd

#endif  // QUANTD_CLIENT_WIRE_H_
