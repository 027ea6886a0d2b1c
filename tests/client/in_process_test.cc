#include "client/in_process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <span>
#include <string>
#include <utility>
#include <vector>

namespace quantd {
namespace {

using ::testing::HasSubstr;

std::vector<std::byte> CodesBy(const InProcessService& service) {
  const std::vector<float> values = {-1.0f, -0.25f, 0.5f, 1.0f};
  MemorySource source(std::as_bytes(std::span(values)));
  MemorySink sink;
  const Client client = service.MakeClient();
  QuantizeJob job;
  job.tensor = {"t", DType::kF32, *Shape::Make({4})};
  job.spec = *ParseSpec("int8");
  job.source = &source;
  job.sink = &sink;
  const auto info = client.Quantize(std::move(job));
  EXPECT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(client.transport(), Transport::kInProcess);
  return sink.planes().empty() ? std::vector<std::byte>() : sink.planes().front();
}

TEST(InProcessServiceTest, SeveralServeAtOnce) {
  const auto one = InProcessService::Start();
  const auto other = InProcessService::Start({.memory_budget_bytes = 64 << 20, .worker_threads = 1});
  ASSERT_TRUE(one.ok()) << one.status();
  ASSERT_TRUE(other.ok()) << other.status();
  const std::vector<std::byte> codes = CodesBy(**one);
  ASSERT_EQ(codes.size(), 4u);
  EXPECT_EQ(static_cast<int8_t>(codes[1]), -32);
  EXPECT_EQ(CodesBy(**other), codes);
}

TEST(InProcessServiceTest, KeepsToItsMemory) {
  const auto service = InProcessService::Start({.memory_budget_bytes = 64 << 20});
  ASSERT_TRUE(service.ok()) << service.status();
  const auto info = (*service)->MakeClient().GetServerInfo();
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->memory_budget_bytes(), 64 << 20);
}

TEST(InProcessServiceTest, OptionsThatAreNotAllowedAreNamed) {
  const auto small = InProcessService::Start({.memory_budget_bytes = 1});
  EXPECT_EQ(small.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(small.status().message()), HasSubstr("memory budget"));
  const auto threads = InProcessService::Start({.worker_threads = -1});
  EXPECT_EQ(threads.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(threads.status().message()), HasSubstr("threads"));
}

}  // namespace
}  // namespace quantd
