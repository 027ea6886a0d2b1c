#include "server/calls/grpc_status.h"

#include <gtest/gtest.h>

#include <string>

#include "core/base/status_detail.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace quantd {
namespace {

TEST(GrpcStatus, SaysWhatWasMetAndWhenToRetry) {
  const absl::Status status = WithRetryAfter(
      WithLimit(absl::ResourceExhaustedError("full"), "memory_bytes", 5), absl::Milliseconds(1500));
  const grpc::Status sent = ToGrpc(status);
  EXPECT_EQ(sent.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(sent.error_message(), "full");
  google::rpc::Status described;
  ASSERT_TRUE(described.ParseFromString(sent.error_details()));
  ASSERT_EQ(described.details_size(), 3);
  google::rpc::ErrorInfo info;
  ASSERT_TRUE(described.details(0).UnpackTo(&info));
  EXPECT_EQ(info.reason(), "LIMIT_EXCEEDED");
  EXPECT_EQ(info.metadata().at("allowed"), "5");
  google::rpc::QuotaFailure quota;
  ASSERT_TRUE(described.details(1).UnpackTo(&quota));
  EXPECT_EQ(quota.violations(0).subject(), "memory_bytes");
  google::rpc::RetryInfo retry;
  ASSERT_TRUE(described.details(2).UnpackTo(&retry));
  EXPECT_EQ(retry.retry_delay().seconds(), 1);
  EXPECT_EQ(retry.retry_delay().nanos(), 500'000'000);
  EXPECT_EQ(ToTensorError(status).details_size(), 3);
}

TEST(GrpcStatus, LeavesOutWhatDoesNotFit) {
  const std::string message(4000, 'x');
  const grpc::Status sent = ToGrpc(WithField(absl::InvalidArgumentError(message), "spec"));
  EXPECT_EQ(sent.error_message(), message);
  EXPECT_EQ(sent.error_details(), "");
}

TEST(GrpcStatus, OkHasNothing) {
  EXPECT_TRUE(ToGrpc(absl::OkStatus()).ok());
  EXPECT_EQ(ToGrpc(absl::OkStatus()).error_details(), "");
}

}  // namespace
}  // namespace quantd
