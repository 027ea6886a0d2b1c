#ifndef QUANTD_SERVER_OBSERVE_SPARSE_LOG_H_
#define QUANTD_SERVER_OBSERVE_SPARSE_LOG_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/time/time.h"

namespace quantd {

// Says of events that peers can cause at will no more than a line a second: of the last one, with the
// number of those that nobody was told of. Nothing is lost if Rest is called every now and then.
// Has no clock. Not thread-safe.
class SparseLog {
 public:
  // Writes a line: of `events` of them, the one that counts here is `last`.
  using WriteFn = absl::FunctionRef<void(const std::string& last, int64_t events)>;

  // Counts an event, and has it written unless that is too early.
  void Add(std::string what, absl::Time now, WriteFn write) {
    last_ = std::move(what);
    ++unwritten_;
    Rest(now, write);
  }

  // Has those written for which it was too early.
  void Rest(absl::Time now, WriteFn write) {
    constexpr absl::Duration kEvery = absl::Seconds(1);
    // A clock that was set back does not silence it.
    const bool is_early = now >= written_at_ && now - written_at_ < kEvery;
    if (unwritten_ == 0 || is_early) return;
    write(last_, std::exchange(unwritten_, 0));
    written_at_ = now;
  }

 private:
  std::string last_;
  int64_t unwritten_ = 0;
  absl::Time written_at_ = absl::InfinitePast();
};

}  // namespace quantd

#endif  // QUANTD_SERVER_OBSERVE_SPARSE_LOG_H_
