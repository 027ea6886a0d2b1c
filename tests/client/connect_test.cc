#include "client/connect.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quantd::testing {
namespace {

absl::StatusCode CodeOf(const ConnectOptions& options) {
  return MakeChannel(options).status().code();
}

TEST(Connect, KnowsWhichTargetsAreOfThisMachine) {
  for (const char* target :
       {"unix:/x", "unix:///x", "unix-abstract:x", "127.0.0.1:1", "127.5.5.5:1", "localhost:1",
        "[::1]:1", "dns:///localhost:1", "ipv4:127.0.0.1:1", "ipv6:[::1]:1"}) {
    EXPECT_TRUE(IsLocalTarget(target)) << target;
  }
  for (const char* target :
       {"", "10.0.0.1:1", "127.example.org:1", "localhost.example.org:1", "[::2]:1",
        "ipv4:127.0.0.1:1,10.0.0.1:1", "dns://10.0.0.1/localhost:1", "xds:///localhost:1"}) {
    EXPECT_FALSE(IsLocalTarget(target)) << target;
  }
}

TEST(Connect, RefusesToSendATokenInPlainText) {
  ConnectOptions options{.target = "example.org:7717", .token = "t"};
  EXPECT_EQ(CodeOf(options), absl::StatusCode::kFailedPrecondition);
  options.allow_insecure = true;
  EXPECT_EQ(CodeOf(options), absl::StatusCode::kOk);
  options.allow_insecure = false;
  options.tls = true;
  EXPECT_EQ(CodeOf(options), absl::StatusCode::kOk);
  options = {.target = "127.0.0.1:7717", .token = "t"};
  EXPECT_EQ(CodeOf(options), absl::StatusCode::kOk);
}

TEST(Connect, SaysWhatAnAddressLacks) {
  const std::pair<const char*, const char*> cases[] = {
      {"localhost", "\"localhost\" has no port; use localhost:7717"},
      {"10.0.0.1", "has no port; use 10.0.0.1:7717"},
      {"[::1]", "has no port; use [::1]:7717"},
      {"::1", "without brackets; use [::1]:7717"},
      {"dns:///example.org", "has no port; use example.org:7717"},
      {"dns:example.org", "has no port; use example.org:7717"},
      {"ipv4:10.0.0.1:1,10.0.0.2", "has no port; use 10.0.0.2:7717"},
      {"http://example.org:80/", "is a URL; use example.org:7717"},
      {":7717", "has no host; use localhost:7717"},
      {"localhost:", "has port \"\", which is no number of 1 to 65535; use localhost:7717"},
      {"localhost:77177", "has port \"77177\""},
      {"localhost:0", "has port \"0\""},
      {"localhost:port", "has port \"port\""},
  };
  for (const auto& [target, words] : cases) {
    const absl::Status status = MakeChannel({.target = target}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << target;
    EXPECT_THAT(status.message(), ::testing::HasSubstr(words));
  }
  for (const char* target : {"localhost:1", "[::1]:7717", "dns:///a.example:1", "dns:a.example:1",
                             "dns://8.8.8.8/a.example:1", "ipv4:127.0.0.1:1,127.0.0.2:1",
                             "ipv6:[::1]:1", "unix:/run/x", "unix-abstract:x"}) {
    EXPECT_EQ(CodeOf({.target = target}), absl::StatusCode::kOk) << target;
  }
}

TEST(Connect, RefusesWhatCannotBeSent) {
  EXPECT_EQ(CodeOf({}), absl::StatusCode::kInvalidArgument);
  for (const char* token : {"a b", "a\nb", "\x01", "\xc3\xa9"}) {
    EXPECT_EQ(CodeOf({.target = "unix:/x", .token = token}), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(CodeOf({.target = "x:1", .tls = true, .tls_certificate = "c"}),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CodeOf({.target = "x:1", .tls = true, .tls_key = "k"}),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace quantd::testing
