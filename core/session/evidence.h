#ifndef QUANTD_CORE_SESSION_EVIDENCE_H_
#define QUANTD_CORE_SESSION_EVIDENCE_H_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "core/base/mutex.h"
#include "core/calibrate/calibrator.h"
#include "core/session/group_sketches.h"
#include "core/session/stripes.h"
#include "core/session/tiles.h"
#include "core/stats/histogram.h"

// What values show about their groups, gathered stripe by stripe on any threads, the same however
// they are shared out:
//
//   groups that lie within stripes       each stripe writes those that are its own
//   ranges of groups that recur          exact, so each thread widens ranges of its own, which merge
//                                        at the end in any order
//   sums, and ranges of few groups       each stripe has its own, which merge in stripe order
//   histogram                            exact counts, by thread
//   sketches of groups that recur        exact counts, shared by all threads
//
// In a stripe, values are taken by tile and run, so that sums have one shape. Outliers count as 0.

namespace quantd {

struct EvidenceWants {
  bool moments = false;     // mean and m2 beside the ranges
  bool magnitudes = false;  // the sum of magnitudes beside the ranges
  bool histogram = false;   // of all values
  bool sketches = false;    // of the values of each group, which recur
  bool non_finite = false;  // their number

  // True if floats are summed, so that the order counts.
  bool sums() const { return moments || magnitudes; }
};

// Returns the map of one group that is the whole tensor.
GroupMap WholeTensor(int64_t num_elems);

// Adds the values of a tile, elements [begin, + num_elems), to the statistics of their groups:
// `stats[i]` is that of group `first_group` + i. What is not wanted stays 0, and without sums the
// count says only whether there was a value.
template <typename T>
void ScanTile(const T* values, int64_t begin, int64_t num_elems, const GroupMap& groups,
              const EvidenceWants& wants, int64_t first_group, std::span<GroupStats> stats);

// Gathers the evidence of a tensor, or of one long band. Thread-safe as stated.
class EvidenceCollector {
 public:
  // What one stripe has shown that merges in order.
  struct Part {
    int64_t first_group = 0;
    int64_t period = 1;  // the groups from a multiple of it on recur after so many
    std::vector<GroupStats> stats;  // of first_group and those behind it
    int64_t non_finite = 0;
  };

  // Of elements [begin, end) of a tensor, whose stripes are those of `layout`. `groups` is the
  // layout's map or WholeTensor's. Both outlive this.
  EvidenceCollector(const PackedLayout& layout, const GroupMap& groups, int64_t num_elems,
                    DType dtype, const EvidenceWants& wants, int64_t begin, int64_t end);

  // Returns the most memory that collecting takes, Finish and what it returns included.
  static int64_t ResidentBytes(const PackedLayout& layout, const GroupMap& groups,
                               int64_t num_elems, DType dtype, const EvidenceWants& wants,
                               int64_t band_elems, int threads, int64_t stripes_in_flight);

  // Takes one stripe. Any thread, at the same time.
  Part Scan(const Stripe& stripe, const ByteRange& values);
  // Takes the parts in stripe order, one at a time.
  void Merge(const Part& part);

  // When all has been merged: the statistics of the groups, from first_group() on.
  std::vector<GroupStats> TakeStats();
  int64_t first_group() const { return first_group_; }
  int64_t non_finite() const { return non_finite_; }
  // The counts of all values; null if they are not wanted.
  std::unique_ptr<Histogram> TakeHistogram();
  // Those of each group; none if they are not wanted.
  std::vector<Sketch> TakeSketches();

 private:
  enum class Kind { kOwn, kByThread, kInOrder };
  // What a thread gathers for itself.
  struct Slot {
    std::vector<float> mins32, maxs32;
    std::vector<double> mins64, maxs64;
    std::unique_ptr<Histogram> histogram;
  };
  static Kind KindOf(const PackedLayout& layout, const GroupMap& groups, int64_t num_elems,
                     const EvidenceWants& wants);

  template <typename T>
  void ScanAs(const Stripe& stripe, const ByteRange& values, Slot* slot, Part& part);
  std::unique_ptr<Slot> TakeSlot() ABSL_LOCKS_EXCLUDED(mutex_);

  const PackedLayout& layout_;
  const GroupMap& groups_;
  const DType dtype_;
  const EvidenceWants wants_;
  const Kind kind_;
  int64_t first_group_ = 0;
  std::vector<GroupStats> stats_;
  int64_t non_finite_ = 0;
  std::unique_ptr<GroupSketches> sketches_;
  Mutex mutex_;
  std::vector<std::unique_ptr<Slot>> slots_ ABSL_GUARDED_BY(mutex_);  // that no thread has
};

}  // namespace quantd

#endif  // QUANTD_CORE_SESSION_EVIDENCE_H_
