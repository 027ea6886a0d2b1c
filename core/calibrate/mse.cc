// mse: a group's range is that part of [min, max], [f * min, f * max], whose codes have the least
// sum of squared errors, of the scheme itself: its levels, its rounding, its stored scale.
//
//   f = 1, 2^-1/2, 2^-1 .. 2^-7/2           while the error falls; g: the last that fell
//   f = g 2^-1/8, g 2^-2/8, g 2^-3/8        likewise; if not even the first did, and g < 1,
//   f = g 2^1/8, g 2^2/8, g 2^3/8           likewise
//
// So it walks down a valley, first in steps of half an octave, then in eighths, which finds f
// within 2^1/8 of the lowest place of the first one: clipping costs ever more, rounding ever less,
// so that what is bell-shaped has a single one. int4 of 128 normal values takes f of about 0.8 to
// 0.9 and has a sixth less error than minmax. A value of 100 among them is not clipped: it alone
// would cost more than all others. Percentiles are for that.
//
// Codes are made and read 3 to 7 times, the dearest way to a range. A tensor's only group is tried
// out on what counts of its values stand for (stats/histogram.h), some thousand instead of all.
// round=stochastic is tried out as half_even: its noise says nothing of a range.
//
// Entries: mse_calibrator, ClipSearch. Tested by tests/core/calibrate/mse_test.cc and
// tests/core/session/value_ranges_test.cc.
#include <array>
#include <cstddef>

#include "core/calibrate/calibrator.h"
#include "core/calibrate/clip_search.h"

namespace quantd {
namespace {

constexpr double kRootHalf = 0.70710678118654752440;
// 2^(-i/2), and 2^(-j/8) and 2^(j/8), j = 1 .. 3: the nearest f64.
constexpr std::array<double, 8> kOctaves = {1,    kRootHalf,     0.5,   kRootHalf / 2,
                                            0.25, kRootHalf / 4, 0.125, kRootHalf / 8};
constexpr std::array<double, 3> kInward = {0.91700404320467123174, 0.84089641525371454303,
                                           0.77110541270397041179};
constexpr std::array<double, 3> kOutward = {1.09050773266525765921, 1.18920711500272106672,
                                            1.29683955465100966593};

}  // namespace

void ClipSearch::Take(double error) {
  if (done()) return;
  const bool is_less = phase_ == Phase::kFirst || error < least_;
  if (is_less) {
    least_ = error;
    best_ = tried_;
  }
  Step(is_less);
  if (done()) tried_ = best_;
}

void ClipSearch::Step(bool is_less) {
  const auto size = [](const auto& steps) { return static_cast<int>(steps.size()); };
  if (phase_ == Phase::kFirst || phase_ == Phase::kOctaves) {
    phase_ = Phase::kOctaves;
    if (is_less && ++step_ < size(kOctaves)) {
      tried_ = kOctaves[static_cast<size_t>(step_)];
      return;
    }
    middle_ = best_;
    phase_ = Phase::kInward;
    step_ = 0;
    tried_ = middle_ * kInward[0];
    return;
  }
  if (is_less && ++step_ < size(kInward)) {
    tried_ = middle_ * (phase_ == Phase::kInward ? kInward : kOutward)[static_cast<size_t>(step_)];
  } else if (phase_ == Phase::kInward && step_ == 0 && middle_ < 1) {
    phase_ = Phase::kOutward;
    tried_ = middle_ * kOutward[0];
  } else {
    phase_ = Phase::kDone;
  }
}

const Calibrator& mse_calibrator() {
  static constexpr Calibrator kCalibrator = {
      .name = "mse",
      .text = "mse",
      .summary = "the part of minmax whose codes have the least squared error",
      .needs_moments = false,
      .is_minmax = false,
      .parse = [](absl::string_view text) -> std::optional<double> {
        if (text != "mse") return std::nullopt;
        return 0.0;
      },
      .range = RangeOfExtremes,
      .needs_values = true,
      .tries = true};
  return kCalibrator;
}

}  // namespace quantd
