#include "server/observe/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "core/base/status_detail.h"
#include "quantd/v1/quantization.pb.h"

namespace quantd {
namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;
using prometheus::Registry;

// Upper bounds in seconds: from a small unary call to a model of many GiB. Waits for memory have
// the same: they end when such a tensor does.
constexpr double kDurationBuckets[] = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                                       0.5,    1,     2.5,    5,     10,   30,    60,   300, 1800};
constexpr double kWaitBuckets[] = {0.00001, 0.00005, 0.0001, 0.0005, 0.001, 0.005,
                                   0.01,    0.05,    0.1,    0.5,    1,     5};

template <size_t N>
Histogram::BucketBoundaries Buckets(const double (&bounds)[N]) {
  return {bounds, bounds + N};
}

Family<Counter>& AddCounter(Registry& registry, const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
}
Family<Gauge>& AddGauge(Registry& registry, const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
}
Family<Histogram>& AddHistogram(Registry& registry, const char* name, const char* help) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry);
}

const char* NameOf(TensorOutcome::Result result) {
  switch (result) {
    case TensorOutcome::Result::kOk:
      return "ok";
    case TensorOutcome::Result::kFailed:
      return "failed";
    case TensorOutcome::Result::kCancelled:
      return "cancelled";
  }
  return "";
}

// One family for each name.
struct Families {
  explicit Families(Registry& r) : r(r) {}

  Registry& r;
  Family<Counter>& requests =
      AddCounter(r, "quantd_requests_total", "Calls that ended, by RPC and status code");
  Family<Counter>& received =
      AddCounter(r, "quantd_received_bytes_total", "Bytes of request messages");
  Family<Counter>& sent = AddCounter(r, "quantd_sent_bytes_total", "Bytes of response messages");
  Family<Gauge>& active = AddGauge(r, "quantd_active_calls", "Calls that run");
  Family<Histogram>& duration =
      AddHistogram(r, "quantd_request_duration_seconds", "Time from a call's beginning to its end");
  Family<Histogram>& queue_wait =
      AddHistogram(r, "quantd_queue_wait_seconds", "Waits for a worker");
  Family<Histogram>& memory_wait =
      AddHistogram(r, "quantd_memory_wait_seconds",
                   "Waits for memory, of calls that were then served, refused or cancelled");
  Family<Counter>& guard_ends =
      AddCounter(r, "quantd_guard_ended_connections_total",
                 "Connections that were ended for what their peers did, by reason");
  Family<Counter>& tensors =
      AddCounter(r, "quantd_tensors_total", "Tensors that ended, by scheme and outcome");
  Family<Histogram>& tensor_duration =
      AddHistogram(r, "quantd_tensor_duration_seconds",
                   "Time from a tensor's start to its end, of those that were done");
  Family<Counter>& tensor_input =
      AddCounter(r, "quantd_tensor_input_bytes_total", "Bytes of tensors that came in");
  Family<Counter>& tensor_output =
      AddCounter(r, "quantd_tensor_output_bytes_total", "Bytes of tensors that were done");
  Family<Counter>& stripes =
      AddCounter(r, "quantd_stripes_encoded_total", "Stripes of tensors that were encoded");
  Family<Counter>& clipped =
      AddCounter(r, "quantd_clipped_values_total", "Values beyond the outermost code");
  Family<Counter>& non_finite =
      AddCounter(r, "quantd_non_finite_values_total", "NaN and infinities in the input");
  Family<Counter>& refusals =
      AddCounter(r, "quantd_refusals_total", "Calls and tensors refused, by the limit they met");
};

// The counters, and what is read whenever somebody asks.
class Everything final : public prometheus::Collectable {
 public:
  explicit Everything(ServerFacts facts) : facts_(std::move(facts)) {}
  Registry& registry() { return registry_; }
  std::vector<prometheus::MetricFamily> Collect() const override {
    std::vector<prometheus::MetricFamily> families = registry_.Collect();
    const auto add = [&families](const char* name, const char* help, int64_t value) {
      prometheus::MetricFamily& family = families.emplace_back();
      family.name = name;
      family.help = help;
      family.type = prometheus::MetricType::Gauge;
      family.metric.emplace_back().gauge.value = static_cast<double>(value);
    };
    add("quantd_memory_reserved_bytes", "Bytes of the memory budget in use",
        facts_.memory_reserved_bytes());
    add("quantd_waiting_calls", "Calls that wait for memory", facts_.waiting_calls());
    add("quantd_open_connections", "Connections that are open", facts_.open_connections());
    return families;
  }

 private:
  Registry registry_;
  const ServerFacts facts_;
};

}  // namespace

struct RpcMetrics::Impl {
  Impl(Families& families, const std::string& rpc)
      : families(families),
        rpc(rpc),
        ok(families.requests.Add({{"rpc", rpc}, {"code", "OK"}})),
        received(families.received.Add({{"rpc", rpc}})),
        sent(families.sent.Add({{"rpc", rpc}})),
        active(families.active.Add({{"rpc", rpc}})),
        duration(families.duration.Add({{"rpc", rpc}}, Buckets(kDurationBuckets))),
        queue_wait(families.queue_wait.Add({{"rpc", rpc}}, Buckets(kWaitBuckets))),
        memory_wait(families.memory_wait.Add({{"rpc", rpc}}, Buckets(kDurationBuckets))) {}

  Families& families;
  const std::string rpc;
  Counter& ok;
  Counter& received;
  Counter& sent;
  Gauge& active;
  Histogram& duration;
  Histogram& queue_wait;
  Histogram& memory_wait;
};

struct Metrics::Impl {
  explicit Impl(const ServerFacts& facts)
      : everything(std::make_shared<Everything>(facts)), families(everything->registry()) {
    Registry& registry = everything->registry();
    AddGauge(registry, "quantd_build_info", "What runs here; always 1")
        .Add({{"version", facts.version},
              {"build", facts.build},
              {"simd_target", facts.simd_target},
              {"blas_core", facts.blas_core}})
        .Set(1);
    AddGauge(registry, "quantd_start_time_seconds", "When the server started, in UNIX time")
        .Add({})
        .Set(absl::ToDoubleSeconds(facts.start - absl::UnixEpoch()));
    AddGauge(registry, "quantd_memory_limit_bytes", "The memory budget")
        .Add({})
        .Set(static_cast<double>(facts.memory_limit_bytes));
    const auto* service = v1::QuantizeRequest::descriptor()->file()->service(0);
    for (int i = 0; i < service->method_count(); ++i) {
      const std::string& name = service->method(i)->name();
      rpc_impls.push_back(std::make_unique<RpcMetrics::Impl>(families, name));
      rpcs[name].impl_ = rpc_impls.back().get();
    }
  }

  const std::shared_ptr<Everything> everything;
  Families families;
  std::vector<std::unique_ptr<RpcMetrics::Impl>> rpc_impls;
  std::map<std::string, RpcMetrics, std::less<>> rpcs;
};

Metrics::Metrics() = default;
Metrics::~Metrics() = default;

void Metrics::TurnOn(const ServerFacts& facts) { impl_ = std::make_unique<Impl>(facts); }

RpcMetrics& Metrics::rpc(absl::string_view name) {
  if (impl_ == nullptr) return off_;
  const auto found = impl_->rpcs.find(name);
  return found == impl_->rpcs.end() ? off_ : found->second;
}

void Metrics::CountRefusal(const absl::Status& status) {
  if (impl_ == nullptr) return;
  const std::optional<LimitDetail> limit = LimitOf(status);
  if (limit.has_value()) impl_->families.refusals.Add({{"reason", limit->name}}).Increment();
}

void Metrics::AddGuardReason(absl::string_view reason) {
  if (impl_ != nullptr) impl_->families.guard_ends.Add({{"reason", std::string(reason)}});
}

void Metrics::CountGuardEnd(absl::string_view reason) {
  if (impl_ == nullptr) return;
  impl_->families.guard_ends.Add({{"reason", std::string(reason)}}).Increment();
}

std::shared_ptr<prometheus::Collectable> Metrics::collectable() const {
  return impl_ == nullptr ? nullptr : impl_->everything;
}

std::string Metrics::Text() const {
  return impl_ == nullptr ? "" : prometheus::TextSerializer().Serialize(collectable()->Collect());
}

void RpcMetrics::CallBegan() {
  if (impl_ != nullptr) impl_->active.Increment();
}

void RpcMetrics::CallEnded(absl::StatusCode code, absl::Duration elapsed) {
  if (impl_ == nullptr) return;
  impl_->active.Decrement();
  impl_->duration.Observe(absl::ToDoubleSeconds(elapsed));
  if (code == absl::StatusCode::kOk) {
    impl_->ok.Increment();
  } else {
    impl_->families.requests.Add({{"rpc", impl_->rpc}, {"code", absl::StatusCodeToString(code)}})
        .Increment();
  }
}

void RpcMetrics::AddReceived(int64_t bytes) {
  if (impl_ != nullptr) impl_->received.Increment(static_cast<double>(bytes));
}

void RpcMetrics::AddSent(int64_t bytes) {
  if (impl_ != nullptr) impl_->sent.Increment(static_cast<double>(bytes));
}

void RpcMetrics::AddQueueWait(absl::Duration wait) {
  if (impl_ != nullptr) impl_->queue_wait.Observe(absl::ToDoubleSeconds(wait));
}

void RpcMetrics::AddMemoryWait(absl::Duration wait) {
  if (impl_ != nullptr) impl_->memory_wait.Observe(absl::ToDoubleSeconds(wait));
}

void RpcMetrics::TensorEnded(const TensorOutcome& outcome) {
  if (impl_ == nullptr) return;
  Families& families = impl_->families;
  const std::string scheme(outcome.scheme.empty() ? "none" : outcome.scheme);
  const prometheus::Labels labels = {{"rpc", impl_->rpc}, {"scheme", scheme}};
  const auto add = [](Family<Counter>& family, const prometheus::Labels& labels, int64_t count) {
    family.Add(labels).Increment(static_cast<double>(count));
  };
  families.tensors
      .Add({{"rpc", impl_->rpc}, {"scheme", scheme}, {"outcome", NameOf(outcome.result)}})
      .Increment();
  if (outcome.scheme.empty()) return;
  if (outcome.result == TensorOutcome::Result::kOk) {
    families.tensor_duration.Add(labels, Buckets(kDurationBuckets))
        .Observe(absl::ToDoubleSeconds(outcome.elapsed));
  }
  add(families.tensor_input, labels, outcome.input_bytes);
  add(families.tensor_output, labels, outcome.output_bytes);
  add(families.stripes, {{"scheme", scheme}}, outcome.stripes);
  add(families.clipped, {{"scheme", scheme}}, outcome.clipped);
  add(families.non_finite, {{"scheme", scheme}}, outcome.non_finite);
}

}  // namespace quantd
