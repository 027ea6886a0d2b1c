#include "client/model_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/support/temp_dir.h"

namespace quantd {
namespace {

using ::testing::HasSubstr;

std::span<const std::byte> BytesOf(const std::vector<float>& values) {
  return std::as_bytes(std::span(values));
}

std::vector<float> ReadAll(ByteSource& source) {
  std::vector<float> values(static_cast<size_t>(source.size_bytes()) / sizeof(float));
  const std::span<std::byte> bytes = std::as_writable_bytes(std::span(values));
  for (size_t at = 0; at < bytes.size();) {
    const absl::StatusOr<size_t> count = source.Read(bytes.subspan(at));
    EXPECT_TRUE(count.ok()) << count.status();
    if (!count.ok() || *count == 0) break;
    at += *count;
  }
  return values;
}

std::vector<StoredTensor> TwoTensors() {
  return {TensorDesc{"a", DType::kF32, *Shape::Make({2, 2})},
          TensorDesc{"b", DType::kF32, *Shape::Make({3})}};
}

const std::vector<float> kA = {1, 2, 3, 4}, kB = {5, 6, 7};

class ModelFileTest : public ::testing::TestWithParam<const char*> {
 protected:
  absl::StatusOr<ModelWriter> Create(const Metadata& metadata = {}) const {
    return ModelWriter::Create(path_, TwoTensors(), metadata, GetParam());
  }

  const testing::TempDir dir_;
  // A folder, for npy.
  const std::string path_ = dir_ / (GetParam() == std::string("npy") ? "folder" : "m.safetensors");
};

TEST_P(ModelFileTest, IsReadAsItWasWritten) {
  auto created = Create({{"key", "value"}});
  ASSERT_TRUE(created.ok()) << created.status();
  ModelWriter writer = *std::move(created);
  MemorySource b(BytesOf(kB));
  ASSERT_TRUE(writer.Copy(b, 1).ok());
  std::thread other([&] { EXPECT_TRUE(writer.WriteAt(0, 8, BytesOf(kA).subspan(8)).ok()); });
  EXPECT_TRUE(writer.WriteAt(0, 0, BytesOf(kA).first(8)).ok());
  other.join();
  EXPECT_FALSE(std::filesystem::exists(path_));
  ASSERT_TRUE(writer.Finish({{"key", "value"}}).ok());

  const auto reader = ModelReader::Open(path_);
  ASSERT_TRUE(reader.ok()) << reader.status();
  ASSERT_EQ(reader->size(), 2u);
  EXPECT_EQ(reader->tensor(0), TwoTensors()[0]);
  EXPECT_EQ(reader->size_bytes(1), 12);
  EXPECT_EQ(reader->metadata(), (Metadata{{"key", "value"}}));
  const auto source = reader->MakeSource(0);
  EXPECT_EQ(ReadAll(*source), kA);
  ASSERT_TRUE(source->Rewind().ok());
  EXPECT_EQ(ReadAll(*source), kA);
  EXPECT_EQ(ReadAll(*reader->MakeSource(1)), kB);
  EXPECT_TRUE(reader->CheckUnchanged().ok());
}

TEST_P(ModelFileTest, SinksFillTheTensorsFromTheirPlace) {
  auto writer = Create();
  ASSERT_TRUE(writer.ok()) << writer.status();
  const std::vector<PlaneDesc> planes = {
      {.name = "codes", .dtype = DType::kF32, .shape = *Shape::Make({4}), .size_bytes = 16},
      {.name = "scale", .dtype = DType::kF32, .shape = *Shape::Make({3}), .size_bytes = 12}};
  const auto sink = writer->MakeSink(0);
  ASSERT_TRUE(sink->Begin(planes).ok());
  ASSERT_TRUE(sink->Write(1, 0, BytesOf(kB)).ok());
  ASSERT_TRUE(sink->Restart().ok());
  ASSERT_TRUE(sink->Begin(planes).ok());
  ASSERT_TRUE(sink->Write(0, 0, BytesOf(kA)).ok());
  ASSERT_TRUE(sink->Write(1, 0, BytesOf(kB)).ok());
  ASSERT_TRUE(writer->Finish().ok());
  const auto reader = ModelReader::Open(path_);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ(ReadAll(*reader->MakeSource(0)), kA);
  EXPECT_EQ(ReadAll(*reader->MakeSource(1)), kB);
}

TEST_P(ModelFileTest, PlanesOfOtherSizesAreRefused) {
  auto writer = Create();
  ASSERT_TRUE(writer.ok()) << writer.status();
  const std::vector<PlaneDesc> plane = {{.name = "codes", .size_bytes = 16}};
  const absl::Status size = writer->MakeSink(1)->Begin(plane);
  EXPECT_EQ(size.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(size.message()), HasSubstr("b: the file has 12 bytes for it"));
  EXPECT_THAT(std::string(size.message()), HasSubstr("codes has 16"));
  for (const size_t first : {size_t{2}, size_t{3}, SIZE_MAX}) {
    EXPECT_EQ(writer->MakeSink(first)->Begin(plane).code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(writer->WriteAt(2, 0, BytesOf(kB)).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(writer->WriteAt(1, 4, BytesOf(kB)).code(), absl::StatusCode::kOutOfRange);
  const absl::Status unfinished = writer->Finish();
  EXPECT_EQ(unfinished.code(), absl::StatusCode::kFailedPrecondition) << unfinished;
}

INSTANTIATE_TEST_SUITE_P(Formats, ModelFileTest, ::testing::Values("", "npy"),
                         [](const auto& info) {
                           return std::string(info.index == 0 ? "ByExtension" : "Npy");
                         });

TEST(ModelReaderTest, ErrorsNameThePath) {
  const testing::TempDir dir;
  const auto none = ModelReader::Open(dir / "none.safetensors");
  EXPECT_EQ(none.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(none.status().message()), HasSubstr("none.safetensors"));
}

TEST(ModelWriterTest, RawBytesAreNotWritten) {
  const testing::TempDir dir;
  for (const char* const container : {"raw", "", "nonsense"}) {
    const std::string path = dir / "m.bin";
    EXPECT_FALSE(ModelWriter::Create(path, TwoTensors(), {}, container).ok()) << container;
    EXPECT_FALSE(std::filesystem::exists(path));
  }
}

}  // namespace
}  // namespace quantd
