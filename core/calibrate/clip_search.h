#ifndef QUANTD_CORE_CALIBRATE_CLIP_SEARCH_H_
#define QUANTD_CORE_CALIBRATE_CLIP_SEARCH_H_

#include "core/scheme/spec.h"

namespace quantd {

// Looks for the part of a range whose codes have the least squared error (mse.cc). Who has the
// values tries out `range`, and tells the error by Take, until it is done.
class ClipSearch {
 public:
  static constexpr int kMaxTrials = 12;

  // `bounds` are those of the values.
  explicit ClipSearch(const Range& bounds) : bounds_(bounds) {}

  bool done() const { return phase_ == Phase::kDone; }
  // Returns the range to be tried, and when done the best one.
  Range range() const { return {bounds_.min * tried_, bounds_.max * tried_}; }
  // Takes the sum of squared errors with it; ignored when done.
  void Take(double error);

 private:
  enum class Phase { kFirst, kOctaves, kInward, kOutward, kDone };

  void Step(bool is_less);

  Range bounds_;
  double tried_ = 1, best_ = 1, middle_ = 1;  // fractions
  double least_ = 0;                          // the error of best_
  Phase phase_ = Phase::kFirst;
  int step_ = 0;
};

}  // namespace quantd

#endif  // QUANTD_CORE_CALIBRATE_CLIP_SEARCH_H_
