#include "client/byte_source.h"

#include <gtest/gtest.h>
#include <stdio.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <thread>

namespace quantd {
namespace {

std::span<const std::byte> BytesOf(const std::string& text) {
  return std::as_bytes(std::span(text));
}

// Returns all that `source` gives in pieces of at most `max_bytes`, or its error.
absl::StatusOr<std::string> ReadAll(ByteSource& source, int64_t max_bytes) {
  std::string all;
  while (true) {
    absl::StatusOr<SourcePiece> piece = source.Next(max_bytes);
    if (!piece.ok()) return piece.status();
    if (piece->bytes.empty()) return all;
    EXPECT_LE(static_cast<int64_t>(piece->bytes.size()), max_bytes);
    all.append(reinterpret_cast<const char*>(piece->bytes.data()), piece->bytes.size());
  }
}

// A pipe that holds `text`, closed for writing.
class FilledPipe {
 public:
  explicit FilledPipe(const std::string& text) {
    EXPECT_EQ(pipe(fds_), 0);
    EXPECT_EQ(write(fds_[1], text.data(), text.size()), static_cast<ssize_t>(text.size()));
    close(fds_[1]);
  }
  ~FilledPipe() { close(fds_[0]); }
  int fd() const { return fds_[0]; }

 private:
  int fds_[2];
};

TEST(MemorySourceTest, GivesItsBytesInPiecesWithoutCopying) {
  const std::string text = "0123456789";
  MemorySource source(BytesOf(text));
  EXPECT_EQ(source.size_bytes(), 10);
  const absl::StatusOr<SourcePiece> first = source.Next(4);
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(static_cast<const void*>(first->bytes.data()), text.data());
  EXPECT_EQ(ReadAll(source, 4).value(), "456789");
  ASSERT_TRUE(source.Rewind().ok());
  EXPECT_EQ(ReadAll(source, 100).value(), text);
}

TEST(MemorySourceTest, KeepsItsOwnerInItsPieces) {
  auto text = std::make_shared<const std::string>("kept");
  std::weak_ptr<const std::string> watch = text;
  absl::StatusOr<SourcePiece> piece;
  {
    MemorySource source(BytesOf(*text), text);
    text.reset();
    piece = source.Next(4);
  }
  EXPECT_FALSE(watch.expired());
  *piece = SourcePiece();
  EXPECT_TRUE(watch.expired());
}

TEST(FdSourceTest, ReadsAPipeOnce) {
  FilledPipe pipe("abcdefg");
  FdSource source(pipe.fd(), 7, "standard input");
  EXPECT_FALSE(source.can_rewind());
  EXPECT_TRUE(source.Rewind().ok()) << "nothing has been read yet";
  EXPECT_EQ(ReadAll(source, 3).value(), "abcdefg");
  const absl::Status rewound = source.Rewind();
  EXPECT_EQ(rewound.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(rewound.message().find("standard input"), absl::string_view::npos);
}

TEST(FdSourceTest, PutsPartialReadsTogether) {
  int fds[2];
  ASSERT_EQ(pipe(fds), 0);
  std::thread writer([&] {
    for (const char c : std::string("slowly")) EXPECT_EQ(write(fds[1], &c, 1), 1);
    close(fds[1]);
  });
  FdSource source(fds[0], 6, "pipe");
  const absl::StatusOr<SourcePiece> piece = source.Next(100);
  writer.join();
  ASSERT_TRUE(piece.ok());
  EXPECT_EQ(piece->bytes.size(), 6u);
  close(fds[0]);
}

TEST(FdSourceTest, SaysHowFarAShortPipeCame) {
  FilledPipe pipe("abc");
  FdSource source(pipe.fd(), 8, "standard input");
  const absl::Status status = ReadAll(source, 100).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(status.message(), "standard input ended after 3 of 8 bytes");
}

TEST(FdSourceTest, RefusesAPipeThatGoesOn) {
  FilledPipe pipe("abcdefgh!");
  FdSource source(pipe.fd(), 8, "standard input");
  EXPECT_EQ(ReadAll(source, 3).status().code(), absl::StatusCode::kOutOfRange);
}

TEST(FdSourceTest, RewindsAFileToWhereItStood) {
  FILE* const file = tmpfile();
  ASSERT_NE(file, nullptr);
  ASSERT_EQ(write(fileno(file), "skip-data", 9), 9);
  ASSERT_EQ(lseek(fileno(file), 5, SEEK_SET), 5);
  FdSource source(fileno(file), 4, "file");
  EXPECT_TRUE(source.can_rewind());
  EXPECT_EQ(ReadAll(source, 3).value(), "data");
  ASSERT_TRUE(source.Rewind().ok());
  EXPECT_EQ(ReadAll(source, 100).value(), "data");
  fclose(file);
}

}  // namespace
}  // namespace quantd
