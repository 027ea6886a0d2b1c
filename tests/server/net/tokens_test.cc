#include "server/net/tokens.h"

#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/support/temp_dir.h"

namespace quantd::testing {
namespace {

// SHA-256 of "secret-a" and "secret-b", as `printf secret-a | sha256sum` prints them.
constexpr char kHashA[] = "8766b9cb08e6040b704f1e3ee1e186efccf2635b1d2634d6525333007e6aeae1";
constexpr char kHashB[] = "ff492ef788c89b555e6f738b33d2422f57dbb6656af2402155672c5f123a90af";

void WriteFile(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}

TEST(ParseTokens, ReadsNamesHashesAndLimits) {
  const auto entries =
      ParseTokens(absl::StrCat("# who may call\n\n  alice ", kHashA,
                               "\tstreams=4  in_flight=64MiB\r\nbob.2@x-y_z ", kHashB));
  ASSERT_TRUE(entries.ok()) << entries.status();
  ASSERT_EQ(entries->size(), 2u);
  EXPECT_EQ((*entries)[0].caller.name, "token:alice");
  EXPECT_EQ((*entries)[0].caller.max_streams, 4);
  EXPECT_EQ((*entries)[0].caller.max_in_flight_bytes, int64_t{64} << 20);
  EXPECT_EQ((*entries)[1].caller.name, "token:bob.2@x-y_z");
  EXPECT_EQ((*entries)[1].caller.max_streams, 0);
  EXPECT_EQ((*entries)[1].caller.max_in_flight_bytes, 0);
  EXPECT_TRUE(ParseTokens("")->empty());
}

TEST(ParseTokens, TakesTwoTokensOfOneNameButNotOneTokenTwice) {
  EXPECT_TRUE(ParseTokens(absl::StrCat("a ", kHashA, "\na ", kHashB)).ok());
  EXPECT_FALSE(ParseTokens(absl::StrCat("a ", kHashA, "\nb ", kHashA)).ok());
}

TEST(ParseTokens, NamesTheLineAndShowsNothingOfIt) {
  const std::string good = absl::StrCat("a ", kHashA, "\n");
  for (const std::string& line : {
           std::string("my-secret-token"),                     // no hash
           std::string("name my-secret-token"),                // the token instead of its hash
           absl::StrCat("name ", kHashB, "0"),                 // too long
           absl::StrCat("name ", std::string(64, 'g')),        // no hexadecimal digits
           absl::StrCat("na/me ", kHashB),                     // a name with other characters
           absl::StrCat(std::string(65, 'n'), " ", kHashB),    // a long one
           absl::StrCat("name ", kHashB, " my-secret-token"),  // an unknown limit
           absl::StrCat("name ", kHashB, " streams=0"),
           absl::StrCat("name ", kHashB, " streams=-1"),
           absl::StrCat("name ", kHashB, " streams=+1"),
           absl::StrCat("name ", kHashB, " streams="),
           absl::StrCat("name ", kHashB, " streams=9223372036854775808"),
           absl::StrCat("name ", kHashB, " in_flight=9223372036854775807GiB"),
           absl::StrCat("name ", kHashB, " in_flight=64 MiB"),
           absl::StrCat("name ", kHashB, " in_flight=MiB"),
           std::string("name \0", 6) + kHashB,
           std::string("\xff\xfe name ") + kHashB,
       }) {
    const auto entries = ParseTokens(good + line + "\n" + good);
    ASSERT_FALSE(entries.ok()) << line;
    EXPECT_EQ(entries.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(entries.status().message().substr(0, 8), "line 2: ") << entries.status();
    EXPECT_EQ(entries.status().message().find("secret"), absl::string_view::npos);
    EXPECT_EQ(entries.status().message().find(kHashB), absl::string_view::npos);
  }
}

TEST(TokenTable, FindsTokensAndKeepsThemWhenTheFileBreaks) {
  const TempDir folder;
  const std::string path = folder / "tokens";
  EXPECT_EQ(TokenTable::Load(path).status().code(), absl::StatusCode::kNotFound);
  WriteFile(path, absl::StrCat("alice ", kHashA, "\n"));
  const auto table = TokenTable::Load(path);
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_EQ((*table)->Find("secret-a")->name, "token:alice");
  for (const char* token : {"", "secret-b", "secret-a ", "SECRET-A", kHashA}) {
    EXPECT_FALSE((*table)->Find(token).has_value()) << token;
  }

  WriteFile(path, "alice\n");
  const absl::Status broken = (*table)->Reload();
  EXPECT_NE(broken.message().find("tokens: line 1: "), absl::string_view::npos) << broken;
  EXPECT_TRUE((*table)->Find("secret-a").has_value());

  WriteFile(path, absl::StrCat("bob ", kHashB, "\n"));
  EXPECT_TRUE((*table)->Reload().ok());
  EXPECT_FALSE((*table)->Find("secret-a").has_value());
  EXPECT_EQ((*table)->Find("secret-b")->name, "token:bob");
}

TEST(TokenTable, RefusesWhatIsNoTokenFile) {
  const TempDir folder;
  EXPECT_EQ(TokenTable::Load(folder.path()).status().code(), absl::StatusCode::kInvalidArgument);
  WriteFile(folder / "large", std::string((1 << 20) + 1, '#'));
  EXPECT_EQ(TokenTable::Load(folder / "large").status().code(),
            absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace quantd::testing
