#include "core/session/stripe_session.h"

#include <chrono>

// Tested by tests/core/session/session_faults_test.cc, dequantize_faults_test.cc and by those of
// each kind of session.

namespace quantd {

void StripeSession::EndInput() {
  jobs_->Change([this] { CheckEnd(); });
}

void StripeSession::FailInput(const absl::Status& status) {
  jobs_->Wake([&] { input_.Fail(status); });
}

void StripeSession::Ready() {
  jobs_->Wake([this] { sink_is_full_ = false; });
}

void StripeSession::TakeIn(absl::FunctionRef<void()> take) {
  std::vector<Piece> settled;  // let go of when the lock is released
  jobs_->Change([&] {
    take();
    if (!HasStripe()) settled = input_.Settle();
  });
}

SessionWork StripeSession::work() const {
  SessionWork work;
  work.stripes = stripes_.load();
  work.statistics = std::chrono::nanoseconds(statistics_ns_.load());
  work.encoding = std::chrono::nanoseconds(encoding_ns_.load());
  return work;
}

std::optional<std::span<std::byte>> StripeSession::AcquireFrom(PayloadSink& sink,
                                                               int64_t offset_bytes,
                                                               int64_t size_bytes) {
  if (size_bytes == 0) return std::span<std::byte>();
  const SinkMemory memory = sink.Acquire(offset_bytes, size_bytes);
  if (!memory.ok()) {
    no_memory_ = memory.status();
    return std::nullopt;
  }
  sink_is_full_ = !memory->has_value();
  return *memory;
}

std::unique_ptr<Job> StripeSession::Next() {
  if (failed_) return nullptr;
  if (MayBegin()) {
    if (std::unique_ptr<StripeJob> job = Begin(); job != nullptr) {
      if (!HasStripe()) job->settled = input_.Settle();  // what is left of a piece
      return job;
    }
  }
  if (no_memory_.ok() && !MayFail()) return nullptr;
  failed_ = true;
  return std::make_unique<FailingJob>(no_memory_.ok() ? input_.error() : no_memory_);
}

void StripeSession::Recycle(std::unique_ptr<Job> job) {
  if (job->reusable()) spare_.push_back(std::move(job));
}

}  // namespace quantd
