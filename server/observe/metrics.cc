// What the server counts, by prometheus-cpp.
//
//   Families     one of each name with labels; counted where things happen, by reference where that
//                is often (RpcMetrics::Impl: an increment, no look-up)
//   Everything   these, and what others know and is read when somebody asks (ServerFacts)
//
// Every series whose labels are known is there from the start, as 0: a rate over a counter that
// comes with its first event misses that event. Labels have bounded values: RPCs of the service,
// schemes of the registry, codes, limits. While nothing is turned on, all is a test of a pointer.
//
// A call is counted when it is over for the server, a moment after its client has the answer.
// Tested by tests/e2e/test_metrics.py.
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
#include "core/scheme/registry.h"
#include "quantd/v1/quantization.pb.h"
#include "server/observe/process_status.h"

namespace quantd {
namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Registry;

// Upper bounds in seconds: from a small unary call to a model of many GiB. Waits for memory have
// the same: they end when such a tensor does.
constexpr double kDurationBuckets[] = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                                       0.5,    1,     2.5,    5,     10,   30,    60,   300, 1800};
constexpr double kWaitBuckets[] = {0.00001, 0.00005, 0.0001, 0.0005, 0.001, 0.005,
                                   0.01,    0.05,    0.1,    0.5,    1,     5};

template <size_t N>
prometheus::Histogram::BucketBoundaries Buckets(const double (&bounds)[N]) {
  return {bounds, bounds + N};
}

Family<Counter>& AddCounter(Registry& registry, const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
}
Family<Gauge>& AddGauge(Registry& registry, const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
}
Family<prometheus::Histogram>& AddHistogram(Registry& registry, const char* name,
                                            const char* help) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry);
}

// Of tensors that did not get so far as to have one.
constexpr char kNoScheme[] = "none";
// The limits that statuses name (WithLimit); a test compares.
constexpr const char* kRefusalReasons[] = {"caller_streams",      "failed_tensors",
                                           "memory_bytes",        "message_bytes",
                                           "metadata_bytes",      "open_tensors",
                                           "tensor_memory_bytes", "unary_response_bytes",
                                           "waiting_room_bytes"};
constexpr int kMaxStatusCode = static_cast<int>(absl::StatusCode::kUnauthenticated);

std::string CodeName(int code) {
  return absl::StatusCodeToString(static_cast<absl::StatusCode>(code));
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
  Family<prometheus::Histogram>& duration =
      AddHistogram(r, "quantd_request_duration_seconds", "Time from a call's beginning to its end");
  Family<prometheus::Histogram>& queue_wait =
      AddHistogram(r, "quantd_queue_wait_seconds", "Waits for a worker");
  Family<prometheus::Histogram>& memory_wait =
      AddHistogram(r, "quantd_memory_wait_seconds",
                   "Waits for memory, of calls that were then served, refused or cancelled");
  Family<Counter>& guard_ends =
      AddCounter(r, "quantd_guard_ended_connections_total",
                 "Connections that were ended for what their peers did, by reason");
  Family<Counter>& tensors =
      AddCounter(r, "quantd_tensors_total", "Tensors that ended, by scheme and outcome");
  Family<prometheus::Histogram>& tensor_duration =
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

// What is read whenever somebody asks, each a family.
class ReadNow {
 public:
  explicit ReadNow(std::vector<prometheus::MetricFamily>& families) : families_(families) {}
  void Gauge(const char* name, const char* help, double value) {
    Add(name, help, prometheus::MetricType::Gauge).emplace_back().gauge.value = value;
  }
  void Counter(const char* name, const char* help, double value) {
    Add(name, help, prometheus::MetricType::Counter).emplace_back().counter.value = value;
  }
  std::vector<prometheus::ClientMetric>& Add(const char* name, const char* help,
                                             prometheus::MetricType type) {
    prometheus::MetricFamily& family = families_.emplace_back();
    family.name = name;
    family.help = help;
    family.type = type;
    return family.metric;
  }

 private:
  std::vector<prometheus::MetricFamily>& families_;
};

// The counters, and what is read whenever somebody asks.
class Everything final : public prometheus::Collectable {
 public:
  explicit Everything(ServerFacts facts) : facts_(std::move(facts)) {}
  Registry& registry() { return registry_; }
  std::vector<prometheus::MetricFamily> Collect() const override {
    std::vector<prometheus::MetricFamily> families = registry_.Collect();
    ReadNow now(families);
    const auto count = [](const std::function<int64_t()>& function) {
      return static_cast<double>(function());
    };
    now.Gauge("quantd_memory_reserved_bytes", "Bytes of the memory budget in use",
              count(facts_.memory_reserved_bytes));
    now.Gauge("quantd_memory_bound_bytes",
              "What the process should hold at most: its budget, and what is beside that with so "
              "many connections",
              count(facts_.memory_bound_bytes));
    now.Gauge("quantd_waiting_calls", "Calls that wait for memory", count(facts_.waiting_calls));
    now.Gauge("quantd_open_connections", "Connections that are open",
              count(facts_.open_connections));
    now.Counter("quantd_refused_connections_total", "Connections closed as they came",
                count(facts_.refused_connections));
    now.Counter("quantd_displaced_connections_total",
                "Connections without a call that was let in, closed for newcomers",
                count(facts_.displaced_connections));
    if (facts_.certificate_expiry != nullptr) {
      now.Gauge("quantd_certificate_expiry_time_seconds",
                "When the first certificate of the chain in use expires, in UNIX time",
                absl::ToDoubleSeconds(facts_.certificate_expiry() - absl::UnixEpoch()));
    }
    AddFailedLogins(now);
    AddProcess(now);
    return families;
  }

 private:
  void AddFailedLogins(ReadNow& now) const {
    auto& logins = now.Add("quantd_failed_logins_total", "Peers that were not let in, by what for",
                           prometheus::MetricType::Counter);
    for (const FailedLogins::Kind kind : FailedLogins::kKinds) {
      prometheus::ClientMetric& login = logins.emplace_back();
      login.label = {{"kind", std::string(FailedLogins::NameOf(kind))}};
      login.counter.value = static_cast<double>(facts_.failed_logins(kind));
    }
  }
  static void AddProcess(ReadNow& now) {
    const ProcessStatus status = ReadProcessStatus();
    now.Gauge("process_resident_memory_bytes", "Memory of the process that is in RAM",
              static_cast<double>(status.resident_bytes));
    now.Gauge("process_open_fds", "Open descriptors",
              static_cast<double>(status.open_descriptors));
    now.Gauge("process_max_fds", "Descriptors that may be open",
              static_cast<double>(status.max_descriptors));
  }

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
        memory_wait(families.memory_wait.Add({{"rpc", rpc}}, Buckets(kDurationBuckets))) {
    for (int code = 1; code <= kMaxStatusCode; ++code) {
      families.requests.Add({{"rpc", rpc}, {"code", CodeName(code)}});
    }
  }

  Families& families;
  const std::string rpc;
  Counter& ok;
  Counter& received;
  Counter& sent;
  Gauge& active;
  prometheus::Histogram& duration;
  prometheus::Histogram& queue_wait;
  prometheus::Histogram& memory_wait;
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
    AddGauge(registry, "quantd_machine_memory_bytes", "What the machine or the cgroup has")
        .Add({})
        .Set(static_cast<double>(facts.machine_memory_bytes));
    const auto* service = v1::QuantizeRequest::descriptor()->file()->service(0);
    for (int i = 0; i < service->method_count(); ++i) {
      const std::string& name = service->method(i)->name();
      rpc_impls.push_back(std::make_unique<RpcMetrics::Impl>(families, name));
      rpcs[name].impl_ = rpc_impls.back().get();
      if (service->method(i)->input_type()->FindFieldByName("start") != nullptr) AddTensors(name);
    }
    for (const Scheme* const scheme : AllSchemes()) {
      const prometheus::Labels label = {{"scheme", std::string(scheme->info.name)}};
      for (auto* const family : {&families.stripes, &families.clipped, &families.non_finite}) {
        family->Add(label);
      }
    }
    for (const char* const reason : kRefusalReasons) families.refusals.Add({{"reason", reason}});
  }

  // Has the counters of an RPC's tensors be there before the first one. Not their durations: most
  // of the histograms stay empty, and how many there are the outcome "ok" says.
  void AddTensors(const std::string& rpc) {
    std::vector<std::string> names = {kNoScheme};
    for (const Scheme* const scheme : AllSchemes()) names.emplace_back(scheme->info.name);
    for (const std::string& scheme : names) {
      for (const TensorOutcome::Result result :
           {TensorOutcome::Result::kOk, TensorOutcome::Result::kFailed,
            TensorOutcome::Result::kCancelled}) {
        families.tensors.Add({{"rpc", rpc}, {"scheme", scheme}, {"outcome", NameOf(result)}});
      }
      if (scheme == kNoScheme) continue;
      families.tensor_input.Add({{"rpc", rpc}, {"scheme", scheme}});
      families.tensor_output.Add({{"rpc", rpc}, {"scheme", scheme}});
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
  const std::string scheme(outcome.scheme.empty() ? kNoScheme : outcome.scheme);
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
