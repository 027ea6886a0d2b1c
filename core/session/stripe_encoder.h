#ifndef QUANTD_CORE_SESSION_STRIPE_ENCODER_H_
#define QUANTD_CORE_SESSION_STRIPE_ENCODER_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/base/digest.h"
#include "core/calibrate/calibrator.h"
#include "core/session/evidence.h"
#include "core/session/outliers.h"
#include "core/session/param_buffer.h"
#include "core/session/planner.h"
#include "core/session/report.h"
#include "core/session/stripes.h"
#include "core/session/tiles.h"

namespace quantd {

// What encoding one stripe has shown, and the memory for it. May be used again.
struct StripeResult {
  Figures figures;
  int64_t clipped = 0;
  int64_t inexact = 0;
  int64_t non_finite = 0;
  std::vector<int64_t> first_non_finite;  // elements of the tensor; at most kMaxNonFiniteListed
  OutlierEntries outliers;
  DigestPart digest;                      // of the codes
  uint32_t crc32c = 0;                    // of them, if wanted

  void Reset();
};

// Encodes stripes of one tensor. Encoding a stripe is a pure function of plan, parameters and values
// (but for the place of a largest error that another stripe exceeds). Thread-safe.
class StripeEncoder {
 public:
  // `ranges` are those of all groups where they are given, else empty. All outlive the encoder.
  StripeEncoder(const Plan& plan, const ChosenCalibrator& calibrator, std::span<const Range> ranges,
                const Importance* importance, bool figures, bool crc);

  // Encodes the stripe's values into `codes`, with parameters that are there: `params`.
  void Encode(const Stripe& stripe, const ByteRange& values, const ParamView& params,
              std::span<std::byte> codes, StripeResult& result) const;

  // The same, and finds the parameters of the stripe's groups, which are its own, into `own`: from
  // the values just before they are encoded, or from ranges that are given.
  void ResolveAndEncode(const Stripe& stripe, const ByteRange& values,
                        const ParamPlanes& constants, std::span<std::byte> codes, ParamBuffer& own,
                        StripeResult& result) const;

  // Returns the ranges of `own`'s groups, which have `stats` and are those of `band`: what is given,
  // or what its `values` show, or `counts` of all of them, or the `sketches` of groups, if there are
  // any (then `values` are not looked at). `own` has room for the groups; `constants` are there
  // where ranges are tried out.
  std::vector<Range> RangesOf(std::span<const GroupStats> stats, const Histogram* counts,
                              std::span<const Sketch> sketches, const Stripe& band,
                              const ByteRange& values,
                              const ParamPlanes& constants, ParamBuffer& own) const;

  // Makes the parameters of `own`'s groups from `found`, their ranges, or, if empty, from given ones.
  void Resolve(const ParamPlanes& constants, std::span<const Range> found, ParamBuffer& own) const;

  // Makes the parameters of `own`'s groups, those of `band`, from its `values`, where the layout's
  // are from_values.
  void ResolveValues(const Stripe& band, const ByteRange& values, const ParamPlanes& constants,
                     ParamBuffer& own) const;

  // Returns the range of group `group`, given or from its statistics.
  Range RangeOf(int64_t group, const GroupStats* stats) const;

 private:
  template <typename T>
  class Run;
  // Calls fn(reader) with the values of a band, without its outliers.
  template <typename Fn>
  void ReadBand(const Stripe& band, const ByteRange& values, Fn fn) const;

  const Plan& plan_;
  const ChosenCalibrator& calibrator_;
  const EvidenceWants wants_;
  const std::span<const Range> ranges_;
  const Importance* const importance_;
  const bool figures_;
  const bool crc_;
  mutable std::atomic<double> max_error_ = 0;  // of the stripes so far
};

// Returns "[1, 2]", the coordinates of element `elem` in `shape`.
std::string CoordinatesText(const Shape& shape, int64_t elem);

}  // namespace quantd

#endif  // QUANTD_CORE_SESSION_STRIPE_ENCODER_H_
