#ifndef QUANTD_CLIENT_TYPES_H_
#define QUANTD_CLIENT_TYPES_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "client/byte_source.h"
#include "client/cancellation.h"
#include "client/plane_sink.h"
#include "core/scheme/scheme.h"
#include "core/scheme/spec.h"
#include "core/session/calibration.h"
#include "core/session/planner.h"
#include "core/session/report.h"
#include "core/tensor/shape.h"

namespace quantd {

// What a server makes of a tensor and a spec, before it has seen a value.
struct TensorPlan {
  std::string resolved_spec;
  std::vector<PlaneDesc> planes;  // codes first; of the roles only kCodes means something
  Pass pass = Pass::kStatic;
  int64_t input_bytes = 0;
  int64_t output_bytes = 0;    // of all planes
  int64_t resident_bytes = 0;  // what the server holds at most
  int64_t num_groups = 0;
  std::string fallback_reason;  // why the spec's `incompatible` scheme was taken; empty: it was not
};

// What came of one quantized tensor.
struct QuantizedInfo {
  TensorPlan plan;
  EncodingReport report;             // digests in the order of plan.planes
  absl::Duration elapsed, encoding;  // the server's
  bool two_pass = false;             // ranges were found by a pass of its own
  int attempts = 1;
};

// What came of one dequantized tensor.
struct DequantizedInfo {
  std::vector<std::string> plane_digests;  // in the order of the planes that went in
  std::string values_digest;
  int64_t saturated = 0;  // finite values that the output type does not hold: its largest instead
};

// What calibrating a tensor gave.
struct CalibrationInfo {
  std::string resolved_spec;
  CalibratedRanges ranges;
  CalibrationState state;
};

// One tensor to quantize. `source` and `sink` outlive the call.
struct QuantizeJob {
  TensorDesc tensor;
  QuantSpec spec;
  ByteSource* source = nullptr;
  PlaneSink* sink = nullptr;
  std::optional<CalibratedRanges> ranges;  // of an earlier Calibrate
  // Weights of the columns, or of each batch and column, for schemes that take them; none: all the
  // same. Finite and not negative.
  std::vector<float> importance;
  std::optional<TensorPlan> plan;          // of an earlier Plan; absent: the call asks for it
  // Levels, ascending and finite, for schemes that take them, instead of learned ones; none: these.
  std::vector<float> codebook;
};

// One plane of a packed tensor.
struct PlaneInput {
  std::string name;
  ByteSource* source = nullptr;
};

// One tensor to turn back into values. The sources and `sink` outlive the call.
struct DequantizeJob {
  TensorDesc tensor;                 // the original's name, type, shape
  QuantSpec spec;                    // the resolved one
  DType output_dtype = DType::kF32;  // f64, f32, f16, bf16
  std::vector<PlaneInput> planes;    // codes first
  PlaneSink* sink = nullptr;         // gets one plane, "values"
};

// How calls are made.
struct CallOptions {
  // When the whole call ends with kDeadlineExceeded.
  absl::Time deadline = absl::InfiniteFuture();
  // How often what fails with kUnavailable is asked for in all, a tensor where its source rewinds
  // and its sink restarts; the first pause before that, doubled each time up to a second: a server
  // that restarts has 4 s at least.
  int max_attempts = 8;
  absl::Duration first_backoff = absl::Milliseconds(200);
  // For how long what a crowded server refuses is asked for again, whenever the server says.
  absl::Duration crowd_patience = absl::Minutes(2);
  // Tensors on the way at once on a stream, and streams.
  int tensors_in_flight = 32;
  int streams = 1;
  // Payload of a frame each way, at most 4 MiB; 0: adapts to what the connection carries, between
  // 256 KiB and 4 MiB. The result does not depend on it.
  int64_t chunk_bytes = 0;
  // Ends the call when it says so, with kCancelled; null: nothing does. Outlives the call.
  Cancellation* cancellation = nullptr;
  // Called when bytes of sources go out, with their number; negative: so many will go again. By
  // threads of the call, several at once where there are several streams; null: nobody asks.
  std::function<void(int64_t bytes)> on_sent;
  bool figures = true;
  // CRC32C of every chunk that goes over a socket, both ways.
  bool checksums = true;
};

}  // namespace quantd

#endif  // QUANTD_CLIENT_TYPES_H_
