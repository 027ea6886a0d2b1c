#include "client/cli/progress.h"

#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/cli/table.h"
#include "client/cli/text.h"

namespace quantd::cli {
namespace {

constexpr absl::Duration kTerminalInterval = absl::Milliseconds(80);
constexpr absl::Duration kLineInterval = absl::Seconds(5);
constexpr size_t kBarColumns = 28, kLeastBarColumns = 8;

}  // namespace

std::string ProgressLine(const std::string& what, double part, std::vector<std::string> parts,
                         size_t columns) {
  std::string text = absl::StrCat(what, " ", absl::StrJoin(parts, "  "));
  while (text.size() > columns && parts.size() > 1) {
    parts.pop_back();
    text = absl::StrCat(what, " ", absl::StrJoin(parts, "  "));
  }
  if (text.size() > columns) return text.substr(0, columns);
  const size_t room = columns - text.size();
  constexpr size_t kFrame = 3;  // brackets and a space
  if (room < kLeastBarColumns + kFrame) return text;
  const size_t bar = std::min(kBarColumns, room - kFrame);
  const size_t full = std::min(bar, static_cast<size_t>(part * static_cast<double>(bar)));
  return absl::StrCat(what, " [", std::string(full, '#'), std::string(bar - full, '.'), "] ",
                      absl::StrJoin(parts, "  "));
}

Progress::Progress(std::string what, int64_t total_bytes, bool quiet)
    : what_(std::move(what)),
      quiet_(quiet),
      terminal_(isatty(STDERR_FILENO) == 1),
      start_(absl::Now()),
      total_bytes_(total_bytes),
      next_(start_ + (terminal_ ? kTerminalInterval : kLineInterval)) {}

Progress::~Progress() {
  MutexLock lock(&mutex_);
  if (drawn_ && terminal_) fputs("\r\033[K", stderr);
}

void Progress::Add(int64_t bytes) {
  MutexLock lock(&mutex_);
  done_bytes_ += bytes;
  const absl::Time now = absl::Now();
  if (!quiet_ && now >= next_) Draw(now);
}

void Progress::Skip(int64_t bytes) {
  MutexLock lock(&mutex_);
  total_bytes_ -= bytes;
}

void Progress::Draw(absl::Time now) {
  next_ = now + (terminal_ ? kTerminalInterval : kLineInterval);
  drawn_ = true;
  const double part =
      total_bytes_ <= 0
          ? 1
          : std::min(1.0, static_cast<double>(done_bytes_) / static_cast<double>(total_bytes_));
  const absl::Duration spent = now - start_;
  const absl::Duration left = part > 0 ? spent * ((1 - part) / part) : absl::InfiniteDuration();
  const std::string left_text = part == 0                 ? "?"
                                : left < absl::Seconds(1) ? "<1 s"
                                                          : HumanTime(left);
  // From what matters most to what may be left out.
  const std::vector<std::string> parts = {
      absl::StrFormat("%3.0f %%", part * 100), absl::StrCat(left_text, " left"),
      HumanRate(done_bytes_, spent),
      absl::StrCat(HumanBytes(done_bytes_), " of ", HumanBytes(total_bytes_))};
  if (!terminal_) {
    absl::FPrintF(stderr, "%s: %s\n", what_, absl::StrJoin(parts, "  "));
    return;
  }
  // The last column stays free: a terminal may wrap there.
  const size_t columns = std::max<size_t>(ColumnsOfOutput(STDERR_FILENO), 2) - 1;
  absl::FPrintF(stderr, "\r\033[K%s", ProgressLine(what_, part, parts, columns));
  fflush(stderr);
}

}  // namespace quantd::cli
