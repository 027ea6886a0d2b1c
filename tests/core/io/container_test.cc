#include "core/io/container.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/io/npy.h"
#include "core/io/npy_header.h"
#include "tests/core/io/io_test_util.h"

namespace quantd {
namespace {

using io_test::AsBytes;
using io_test::Desc;
using io_test::ExpectError;
using io_test::Npy;
using io_test::PutFile;
using io_test::Safetensors;
using io_test::ValuesOf;
using testing::TempDir;

using Code = absl::StatusCode;

const std::string kSmallNpy =
    Npy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1), }\n", "abcdefgh");
const std::string kSmallSafetensors =
    Safetensors(R"({"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                R"("b":{"dtype":"I8","shape":[3],"data_offsets":[8,11]}} )",
                "abcdefghijk");

OpenOptions RawOptions(DType dtype, std::vector<int64_t> dims) {
  OpenOptions options;
  options.dtype = dtype;
  options.shape = Shape::Make(std::move(dims)).value();
  return options;
}

TEST(ContainerTest, RowsAreFoundByNameAndExtension) {
  ASSERT_EQ(AllContainers().size(), 3u);
  for (const Container* row : AllContainers()) {
    const absl::StatusOr<const Container*> found = FindContainer(row->name);
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(*found, row);
    EXPECT_FALSE(row->summary.empty());
    for (const absl::string_view extension : row->extensions) {
      EXPECT_EQ(DetectContainer(absl::StrCat("/a.b/x", extension), {}).value(), row);
    }
  }
  ExpectError(FindContainer("gguf").status(), Code::kNotFound,
              {"\"gguf\"", "safetensors, npy, raw"});
}

TEST(ContainerTest, IsDetectedByContentWhereTheNameSaysNothing) {
  const auto name_of = [](const std::string& file) {
    return DetectContainer("/a/model", AsBytes(file).first(16)).value()->name;
  };
  EXPECT_EQ(name_of(kSmallNpy), "npy");
  EXPECT_EQ(name_of(kSmallSafetensors), "safetensors");
  ExpectError(DetectContainer("/a/model.pt", AsBytes("PK\x03\x04 and so on")).status(),
              Code::kInvalidArgument, {"/a/model.pt", "safetensors, npy, raw", "dtype"});
  EXPECT_FALSE(DetectContainer("/a/model", {}).ok());
}

TEST(TensorFileTest, OpensEachContainerAndNamesTheTensorAfterTheFile) {
  const TempDir dir;
  PutFile(dir / "layer.w.npy", kSmallNpy);
  PutFile(dir / "plain", kSmallSafetensors);
  PutFile(dir / "x.f32", "abcdefgh");
  PutFile(dir / "y.bin", "");

  absl::StatusOr<TensorFile> file = TensorFile::Open(dir / "layer.w.npy", {});
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->tensors()[0].desc, Desc("layer.w", DType::kF32, {2, 1}));
  EXPECT_EQ(ValuesOf(*file, 0), "abcdefgh");

  file = TensorFile::Open(dir / "plain", {});
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(ValuesOf(*file, 0), "abcdefgh");
  EXPECT_EQ(ValuesOf(*file, 1), "ijk");
  EXPECT_EQ(file->metadata(), (Metadata{{"k", "v"}}));

  file = TensorFile::Open(dir / "x.f32", RawOptions(DType::kF16, {2, 2}));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->container().name, "raw");
  EXPECT_EQ(file->tensors()[0].desc, Desc("x", DType::kF16, {2, 2}));
  EXPECT_EQ(ValuesOf(*file, 0), "abcdefgh");

  file = TensorFile::Open(dir / "y.bin", RawOptions(DType::kF16, {2, 0}));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE(ValuesOf(*file, 0).empty());
}

TEST(TensorFileTest, NamesThePathInErrors) {
  const TempDir dir;
  PutFile(dir / "x.npy", "no array");
  PutFile(dir / "x.bin", "12345");
  PutFile(dir / "x", "12345");
  PutFile(dir / "empty.safetensors", "");
  ExpectError(TensorFile::Open(dir / "x.npy", {}).status(), Code::kInvalidArgument,
              {dir / "x.npy", "NUMPY"});
  ExpectError(TensorFile::Open(dir / "empty.safetensors", {}).status(), Code::kDataLoss,
              {dir / "empty.safetensors", "0 bytes"});
  ExpectError(TensorFile::Open(dir / "none.npy", {}).status(), Code::kNotFound, {dir / "none.npy"});
  ExpectError(TensorFile::Open(dir / "x", {}).status(), Code::kInvalidArgument, {dir / "x"});
  ExpectError(TensorFile::Open(dir / "x.bin", {}).status(), Code::kInvalidArgument,
              {dir / "x.bin", "dtype and a shape"});
  ExpectError(TensorFile::Open(dir / "x.bin", RawOptions(DType::kF32, {2})).status(),
              Code::kDataLoss, {"5 bytes", "needs 8"});
  ExpectError(TensorFile::Open(dir / "x.bin", RawOptions(DType::kF32, {1})).status(),
              Code::kInvalidArgument, {"5 bytes", "needs 4"});
  ExpectError(TensorFile::Open(dir / "x.bin", RawOptions(DType::kF64, {INT64_MAX})).status(),
              Code::kInvalidArgument, {"2^63 - 1 bytes"});
  OpenOptions unknown;
  unknown.container = "onnx";
  ExpectError(TensorFile::Open(dir / "x.bin", unknown).status(), Code::kNotFound, {"\"onnx\""});
}

TEST(TensorFileTest, RefusesADirectoryWhoseIndexLies) {
  const TempDir dir;
  ExpectError(TensorFile::Open(dir.path(), {}).status(), Code::kNotFound, {dir / kNpyIndexFile});
  PutFile(dir / kNpyIndexFile, R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})");
  ExpectError(TensorFile::Open(dir.path(), {}).status(), Code::kNotFound, {dir / "a.npy"});
  PutFile(dir / "a.npy", kSmallNpy);
  ExpectError(TensorFile::Open(dir.path(), {}).status(), Code::kInvalidArgument,
              {dir / "a.npy", "[2, 1]", "[2]"});
  PutFile(dir / kNpyIndexFile, R"({"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}})");
  ExpectError(TensorFile::Open(dir.path(), {}).status(), Code::kInvalidArgument,
              {dir / "a.npy", "int64", "<f4"});
  PutFile(dir / kNpyIndexFile, "[]");
  ExpectError(TensorFile::Open(dir.path(), {}).status(), Code::kInvalidArgument,
              {dir / kNpyIndexFile});
  ExpectError(TensorFile::Open(dir.path(), RawOptions(DType::kF32, {2})).status(),
              Code::kInvalidArgument, {dir.path(), "is a directory"});
}

// Expects what ContainerIndex promises.
void ExpectConsistent(const ContainerIndex& index, size_t file_bytes) {
  std::vector<std::pair<int64_t, int64_t>> ranges;
  std::vector<std::string> names;
  for (const TensorEntry& entry : index.tensors) {
    EXPECT_GE(entry.offset_bytes, 0);
    EXPECT_GE(entry.size_bytes, 0);
    EXPECT_LE(entry.size_bytes, static_cast<int64_t>(file_bytes) - entry.offset_bytes);
    EXPECT_EQ(SizeBytes(entry).value_or(-1), entry.size_bytes);
    ranges.emplace_back(entry.offset_bytes, entry.offset_bytes + entry.size_bytes);
    names.push_back(entry.desc.name);
  }
  for (size_t i = 1; i < ranges.size(); ++i) EXPECT_LE(ranges[i - 1].second, ranges[i].first);
  std::sort(names.begin(), names.end());
  EXPECT_EQ(std::adjacent_find(names.begin(), names.end()), names.end());
}

TEST(ContainerDamageTest, DamagedFilesGiveAnErrorOrAConsistentIndex) {
  const std::string seeds[] = {kSmallNpy, kSmallSafetensors};
  for (const Container* row : AllContainers()) {
    const auto read = [row](absl::string_view file) {
      const OpenOptions options =
          row->matches == nullptr ? RawOptions(DType::kF32, {2}) : OpenOptions();
      // A copy of the exact size, so that a sanitizer sees any read past the end.
      const std::vector<std::byte> copy(AsBytes(file).begin(), AsBytes(file).end());
      const absl::StatusOr<ContainerIndex> index =
          row->read_index(MemoryBytes(copy), "stem", options);
      if (index.ok()) ExpectConsistent(*index, copy.size());
      return index.ok();
    };
    for (const std::string& seed : seeds) {
      const bool own = read(seed);
      for (size_t length = 0; length < seed.size(); ++length) {
        const bool accepted = read(seed.substr(0, length));
        EXPECT_FALSE(own && accepted) << row->name << " cut to " << length;
      }
      for (size_t i = 0; i < seed.size(); ++i) {
        for (int value = 0; value < 256; ++value) {
          std::string damaged = seed;
          damaged[i] = static_cast<char>(value);
          read(damaged);
        }
        read(absl::StrCat(seed.substr(0, i), seed.substr(i + 1)));  // a byte lost
        read(absl::StrCat(seed.substr(0, i), seed.substr(i / 2)));  // a part twice
      }
    }
  }
}

}  // namespace
}  // namespace quantd
