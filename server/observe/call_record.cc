// What is told of a call: counted while it runs, logged in a line when it ends, and sent to its
// client as trailers (server-timing, traceparent, a retry hint). Names, messages and trace contexts
// come from outside: they are checked or escaped here, before anything shows them.
//
// Entry: CallRecord, made when a call is opened; End when it has ended. Tested by
// tests/e2e/test_operation.py and test_metrics.py.
#include "server/observe/call_record.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/status_detail.h"
#include "server/calls/grpc_status.h"

namespace quantd {
namespace {

bool IsLowerHex(absl::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    return absl::ascii_isdigit(static_cast<unsigned char>(c)) || (c >= 'a' && c <= 'f');
  });
}

bool IsZero(absl::string_view text) {
  return text.find_first_not_of('0') == absl::string_view::npos;
}

double Millis(absl::Duration duration) { return absl::ToDoubleMilliseconds(duration); }

// W3C Trace Context, section 3.2.2: | 2 version | - | 32 trace id | - | 16 parent id | - | 2 flags
// |
constexpr size_t kTraceIdBegin = 3, kTraceIdEnd = 35, kParentBegin = 36, kParentEnd = 52,
                 kFlagsBegin = 53, kTraceparentEnd = 55;

CallFacts WithValidTraceparent(CallFacts facts) {
  facts.traceparent = std::string(ValidTraceparent(facts.traceparent));
  return facts;
}

}  // namespace

absl::string_view ValidTraceparent(absl::string_view text) {
  if (text.size() < kTraceparentEnd) return {};
  const absl::string_view version = text.substr(0, 2);
  // Later versions may have more fields, of which nothing is known: those are not passed on.
  const bool known_end =
      text.size() == kTraceparentEnd || (version != "00" && text[kTraceparentEnd] == '-');
  const absl::string_view trace = text.substr(kTraceIdBegin, kTraceIdEnd - kTraceIdBegin);
  const absl::string_view parent = text.substr(kParentBegin, kParentEnd - kParentBegin);
  if (!known_end || version == "ff" || text[kTraceIdBegin - 1] != '-' || text[kTraceIdEnd] != '-' ||
      text[kParentEnd] != '-' || !IsLowerHex(version) || !IsLowerHex(trace) || IsZero(trace) ||
      !IsLowerHex(parent) || IsZero(parent) || !IsLowerHex(text.substr(kFlagsBegin, 2))) {
    return {};
  }
  return text.substr(0, kTraceparentEnd);
}

CallRecord::CallRecord(ServiceContext& context, CallFacts facts)
    : context_(context),
      facts_(WithValidTraceparent(std::move(facts))),
      metrics_(context.metrics.rpc(facts_.rpc)),
      start_(context.now()) {
  context_.active_calls.fetch_add(1);
  if (kind() == CallKind::kHealth) context_.health_calls.fetch_add(1);
  context_.started_calls.fetch_add(1);
  metrics_.CallBegan();
}

CallRecord::~CallRecord() {
  if (kind() == CallKind::kHealth) context_.health_calls.fetch_sub(1);
  context_.active_calls.fetch_sub(1);
}

void CallRecord::AddReceived(int64_t bytes) {
  received_bytes_ += bytes;
  metrics_.AddReceived(bytes);
}

void CallRecord::AddSent(int64_t bytes) {
  sent_bytes_ += bytes;
  metrics_.AddSent(bytes);
}

void CallRecord::AddQueueWait(absl::Duration wait) {
  times_.queue += wait;
  metrics_.AddQueueWait(wait);
}

void CallRecord::AddTimes(absl::Duration statistics, absl::Duration encode) {
  times_.statistics += statistics;
  times_.encode += encode;
}

absl::Status CallRecord::Cancellation() const {
  // A client hangs up when its own deadline passes, which may be before ours: grpc-timeout is
  // rounded up, by at most 1 in 100, and has taken its way.
  const absl::Time until = deadline();
  const absl::Duration allowed = until - start_;
  const absl::Duration early = allowed / 100 + std::min(allowed / 10, absl::Milliseconds(100));
  if (until != absl::InfiniteFuture() && context_.now() >= until - early) {
    return absl::DeadlineExceededError("the call's deadline has passed");
  }
  return absl::CancelledError("the call was cancelled");
}

CallTrailers CallRecord::Trailers(const absl::Status& status) const {
  std::string timing =
      absl::StrFormat("queue;dur=%.3f, statistics;dur=%.3f, encode;dur=%.3f", Millis(times_.queue),
                      Millis(times_.statistics), Millis(times_.encode));
  if (kind() == CallKind::kStream)
    absl::StrAppendFormat(&timing, ", send;dur=%.3f", Millis(times_.send));
  CallTrailers trailers = {{"server-timing", std::move(timing)}};
  if (!facts_.traceparent.empty()) trailers.emplace_back("traceparent", facts_.traceparent);
  if (const std::optional<absl::Duration> delay = RetryAfterOf(status)) {
    trailers.push_back(RetryTrailer(*delay));
  }
  return trailers;
}

void CallRecord::End(const absl::Status& status, absl::string_view summary) {
  const absl::Duration elapsed = context_.now() - start_;
  metrics_.CallEnded(status.code(), elapsed);
  context_.metrics.CountRefusal(status);
  spdlog::logger* const logger = context_.call_logger.get();
  const auto level = kind() == CallKind::kStream ? spdlog::level::info : spdlog::level::debug;
  if (logger == nullptr || !logger->should_log(level)) return;
  logger->log(level, "{}",
              context_.json_log ? JsonFields(status, summary, elapsed)
                                : TextLine(status, summary, elapsed));
}

std::string CallRecord::TextLine(const absl::Status& status, absl::string_view summary,
                                 absl::Duration elapsed) const {
  std::string line = absl::StrCat(
      facts_.rpc, " from ", absl::Utf8SafeCHexEscape(facts_.caller), " at ", facts_.peer, ": ",
      status.ok() ? "OK"
                  : absl::Utf8SafeCHexEscape(absl::StrCat(absl::StatusCodeToString(status.code()),
                                                          ": ", status.message())));
  if (!summary.empty()) absl::StrAppend(&line, "; ", summary);
  absl::StrAppendFormat(&line, "; %d bytes in, %d out, %.3f s", received_bytes_, sent_bytes_,
                        absl::ToDoubleSeconds(elapsed));
  if (!facts_.traceparent.empty()) {
    absl::StrAppend(&line, "; trace ",
                    facts_.traceparent.substr(kTraceIdBegin, kTraceIdEnd - kTraceIdBegin));
  }
  return line;
}

std::string CallRecord::JsonFields(const absl::Status& status, absl::string_view summary,
                                   absl::Duration elapsed) const {
  nlohmann::ordered_json line;
  line["rpc"] = facts_.rpc;
  line["caller"] = absl::Utf8SafeCHexEscape(facts_.caller);
  line["peer"] = facts_.peer;
  line["code"] = absl::StatusCodeToString(status.code());
  if (!status.ok()) line["error"] = std::string(status.message());
  if (!summary.empty()) line["summary"] = std::string(summary);
  line["received_bytes"] = received_bytes_;
  line["sent_bytes"] = sent_bytes_;
  line["elapsed_ms"] = Millis(elapsed);
  line["queue_ms"] = Millis(times_.queue);
  line["statistics_ms"] = Millis(times_.statistics);
  line["encode_ms"] = Millis(times_.encode);
  if (kind() == CallKind::kStream) line["send_ms"] = Millis(times_.send);
  if (!facts_.traceparent.empty()) {
    line["trace_id"] = facts_.traceparent.substr(kTraceIdBegin, kTraceIdEnd - kTraceIdBegin);
  }
  const std::string object = line.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  return object.substr(1, object.size() - 2);  // without its braces: the log adds time and level
}

}  // namespace quantd
