#ifndef QUANTD_TESTS_SIM_SIM_TENSOR_H_
#define QUANTD_TESTS_SIM_SIM_TENSOR_H_

#include <grpcpp/support/byte_buffer.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/scheme/scheme.h"
#include "core/tensor/shape.h"
#include "proto/frame_codec.h"
#include "quantd/v1/quantization.pb.h"
#include "tests/sim/dice.h"

namespace quantd::sim {

// Returns a message with a byte changed, most often in its head, where the fields are.
grpc::ByteBuffer Garbled(Dice& dice, const grpc::ByteBuffer& message);
std::string BytesOf(const grpc::ByteBuffer& buffer);

enum class Rpc { kQuantize, kDequantize, kCalibrate, kUnaryQuantize };

// What goes to the server for one tensor, and what has to come back: made by one session at once.
struct Exchange {
  TensorDesc tensor;
  std::string spec;
  std::vector<std::pair<std::string, std::vector<std::byte>>> inputs;  // planes, as they are sent
  std::map<std::string, std::vector<std::byte>> outputs;               // planes
  std::map<std::string, std::string> digests;                          // of planes that come back
  std::string end;                                                     // calibrate: the response
  v1::QuantizationPlan plan;
};

// Tensors of one stripe and of several, of all passes; the same one for the same arguments.
inline constexpr int64_t kNumTensors = 11;
std::shared_ptr<const Exchange> MakeExchange(Rpc rpc, int64_t number);

// One tensor on a stream, on the peer's side.
class SimTensor {
 public:
  // `strict`: nothing but what has to come may come.
  SimTensor(Rpc rpc, uint64_t id, int64_t number, bool strict)
      : rpc_(rpc),
        id_(id),
        number_(number),
        strict_(strict),
        exchange_(MakeExchange(rpc, number)) {}

  // Returns its frames: start, chunks cut anywhere, end. `damaged`: some checksums are wrong.
  // Of a unary call, its request.
  std::vector<grpc::ByteBuffer> Frames(Dice& dice, bool damaged) const;

  // Takes a response frame of it; returns what is wrong, or nothing.
  std::string Take(const ParsedFrame& frame);
  // The same for the one answer of calibration, or of a unary call.
  std::string TakeResponse(const std::string& response);
  // The same for all planes, as a client has put them together.
  std::string Compare(const std::vector<PlaneDesc>& planes,
                      const std::vector<std::vector<std::byte>>& bytes) const;
  // A client has been told how it ended.
  void Note(bool is_done) { (is_done ? done_ : failed_) = true; }

  const Exchange& exchange() const { return *exchange_; }

  uint64_t id() const { return id_; }
  int64_t number() const { return number_; }
  bool done() const { return done_; }
  bool failed() const { return failed_; }
  bool over() const { return done_ || failed_; }

 private:
  grpc::ByteBuffer StartFrame(Dice& dice) const;
  grpc::ByteBuffer Request(bool damaged) const;
  FrameFields fields() const;
  std::string TakeChunk(const ParsedFrame& frame);
  std::string TakeEnd(const std::string& message);
  std::string TakeWhole(const std::string& bytes);

  Rpc rpc_;
  uint64_t id_;
  int64_t number_;
  bool strict_;
  std::shared_ptr<const Exchange> exchange_;
  std::map<std::string, std::vector<std::byte>> received_;
  bool started_ = false, done_ = false, failed_ = false;
};

}  // namespace quantd::sim

#endif  // QUANTD_TESTS_SIM_SIM_TENSOR_H_
