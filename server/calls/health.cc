// grpc.health.v1, whose messages gRPC's packages have no header of: HealthCheckRequest { string
// service = 1; } and HealthCheckResponse { ServingStatus status = 1; } are the same on the wire as
// the wrappers of a string and of a number.
//
// Entries: MakeHealthCheck, MakeHealthWatch. Tested by tests/server/health_test.cc.
#include "server/calls/health.h"

#include <google/protobuf/wrappers.pb.h>

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "proto/frame_codec.h"
#include "server/calls/methods.h"
#include "server/calls/requests.h"

namespace quantd {

HealthStatus::Status HealthStatus::Of(absl::string_view service) const {
  if (!service.empty() && service != service_) return kServiceUnknown;
  return stopped() ? kNotServing : kServing;
}

bool HealthStatus::stopped() const {
  MutexLock lock(&mutex_);
  return stopped_;
}

void HealthStatus::Stop() {
  std::vector<std::function<void()>> wakers;  // called under no lock: they take locks of their own
  {
    MutexLock lock(&mutex_);
    stopped_ = true;
    for (const auto& [number, wake] : watchers_) wakers.push_back(wake);
  }
  for (const auto& wake : wakers) wake();
}

int64_t HealthStatus::Watch(std::function<void()> wake) {
  MutexLock lock(&mutex_);
  watchers_[++last_number_] = std::move(wake);
  return last_number_;
}

void HealthStatus::Forget(int64_t number) {
  MutexLock lock(&mutex_);
  watchers_.erase(number);
}

namespace {

absl::StatusOr<std::string> ServiceIn(const grpc::ByteBuffer& frame) {
  google::protobuf::StringValue request;
  QUANTD_RETURN_IF_ERROR(ParseRequest(frame, request));
  return request.value();
}

grpc::ByteBuffer ResponseOf(HealthStatus::Status status) {
  google::protobuf::Int32Value response;
  response.set_value(status);
  return SerializeFrame(response);
}

class HealthCheck final : public FrameHandler {
 public:
  HealthCheck(HealthStatus& health, FrameOutbox& outbox) : health_(health), outbox_(outbox) {}
  absl::Status Accept(const grpc::ByteBuffer& frame) override {
    QUANTD_ASSIGN_OR_RETURN(const std::string service, ServiceIn(frame));
    const HealthStatus::Status status = health_.Of(service);
    if (status == HealthStatus::kServiceUnknown) {
      return absl::NotFoundError("this server has no service of that name");
    }
    outbox_.SendLast(ResponseOf(status));
    return absl::OkStatus();
  }
  absl::Status Close() override { return NoRequestError(); }

 private:
  HealthStatus& health_;
  FrameOutbox& outbox_;
};

// Waits for nothing that its peer does, so that it is not idle, however long it takes.
class HealthWatch final : public FrameHandler {
 public:
  HealthWatch(HealthStatus& health, FrameOutbox& outbox) : health_(health), outbox_(outbox) {}
  ~HealthWatch() override {
    if (number_.has_value()) health_.Forget(*number_);
  }
  absl::Status Accept(const grpc::ByteBuffer& frame) override {
    QUANTD_ASSIGN_OR_RETURN(service_, ServiceIn(frame));
    number_ = health_.Watch(outbox_.Waker());
    if (!health_.stopped()) outbox_.Send(ResponseOf(health_.Of(service_)));
    return absl::OkStatus();
  }
  absl::StatusOr<Progress> Work() override {
    if (number_.has_value() && health_.stopped() && !std::exchange(told_, true)) {
      outbox_.SendLast(ResponseOf(health_.Of(service_)));
    }
    return Progress::kIdle;
  }
  absl::Status Close() override { return NoRequestError(); }

 private:
  HealthStatus& health_;
  FrameOutbox& outbox_;
  std::string service_;
  std::optional<int64_t> number_;  // as a watcher; none: nothing was asked yet
  bool told_ = false;              // that it stops
};

}  // namespace

std::unique_ptr<FrameHandler> MakeHealthCheck(CallContext& context, FrameOutbox& outbox,
                                              const CancelToken&) {
  return std::make_unique<HealthCheck>(*context.service.health, outbox);
}

std::unique_ptr<FrameHandler> MakeHealthWatch(CallContext& context, FrameOutbox& outbox,
                                              const CancelToken&) {
  return std::make_unique<HealthWatch>(*context.service.health, outbox);
}

}  // namespace quantd
